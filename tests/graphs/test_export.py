"""Every architecture is exported and cut, and each exit is compared with the reference."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from m2d_export import Bundle, Encoder
from m2d_export.graphs.passes.fuse_attention import fuse_attention
from m2d_export.precisions import PRECISIONS
from m2d_export.runtimes.onnxrt import session_options
from m2d_export.runtimes.table import open_runtime
from m2d_export.spec import INPUTS, OUTPUT, Precision
from m2d_export.text.batches import batches
from tests.graphs.architectures import EACH_ARCHITECTURE
from tests.support.checkpoints import LAYERS, WIDTH
from tests.support.graph_files import in_memory, kinds, vectors

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=EACH_ARCHITECTURE)
def built(request: pytest.FixtureRequest, architecture_of: Callable[[str], tuple[Path, Bundle]]) -> Bundle:
    return architecture_of(request.param)[1]


def test_every_exit_of_every_architecture_has_parity(built: Bundle) -> None:
    bounds = PRECISIONS[Precision.FP32].bounds
    entries = [entry for entry in built.manifest.variants if entry.precision == "fp32"]
    assert [entry.layer for entry in entries] == [1, 2, 3]
    for entry in entries:
        assert entry.parity["cosine_min"] >= bounds.cosine_min
        assert entry.parity["invariance"] <= bounds.invariance


def test_graphs_have_named_axes_and_one_output(built: Bundle) -> None:
    for layer in built.grid.layers:
        session = ort.InferenceSession(built.variant(layer).path, providers=["CPUExecutionProvider"])
        inputs = [(value.name, value.type, value.shape) for value in session.get_inputs()]
        assert inputs == [(name, "tensor(int64)", ["batch", "tokens"]) for name in INPUTS[:2]]
        outputs = [(value.name, value.type, value.shape) for value in session.get_outputs()]
        assert outputs == [(OUTPUT, "tensor(float)", ["batch", WIDTH])]


def test_onnx_runtime_fuses_every_gelu_and_no_layer_norm(built: Bundle, tmp_path: Path) -> None:
    """A GELU that is halved before its last multiplication is not fused; a layer norm fused with an Add is slower."""
    options = session_options(1)
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "as_run.onnx"), 3
    ort.InferenceSession(built.variant(LAYERS).path, options, providers=["CPUExecutionProvider"])
    found = kinds(ir.serde.deserialize_model(onnx.load(tmp_path / "as_run.onnx", load_external_data=False)))
    uses_tanh = built.manifest.architecture == "AlbertModel"
    assert found["Erf"] == 0
    assert found["Gelu"] + found["BiasGelu"] == (0 if uses_tanh else LAYERS)
    assert found["LayerNormalization"] > 2
    assert found["SkipLayerNormalization"] == 0


def test_nothing_is_looked_up_by_indices_that_no_token_changes(built: Bundle) -> None:
    """transformers looks up its padding mask number by number, and token types that are all equal."""
    left = {  # ModernBERT, MPNet and DeBERTa compute distances between tokens, and DeBERTa looks up scores by them
        "ModernBertModel": {"Range"},
        "MPNetModel": {"Range", "Expand"},
        "DebertaV2Model": {"Range", "Expand", "GatherElements"},
    }.get(built.manifest.architecture, set())
    found = kinds(in_memory(built))
    assert {kind for kind in ("GatherND", "GatherElements", "Expand", "Range") if found[kind]} == left
    if not left:  # positions of RoBERTa depend on the padding
        assert found["Gather"] == (2 if "Roberta" in built.manifest.architecture else 1)


def test_fused_attention_gives_the_same_vectors(built: Bundle) -> None:
    written_out, fused = in_memory(built), in_memory(built)
    # These add more to their scores than a mask, or rotate the inputs of the attention.
    others = ("MPNetModel", "ModernBertModel", "DebertaV2Model")
    assert fuse_attention(fused) is (built.manifest.architecture not in others)
    if built.manifest.architecture not in others:
        found = kinds(fused)
        assert [found[kind] for kind in ("Attention", "Softmax", "Transpose", "Reshape")] == [LAYERS, 0, 0, 0]
        for one, other in zip(vectors(fused), vectors(written_out), strict=True):
            np.testing.assert_allclose(one, other, atol=2e-6)


def test_the_pytorch_runtime_cut_to_an_exit_gives_the_same_vectors(built: Bundle) -> None:
    tokens = built.tokenizer.encode(["A man is playing a guitar.", "no", "The cat sat on the mat. " * 9])
    for layer in built.grid.layers:
        variant = built.variant(layer)
        with open_runtime("onnxrt", variant) as graph, open_runtime("pytorch", variant) as torch_runtime:
            for batch in batches(tokens, built.manifest.text):
                np.testing.assert_allclose(graph.vectors(batch), torch_runtime.vectors(batch), atol=2e-5)


def test_exits_differ(built: Bundle) -> None:
    exits = []
    for layer in built.grid.layers:
        with Encoder(built, layer) as encoder:
            exits.append(encoder.encode(["The cat sat on the mat."])[0])
    assert np.abs(exits[0] - exits[1]).max() > 1e-3
    assert np.abs(exits[1] - exits[2]).max() > 1e-3
