"""No two neighbouring int8 weights of a column can saturate a 16-bit sum."""

import numpy as np
import pytest

from m2d_export.graphs.passes.prevent_saturation import MAX_PAIR_SUM, prevent_saturation
from tests.support.graph_files import data_of, parsed, run

LAYER = """
    g (float[n, ROWS] x) => (float[n, 5] y)
    {
      weights = DequantizeLinear<axis = 1>(stored, scales)
      y = MatMul(x, weights)
    }
"""


@pytest.mark.parametrize("rows", [64, 7], ids=["pairs", "an odd row"])
def test_pairs_of_weights_are_limited_and_the_layer_computes_nearly_the_same(rows: int) -> None:
    rng = np.random.default_rng(0)
    stored = rng.integers(-127, 128, (rows, 5)).astype(np.int8)
    scales = rng.uniform(0.01, 0.1, 5).astype(np.float32)
    model = parsed(LAYER.replace("ROWS", str(rows)), stored=stored, scales=scales)
    feeds = {"x": rng.uniform(0, 1, (3, rows)).astype(np.float32)}
    (expected,) = run(model, feeds)
    assert prevent_saturation(model)
    (found,) = [v.const_value.numpy() for v in model.graph.initializers.values() if v.const_value.dtype.name == "INT8"]
    assert found.shape == stored.shape
    padded = np.pad(found.astype(int), ((0, rows % 2), (0, 0)))
    sums = padded[::2] + padded[1::2]
    assert 100 < np.abs(sums).max() <= MAX_PAIR_SUM
    np.testing.assert_allclose(run(model, feeds)[0], expected, atol=0.05 * np.abs(expected).max())
    assert not prevent_saturation(model)


def test_weights_that_cannot_saturate_stay() -> None:
    stored = np.full((4, 5), 64, np.int8)
    model = parsed(LAYER.replace("ROWS", "4"), stored=stored, scales=np.ones(5, np.float32))
    before = data_of(model)
    assert not prevent_saturation(model)
    assert data_of(model) == before
