"""fp16 and bf16: half where it is safe, and judged with the rounding of a GPU, which a CPU does not have."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from m2d_export import Bundle, Encoder, build
from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.errors import ParityError
from m2d_export.gate.half import RoundedRuntime
from m2d_export.gate.reference import shape_batches
from m2d_export.graphs.half import matmuls
from m2d_export.precisions import PRECISIONS
from m2d_export.spec import Precision, TextSpec
from m2d_export.text.batches import pad
from m2d_export.text.tokenizer import TokenIds
from m2d_export.vectors import cosine
from tests.graphs.architectures import EACH_ARCHITECTURE
from tests.support.checkpoints import save_checkpoint
from tests.support.half_in_torch import ALIKE, in_half

pytestmark = pytest.mark.slow

HALVES = [precision for precision, row in PRECISIONS.items() if row.largest is not None]
TOKENS = [TokenIds([3, 40, 41, 4]), TokenIds([3, *range(60, 100), 4]), TokenIds([3, 43, 44, 45, 46, 4])]


def loaded(bundle: Bundle, layer: int, precision: str) -> ir.Model:
    return ir.load(bundle.variant(layer, precision).path)


def types(model: ir.Model) -> dict[str, set[str]]:
    """The types of the results of each operator."""
    found = defaultdict(set)
    for node in model.graph:
        found[node.op_type].add(node.outputs[0].dtype.name)
    return found


def scaled(folder: Path, factor: float) -> Path:
    """A tiny BERT whose second layer has large weights, and which is sound in float32."""
    from safetensors.torch import load_file, save_file

    checkpoint = save_checkpoint(folder / "scaled", "bert")
    (file,) = checkpoint.rglob("model.safetensors")
    weights = load_file(file)
    (name,) = [name for name in weights if name.endswith("encoder.layer.1.intermediate.dense.weight")]
    weights[name] *= factor
    save_file(weights, file, metadata={"format": "pt"})
    return checkpoint


@pytest.mark.parametrize("precision", HALVES)
def test_every_exit_has_metrics_within_bounds_and_a_peak(halves: Bundle, precision: Precision) -> None:
    bounds = PRECISIONS[precision].bounds
    for layer in halves.grid.layers:
        parity, exact = (halves.entry(layer, name).parity for name in (precision, "fp32"))
        assert bounds.cosine_min <= parity["cosine_min"] < exact["cosine_min"]
        assert 0 < parity["peak"] < 1000
        assert "peak" not in exact


def test_tables_with_a_row_added_to_them_are_half_too(architecture_of: Callable[[str], tuple[Path, Bundle]]) -> None:
    """RoBERTa looks up positions in a table to which a token type was added."""
    _, bundle = architecture_of("roberta")
    tables = [node.inputs[0].dtype for node in loaded(bundle, 1, "fp16").graph if node.op_type == "Gather"]
    assert tables == [ir.DataType.FLOAT16] * 2
    with Encoder(bundle, 1, precision="fp16") as encoder:
        assert np.isfinite(encoder.encode(["no", "The cat sat on the mat."])).all()


@pytest.mark.parametrize("precision", HALVES)
def test_matmuls_are_half_and_sensitive_operators_are_float32(halves: Bundle, precision: Precision) -> None:
    for layer in halves.grid.layers:
        model = loaded(halves, layer, precision)
        found = types(model)
        for exact in ("Softmax", "LayerNormalization", "ReduceSum", "Where", "Erf"):
            assert found[exact] == {"FLOAT"}, exact
        heads = (
            {"FLOAT": 1} if layer in {head.layer for head in halves.manifest.heads} else {}
        )  # after the pooling everything is float32
        assert matmuls(model) == {PRECISIONS[precision].onnx: 8 * layer} | heads
        assert model.graph.outputs[0].dtype == ir.DataType.FLOAT


@pytest.mark.parametrize("precision", HALVES)
def test_constants_of_a_half_graph_are_finite(halves: Bundle, precision: Precision) -> None:
    for value in loaded(halves, 3, precision).graph.initializers.values():
        assert np.isfinite(value.const_value.numpy().astype(np.float64)).all(), value.name


def test_half_weights_are_one_file_of_half_the_size(halves: Bundle) -> None:
    sizes = {
        str(entry.precision): halves.manifest.files[entry.weights].size
        for entry in halves.manifest.variants
        if entry.layer == 3
    }
    assert set(sizes) == {"fp32", "fp16", "bf16"}
    assert sizes["fp16"] == sizes["bf16"] <= 0.55 * sizes["fp32"]  # each tensor starts at a new page


@pytest.mark.parametrize("precision", HALVES)
def test_the_gate_computes_what_torch_computes_in_half(halves: Bundle, checkpoint: Path, precision: Precision) -> None:
    spec = TextSpec(48, 1)
    batches = [pad(TOKENS, spec, range(3)), *shape_batches(TOKENS, spec)]
    exits = ExitEncoder(load_checkpoint(str(checkpoint)), halves.grid.layers).eval()
    references = zip(*map(exits.vectors, batches), strict=True)
    by_torch = in_half(checkpoint, precision, batches)
    for layer, halved, exact in zip(halves.grid.layers, by_torch, references, strict=True):
        expected, reference = np.concatenate(halved), np.concatenate(exact)
        with RoundedRuntime(halves.variant(layer, precision)) as runtime:
            found = np.concatenate([runtime.vectors(batch) for batch in batches])
        assert (cosine(found, expected) > ALIKE[precision]).all()
        # Both are about as far from float32.
        assert 0.2 < np.abs(found - reference).mean() / np.abs(expected - reference).mean() < 5


@pytest.mark.parametrize("architecture", EACH_ARCHITECTURE)
def test_every_architecture_computes_in_half_what_torch_does(
    architecture: str, architecture_of: Callable[[str], tuple[Path, Bundle]]
) -> None:
    checkpoint, bundle = architecture_of(architecture)
    batch = pad(TOKENS, bundle.manifest.text, range(3))
    for precision in HALVES:
        expected = in_half(checkpoint, precision, [batch])
        for layer in bundle.grid.layers:
            assert PRECISIONS[precision].onnx in matmuls(loaded(bundle, layer, precision))
            with RoundedRuntime(bundle.variant(layer, precision)) as runtime:
                found = cosine(runtime.vectors(batch), expected[layer - 1][0])
            assert found.min() > ALIKE[precision]


FAR_BEYOND = 1e8


@pytest.mark.parametrize(("factor", "reached"), [(2.4e5, r"reaches \S+e\+05"), (FAR_BEYOND, "reaches (nan|inf)")])
def test_an_overflow_names_the_first_exit_that_has_it_and_the_value_that_overflows(
    tmp_path: Path, factor: float, reached: str
) -> None:
    checkpoint = scaled(tmp_path, factor)
    with pytest.raises(ParityError, match=rf"layer 2, fp16: \S+ {reached}.*65504") as caught:
        build(str(checkpoint), tmp_path / "out.m2d", precisions=["fp16"])
    assert "layer 3, fp16" in str(caught.value)
    assert "layer 1" not in str(caught.value)
    by_torch = in_half(checkpoint, "fp16", [pad(TOKENS, TextSpec(48, 1), range(3))])
    assert [bool(np.isfinite(vectors).all()) for (vectors,) in by_torch] == [True, False, False]
    assert not (tmp_path / "out.m2d").exists()
    if factor == FAR_BEYOND:
        build(str(checkpoint), tmp_path / "bf16.m2d", layers=[2], precisions=["bf16"])


def test_a_finite_value_close_to_the_largest_number_is_refused_too(tmp_path: Path) -> None:
    """Other texts reach further than the probe texts, which reach 33 to 65 thousand here."""
    checkpoint = scaled(tmp_path, 7e4)
    with pytest.raises(ParityError, match=r"layer 2, fp16: \S+ reaches [3-6]\.\d+e\+04") as caught:
        build(str(checkpoint), tmp_path / "out.m2d", layers=[2], precisions=["fp16"])
    assert "NaN" not in str(caught.value)


def test_a_half_graph_outside_its_bounds_is_not_published(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = PRECISIONS[Precision.FP16]
    impossible = replace(row, bounds=replace(row.bounds, cosine_min=1.01))
    monkeypatch.setitem(PRECISIONS, Precision.FP16, impossible)
    with pytest.raises(ParityError, match=r"layer 1, fp16: cosine .*1\.01"):
        build(str(checkpoint), tmp_path / "out.m2d", layers=[1], precisions=["fp16"])
    assert not (tmp_path / "out.m2d").exists()


def test_shape_batches_have_every_shape_full_and_padded() -> None:
    batches = shape_batches([TokenIds(range(2, 30))], TextSpec(max_tokens=48, pad_id=1))
    shapes = [batch.input_ids.shape for batch in batches]
    assert shapes == [(size, tokens) for tokens in (2, 16, 48) for size in (1, 2, 32) for _ in range(2)]
    assert [bool(batch.attention_mask.all()) for batch in batches] == [True, False] * 9
    assert all((batch.input_ids[batch.attention_mask == 1] != 1).all() for batch in batches)
    assert all(batch.attention_mask.any(axis=1).all() for batch in batches)
