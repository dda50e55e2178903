"""Every architecture, exported, cut and compared with the reference at every exit."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from m2d_export import pipeline
from m2d_export.bundle.bundle import Bundle
from m2d_export.graphs.passes.fuse_attention import attention_as_one
from m2d_export.runtimes import open_runtime
from m2d_export.runtimes.onnxrt import SETTINGS
from tests.conftest import ARCHITECTURES, LAYERS, WIDTH, save_checkpoint
from tests.support.graph_files import in_memory, vectors


@pytest.fixture(scope="module", params=ARCHITECTURES)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = save_checkpoint(folder / "checkpoint", request.param)
    return pipeline.build(pipeline.plan(str(checkpoint), folder / "bundle.m2d"))


def test_every_exit_of_every_architecture_has_parity(built: Bundle) -> None:
    assert [entry.layer for entry in built.manifest.variants] == [1, 2, 3]
    for entry in built.manifest.variants:
        assert entry.parity["cosine_min"] >= 0.99999
        assert entry.parity["invariance"] <= 1e-5


def test_graphs_have_named_axes_and_one_plain_output(built: Bundle) -> None:
    for layer in built.grid.layers:
        session = ort.InferenceSession(built.variant(layer).path, providers=["CPUExecutionProvider"])
        inputs = [(value.name, value.type, value.shape) for value in session.get_inputs()]
        assert inputs == [(name, "tensor(int64)", ["batch", "tokens"]) for name in ("input_ids", "attention_mask")]
        outputs = [(value.name, value.type, value.shape) for value in session.get_outputs()]
        assert outputs == [("sentence_embedding", "tensor(float)", ["batch", WIDTH])]


def test_onnx_runtime_fuses_every_gelu_and_no_layer_norm(built: Bundle, tmp_path: Path) -> None:
    """Halved before it was multiplied, a GELU stayed five operators; fused with an addition, a layer norm is slower."""
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "as_run.onnx"), 3
    for key, value in SETTINGS.items():
        options.add_session_config_entry(key, value)
    ort.InferenceSession(built.variant(LAYERS).path, options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "as_run.onnx", load_external_data=False).graph.node)
    assert kinds["Erf"] == 0
    assert kinds["Gelu"] + kinds["BiasGelu"] == (
        0 if built.manifest.architecture == "AlbertModel" else LAYERS
    )  # tanh's
    assert kinds["LayerNormalization"] > 2
    assert kinds["SkipLayerNormalization"] == 0


def test_nothing_is_picked_by_indices_that_no_token_changes(built: Bundle) -> None:
    """transformers picks its padding mask number by number, and looks up token types that are all the same."""
    left = {  # ModernBERT, MPNet and DeBERTa count the distance between tokens, and DeBERTa picks scores by it
        "ModernBertModel": {"Range"},
        "MPNetModel": {"Range", "Expand"},
        "DebertaV2Model": {"Range", "Expand", "GatherElements"},
    }.get(built.manifest.architecture, set())
    kinds = Counter(node.op_type for node in onnx.load(built.variant(LAYERS).path, load_external_data=False).graph.node)
    assert {kind for kind in ("GatherND", "GatherElements", "Expand", "Range") if kinds[kind]} == left
    if not left:  # RoBERTa's positions hang on where its padding is
        assert kinds["Gather"] == (2 if "Roberta" in built.manifest.architecture else 1)


def test_attention_as_one_operator_gives_the_same_vectors(built: Bundle) -> None:
    model = in_memory(built)
    before = Counter(node.op_type for node in model.graph)
    joined = attention_as_one(model)
    assert Counter(node.op_type for node in model.graph) == before  # it works on a copy
    # These add more to their scores than a mask, or turn what they multiply.
    others = ("MPNetModel", "ModernBertModel", "DebertaV2Model")
    assert (joined is None) is (built.manifest.architecture in others)
    if joined is not None:
        kinds = Counter(node.op_type for node in joined.graph)
        assert (kinds["Attention"], kinds["Softmax"], kinds["Transpose"], kinds["Reshape"]) == (LAYERS, 0, 0, 0)
        for one, written_out in zip(vectors(joined), vectors(model), strict=True):
            np.testing.assert_allclose(one, written_out, atol=2e-6)


def test_the_pytorch_runtime_cut_to_an_exit_gives_the_same_vectors(built: Bundle) -> None:
    from m2d_export.text.batches import batches

    tokens = built.tokenizer.encode(["A man is playing a guitar.", "no", "The cat sat on the mat. " * 9])
    for layer in built.grid.layers:
        variant = built.variant(layer)
        with open_runtime("onnxrt", variant) as graph, open_runtime("pytorch", variant) as torch_runtime:
            for batch in batches(tokens, built.manifest.text):
                np.testing.assert_allclose(graph.vectors(batch), torch_runtime.vectors(batch), atol=2e-5)


def test_exits_differ(built: Bundle) -> None:
    from m2d_export import Encoder

    vectors = []
    for layer in range(1, LAYERS + 1):
        with Encoder(built, layer) as encoder:
            vectors.append(encoder.encode(["The cat sat on the mat."])[0])
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    assert np.abs(vectors[1] - vectors[2]).max() > 1e-3
    assert Path(built.root / "graphs" / "layer-01.fp32.onnx").is_file()
