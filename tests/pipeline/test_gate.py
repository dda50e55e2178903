"""What is not close to the reference is not published."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from m2d_export import Bundle, Encoder, pipeline
from m2d_export.errors import ParityError, SpecError
from m2d_export.gate.parity import compare
from m2d_export.gate.reference import PROBES
from m2d_export.graphs import export as graphs
from m2d_export.plan import Plan
from m2d_export.precisions import PRECISIONS
from m2d_export.spec import Precision
from m2d_export.text.batches import Batch
from tests.pipeline.forge import staging, tree

pytestmark = pytest.mark.slow


def corrupted(change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., ir.Model]:
    """``graphs.cut_graph``, but ``change`` is made to one weight of layer 2."""
    cut_as_it_is = graphs.cut_graph

    def cut(model: ir.Model, layer: int, *arguments: Any) -> ir.Model:
        graph = cut_as_it_is(model, layer, *arguments)
        if layer == 2:
            weight = next(value for value in graph.graph.initializers.values() if value.const_value.nbytes > 4096)
            weight.const_value = ir.tensor(change(weight.const_value.numpy().copy()), name=weight.name)
        return graph

    return cut


CORRUPTIONS = {
    "scaled": (lambda weight: weight * np.float32(1.1), "cosine to the reference"),
    "NaN": (lambda weight: weight * np.float32("nan"), "the graph or the reference gives NaN"),
}


@pytest.mark.parametrize(("change", "reason"), CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_one_exit_that_fails_parity_keeps_the_bundle_from_being_published(
    plan: Callable[..., Plan],
    old: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[np.ndarray], np.ndarray],
    reason: str,
) -> None:
    monkeypatch.setattr(graphs, "cut_graph", corrupted(change))
    before = tree(old)
    for planned in (plan(layers=[1, 2, 3]), plan(target=old, layers=[1, 2], force=True)):
        with pytest.raises(ParityError, match=f"layer 2, fp32: {reason}") as caught:
            pipeline.build_planned(planned)
        assert "layer 1" not in str(caught.value)
        assert "layer 3" not in str(caught.value)
    assert tree(old) == before
    assert {path.name for path in old.parent.iterdir()} == {old.name, f".m2d-kept-{old.name}", ".m2d-kept-new.m2d"}


class Returns:
    """A runtime that gives what ``vectors`` says, whatever it is asked."""

    name = provider = "stub"

    def __init__(self, vector: np.ndarray) -> None:
        self._vector = vector

    def vectors(self, batch: Batch) -> np.ndarray:
        return np.tile(self._vector, (len(batch.rows), 1))


@pytest.mark.parametrize(
    ("vector", "failure"),
    [
        (np.linspace(-1, 1, 64, dtype=np.float32), "output is constant"),
        (np.full(64, np.nan, dtype=np.float32), "NaN or infinity"),
        (np.full(64, np.inf, dtype=np.float32), "NaN or infinity"),
        (np.zeros(64, dtype=np.float32), "cosine to the reference is 0"),
    ],
    ids=["constant", "NaN", "infinite", "zero"],
)
def test_a_degenerate_output_fails_parity_even_where_the_reference_has_it_too(
    bundle: Bundle, vector: np.ndarray, failure: str
) -> None:
    tokens = bundle.tokenizer.encode(PROBES)
    reference = np.tile(vector, (len(tokens), 1))
    found = compare(Returns(vector), reference, bundle.tokenizer, tokens, dims=[64, 32])
    assert any(failure in problem for problem in found.failures(PRECISIONS[Precision.FP32].bounds))


def test_a_partial_build_publishes_what_passes_and_names_what_does_not(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "cut_graph", corrupted(CORRUPTIONS["scaled"][0]))
    with pytest.raises(ParityError, match="--partial"):
        pipeline.build_planned(plan(layers=[1, 2, 3]))
    planned = plan(layers=[1, 2, 3], partial=True)
    with pytest.raises(ParityError, match=r"published without .*layer 2, fp32: cosine") as caught:
        pipeline.build_planned(planned)
    assert caught.value.exit_code == 1
    found = Bundle.open(planned.target)
    assert (found.grid.layers, found.problems()) == ((1, 3), [])
    assert not [name for name in found.manifest.files if "layer-02" in name]
    with Encoder(found, 3) as encoder:
        assert np.isfinite(encoder.encode(["a cat"])).all()


def test_a_partial_build_without_its_deepest_exit_has_no_weights_of_it(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "cut_graph", corrupted(CORRUPTIONS["scaled"][0]))
    planned = plan(layers=[1, 2], partial=True)
    with pytest.raises(ParityError, match="published without"):
        pipeline.build_planned(planned)
    found = Bundle.open(planned.target)
    assert found.problems() == []
    alone = pipeline.build_planned(plan(target=planned.target.with_name("alone.m2d"), layers=[1]))
    assert found.manifest.files == alone.manifest.files


def test_a_partial_build_publishes_nothing_if_every_graph_fails(
    plan: Callable[..., Plan], old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "cut_graph", corrupted(CORRUPTIONS["scaled"][0]))
    before = tree(old)
    with pytest.raises(ParityError, match="nothing is published") as caught:
        pipeline.build_planned(plan(target=old, layers=[2], force=True, partial=True))
    assert "--partial" not in str(caught.value)
    assert tree(old) == before
    assert staging(old) == []


def test_a_partial_build_says_what_the_bundle_that_it_replaced_had(
    plan: Callable[..., Plan], old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "cut_graph", corrupted(CORRUPTIONS["scaled"][0]))
    with pytest.raises(ParityError, match=r"replaced had layer 2 in fp32$"):
        pipeline.build_planned(plan(target=old, layers=[1, 2, 3], force=True, partial=True))
    assert Bundle.open(old).grid.layers == (1, 3)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_partial_build_without_a_precision_has_no_file_of_it(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    row = PRECISIONS[Precision(precision)]
    monkeypatch.setitem(PRECISIONS, Precision(precision), replace(row, bounds=replace(row.bounds, cosine_min=1.1)))
    planned = plan(layers=[1], precisions=["fp32", precision], partial=True)
    with pytest.raises(ParityError, match=f"layer 1, {precision}: cosine"):
        pipeline.build_planned(planned)
    found = Bundle.open(planned.target)
    assert {entry.precision for entry in found.manifest.variants} == {"fp32"}
    assert not [name for name in found.manifest.files if precision in name]
    assert found.manifest.calibration is None
    with pytest.raises(SpecError, match=f"layer 1 in fp32, not in {precision}"):
        Encoder(found, 1, precision=precision)
