"""What is not close to the reference is not published."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from m2d_export import Bundle, pipeline
from m2d_export.errors import ParityError
from m2d_export.gate.parity import compare
from m2d_export.gate.reference import PROBES
from m2d_export.graphs import export as graphs
from m2d_export.plan import Plan
from m2d_export.precisions import PRECISIONS
from m2d_export.spec import Precision
from m2d_export.text.batches import Batch
from tests.pipeline.forge import tree


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
    before = tree(old.parent)
    for planned in (plan(layers=[1, 2, 3]), plan(target=old, layers=[1, 2], force=True)):
        with pytest.raises(ParityError, match=f"layer 2, fp32: {reason}") as caught:
            pipeline.build_planned(planned)
        assert "layer 1" not in str(caught.value)
        assert "layer 3" not in str(caught.value)
    assert tree(old.parent) == before  # neither a new bundle, nor staging, nor a change to the old one


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
