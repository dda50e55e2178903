"""The order of multiplications in a GELU."""

import numpy as np
import pytest

from m2d_export.graphs.passes.reorder_gelu import reorder_gelu
from tests.support.graph_files import data_of, parsed, run

GELU = """
    g (float[n] x) => (float[n] OUTPUT)
    <float root = {1.4142135}, float one = {1}, float half = {HALF}>
    {
      scaled = Div(x, root)
      e = Erf(scaled)
      total = Add(e, one)
      halved = Mul(total, half)
      y = Mul(FACTOR, halved)
    }
"""
X = {"x": np.linspace(-3, 3, 50, dtype=np.float32)}


def gelu(half: str = "0.5", factor: str = "x", output: str = "y") -> str:
    return GELU.replace("HALF", half).replace("FACTOR", factor).replace("OUTPUT", output)


def test_the_half_is_multiplied_last_and_the_result_is_the_same() -> None:
    model = parsed(gelu())
    before = run(model, X)
    assert reorder_gelu(model)
    inner, outer = (node for node in model.graph if node.op_type == "Mul")
    assert [value.name for value in inner.inputs] == ["x", "total"]
    assert [value.name for value in outer.inputs] == ["halved", "half"]
    np.testing.assert_array_equal(run(model, X), before)
    assert not reorder_gelu(model)


@pytest.mark.parametrize(
    "change",
    [{"half": "0.25"}, {"factor": "total"}, {"output": "halved"}],
    ids=["another factor", "not multiplied by the input", "its inner value is an output"],
)
def test_anything_else_stays(change: dict[str, str]) -> None:
    model = parsed(gelu(**change))
    before = data_of(model)
    assert not reorder_gelu(model)
    assert data_of(model) == before
