"""Only the rows of a quantized table that are looked up are dequantized."""

import numpy as np
import pytest

from m2d_export.graphs.passes.dequantize_after_gather import dequantize_after_gather
from tests.support.graph_files import data_of, kinds, parsed, run

LOOKUP = """
    g (int64[batch, tokens] ids) => (float[batch, tokens, 2] y)
    <int8[3, 2] stored = {1, -2, 3, -4, 5, -6}, float[SCALES] scales = {VALUES}, int8[SCALES] zeros = {ZEROS}>
    {
      table = DequantizeLinear<axis = AXIS>(stored, scales, zeros)
      y = Gather(table, ids)
    }
"""
IDS = {"ids": np.array([[2, 0, 2], [1, 1, 0]])}


def lookup(scales: str = "3", values: str = "0.5, 2, 4", zeros: str = "0, 0, 0", axis: str = "0") -> str:
    text = LOOKUP.replace("SCALES", scales).replace("VALUES", values).replace("ZEROS", zeros)
    return text.replace("AXIS", axis)


def test_rows_and_their_scales_are_looked_up_and_then_multiplied() -> None:
    model = parsed(lookup())
    (expected,) = run(model, IDS)
    assert dequantize_after_gather(model)
    assert kinds(model) == {"Gather": 2, "Cast": 1, "Mul": 1}
    np.testing.assert_array_equal(run(model, IDS)[0], expected)
    assert not dequantize_after_gather(model)


@pytest.mark.parametrize(
    "change",
    [{"zeros": "0, 1, 0"}, {"scales": "2", "values": "0.5, 2", "zeros": "0, 0", "axis": "1"}],
    ids=["a zero point", "a scale for each column"],
)
def test_other_tables_stay(change: dict[str, str]) -> None:
    model = parsed(lookup(**change))
    before = data_of(model)
    assert not dequantize_after_gather(model)
    assert data_of(model) == before
