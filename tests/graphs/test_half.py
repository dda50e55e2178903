"""fp16 and bf16 variants: typed where it is safe, judged where a CPU would hide what a GPU does."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from m2d_export import Bundle, Encoder, pipeline
from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.errors import ParityError
from m2d_export.gate import parity as gate
from m2d_export.gate.half import RoundedRuntime, grid
from m2d_export.graphs.half import products
from m2d_export.spec import HALVES, Precision, TextSpec
from m2d_export.text.batches import TokenIds, pad
from m2d_export.vectors import cosine
from tests.conftest import ARCHITECTURES, save_checkpoint
from tests.support.half_in_torch import ALIKE, in_half

NAMES = {"fp16": "FLOAT16", "bf16": "BFLOAT16"}
ROWS = [TokenIds([3, 40, 41, 4]), TokenIds([3, *range(60, 100), 4]), TokenIds([3, 43, 44, 45, 46, 4])]


def loaded(bundle: Bundle, layer: int, precision: str) -> ir.Model:
    return ir.load(bundle.variant(layer, precision).path)


def types(model: ir.Model) -> dict[str, set[str]]:
    """The float types that each kind of node gives."""
    found = defaultdict(set)
    for node in model.graph:
        found[node.op_type].add(node.outputs[0].dtype.name)
    return found


def scaled(folder: Path, factor: float) -> Path:
    """A tiny BERT whose second layer multiplies by large weights, and which is sound in float32."""
    from safetensors.torch import load_file, save_file

    checkpoint = save_checkpoint(folder / "scaled", "bert")
    (file,) = checkpoint.rglob("model.safetensors")
    weights = load_file(file)
    (name,) = [name for name in weights if name.endswith("encoder.layer.1.intermediate.dense.weight")]
    weights[name] *= factor
    save_file(weights, file, metadata={"format": "pt"})
    return checkpoint


@pytest.mark.parametrize("precision", HALVES)
def test_every_exit_has_figures_within_bounds_and_says_how_far_it_reaches(halves: Bundle, precision: str) -> None:
    bounds = gate.BOUNDS[Precision(precision)]
    for layer in halves.grid.layers:
        parity = halves.entry(layer, precision).parity
        assert parity["cosine_min"] >= bounds.cosine_min
        assert 0 < parity["peak"] < 1000
        assert "peak" not in halves.entry(layer, "fp32").parity
        assert parity["cosine_min"] < halves.entry(layer, "fp32").parity["cosine_min"]


def test_tables_that_were_added_to_beforehand_are_half_too(tmp_path: Path) -> None:
    """RoBERTa looks its positions up: with a token type added, their table stayed float32, and no runtime took it."""
    checkpoint = save_checkpoint(tmp_path / "checkpoint", "roberta")
    bundle = pipeline.build(pipeline.plan(str(checkpoint), tmp_path / "out.m2d", layers=[1], precisions=["fp16"]))
    model = loaded(bundle, 1, "fp16")
    tables = [node.inputs[0].dtype for node in model.graph if node.op_type == "Gather"]
    assert tables == [ir.DataType.FLOAT16] * 2
    with Encoder(bundle, 1, precision="fp16") as encoder:
        assert np.isfinite(encoder.encode(["no", "The cat sat on the mat."])).all()


@pytest.mark.parametrize("precision", HALVES)
def test_products_are_half_and_what_must_be_exact_is_not(halves: Bundle, precision: str) -> None:
    for layer in halves.grid.layers:
        model = loaded(halves, layer, precision)
        kinds = types(model)
        for exact in ("Softmax", "LayerNormalization", "ReduceSum", "Where", "Erf"):
            assert kinds[exact] == {"FLOAT"}, exact
        heads = 1 if layer == 1 else 0  # behind the pooling, as is all that follows it
        assert products(model) == {NAMES[precision]: 8 * layer} | ({"FLOAT": heads} if heads else {})
        assert model.graph.outputs[0].dtype == ir.DataType.FLOAT


@pytest.mark.parametrize("precision", HALVES)
def test_constants_of_a_half_graph_are_finite(halves: Bundle, precision: str) -> None:
    for value in loaded(halves, 3, precision).graph.initializers.values():
        assert np.isfinite(value.const_value.numpy().astype(np.float64)).all(), value.name


def test_half_weights_lie_in_one_file_of_half_the_size(halves: Bundle) -> None:
    sizes = {
        str(entry.precision): halves.manifest.files[entry.weights].size
        for entry in halves.manifest.variants
        if entry.layer == 3
    }
    assert set(sizes) == {"fp32", "fp16", "bf16"}
    assert sizes["fp16"] == sizes["bf16"] <= 0.55 * sizes["fp32"]  # and pages of their own


@pytest.mark.parametrize("precision", HALVES)
def test_what_the_gate_runs_is_what_torch_computes_in_half(halves: Bundle, checkpoint: Path, precision: str) -> None:
    spec = TextSpec(48, 1)
    batches = [pad(ROWS, spec, range(3)), *grid(ROWS, spec)]
    exits = ExitEncoder(load_checkpoint(str(checkpoint)), halves.grid.layers).eval()
    exact = zip(*map(exits.vectors, batches), strict=True)
    for layer, torch_s, exact_s in zip(halves.grid.layers, in_half(checkpoint, precision, batches), exact, strict=True):
        expected, reference = np.concatenate(torch_s), np.concatenate(exact_s)
        with RoundedRuntime(halves.variant(layer, precision)) as runtime:
            found = np.concatenate([runtime.vectors(batch) for batch in batches])
        assert (cosine(found, expected) > ALIKE[precision]).all()
        # as far off, and no farther
        assert 0.2 < np.abs(found - reference).mean() / np.abs(expected - reference).mean() < 5


@pytest.mark.parametrize(("factor", "said"), [(2.4e5, r"reaches \S+e\+05"), (1e8, "reaches (nan|inf)")])
def test_an_overflow_names_the_first_exit_that_has_it_and_what_overflows(
    tmp_path: Path, factor: float, said: str
) -> None:
    plan = pipeline.plan(str(scaled(tmp_path, factor)), tmp_path / "out.m2d", precisions=["fp16"])
    with pytest.raises(ParityError, match=rf"layer 2, fp16: \S+ {said}, and fp16 ends at 65504: leave") as caught:
        pipeline.build(plan)
    assert "layer 3, fp16" in str(caught.value)
    assert "layer 1" not in str(caught.value)
    torch_s = in_half(tmp_path / "scaled", "fp16", [pad(ROWS, TextSpec(48, 1), range(3))])
    assert [bool(np.isfinite(vectors).all()) for (vectors,) in torch_s] == [True, False, False]
    assert not (tmp_path / "out.m2d").exists()
    pipeline.build(pipeline.plan(str(tmp_path / "scaled"), tmp_path / "bf16.m2d", layers=[2], precisions=["bf16"]))


def test_room_is_left_for_texts_that_reach_further(tmp_path: Path) -> None:
    """Activations of 33 to 65 thousand are finite, and refused."""
    plan = pipeline.plan(str(scaled(tmp_path, 7e4)), tmp_path / "out.m2d", layers=[2], precisions=["fp16"])
    with pytest.raises(ParityError, match=r"layer 2, fp16: \S+ reaches [3-6]\.\d+e\+04, and fp16 ends") as caught:
        pipeline.build(plan)
    assert "NaN" not in str(caught.value)


def test_a_half_variant_that_drifts_is_not_published(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    bounds = replace(gate.BOUNDS[Precision.FP16], cosine_min=1.01)  # which nothing reaches
    monkeypatch.setitem(gate.BOUNDS, Precision.FP16, bounds)
    plan = pipeline.plan(str(checkpoint), tmp_path / "out.m2d", layers=[1], precisions=["fp16"])
    with pytest.raises(ParityError, match="layer 1, fp16: cosine to the reference is"):
        pipeline.build(plan)
    assert not (tmp_path / "out.m2d").exists()


def test_the_grid_has_every_shape_full_and_padded() -> None:
    batches = grid([TokenIds(range(2, 30))], TextSpec(max_tokens=48, pad_id=1))
    shapes = [batch.input_ids.shape for batch in batches]
    assert shapes == [(size, tokens) for tokens in (2, 16, 48) for size in (1, 2, 32) for _ in range(2)]
    assert [bool(batch.attention_mask.all()) for batch in batches] == [True, False] * 9
    assert all((batch.input_ids[batch.attention_mask == 1] != 1).all() for batch in batches)
    assert all(batch.attention_mask.any(axis=1).all() for batch in batches)


def built_in_halves(architecture: str, make: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = make(architecture)
    plan = pipeline.plan(str(checkpoint), tmp_path / "out.m2d", precisions=["fp16", "bf16"])
    bundle = pipeline.build(plan)
    batch = pad(ROWS, bundle.manifest.text, range(3))
    for precision in HALVES:
        expected = in_half(checkpoint, precision, [batch])
        for layer in bundle.grid.layers:
            assert NAMES[precision] in products(loaded(bundle, layer, precision))
            with RoundedRuntime(bundle.variant(layer, precision)) as runtime:
                found = cosine(runtime.vectors(batch), expected[layer - 1][0])
            assert found.min() > ALIKE[precision]


@pytest.mark.parametrize("architecture", ["modernbert", "deberta-v2"])
def test_the_least_alike_architectures_pass_in_half(
    architecture: str, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    built_in_halves(architecture, make_checkpoint, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - {"modernbert", "deberta-v2", "bert"}))
def test_every_other_architecture_passes_in_half(
    architecture: str, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    built_in_halves(architecture, make_checkpoint, tmp_path)
