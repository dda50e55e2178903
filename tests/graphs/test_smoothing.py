"""Smoothing is chosen for each product by its measured error; outlying columns are multiplied in float."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from m2d_export.graphs import smoothing
from m2d_export.graphs.activations import Activations, joined, observe
from m2d_export.graphs.int8 import int8_graphs
from m2d_export.graphs.smoothing import SENSITIVE, best_smoothing
from m2d_export.spec import Precision
from m2d_export.vectors import cosine
from tests.support.graph_files import data_of, kinds, parsed, run

PRODUCT = """
    g (float[n, 256] x) => (float[n, 64] y)
    {
      a = Erf(x)
      b = Mul(x, a)
      c = MatMul(b, weights)
      d = Add(c, bias)
      y = Neg(d)
    }
"""
OUTLIERS = (7, 100)


def product(outlying: float) -> tuple[ir.Model, list[dict[str, Any]]]:
    """A product, and samples whose first row has ``outlying`` times larger numbers in two columns, as real models do.

    These columns have large weights too, as in the second product of a feed-forward layer of all-mpnet-base-v2.
    """
    rng = np.random.default_rng(5)
    weights = rng.normal(size=(256, 64)).astype(np.float32)
    weights[list(OUTLIERS)] *= max(1, outlying / 10)
    samples = [{"x": rng.normal(size=(40, 256)).astype(np.float32)} for _ in range(8)]
    for sample in samples:
        sample["x"][0, list(OUTLIERS)] = outlying
    return parsed(PRODUCT, weights=weights, bias=np.ones(64, np.float32)), samples


def closeness(model: ir.Model, samples: list[dict[str, Any]]) -> float:
    """The least cosine between rows of the int8 graph and of the float32 graph."""
    graph = int8_graphs(model, Precision.INT8, samples)["default"]
    return min(float(cosine(run(graph, sample)[0], run(model, sample)[0]).min()) for sample in samples)


def test_outlying_columns_that_ruin_one_fixed_strength_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    model, samples = product(100)
    before, said = data_of(model), []
    graph = int8_graphs(model, Precision.INT8, samples, said.append)["default"]
    assert data_of(model) == before
    assert kinds(graph)["MatMul"] == 2  # one multiplies the outlying columns in float
    (step,) = said
    assert f"{smoothing.OUTLIERS} of 256" in step
    assert closeness(model, samples) > 0.999
    for name, value in {"STRENGTHS": (0.95,), "OUTLIERS": 0, "QUIET": 0.1, "TOO_SENSITIVE": 9}.items():
        monkeypatch.setattr(smoothing, name, value)  # SmoothQuant with one strength
    assert closeness(model, samples) < 0.99


def test_a_product_without_outliers_stays_one_product() -> None:
    model, samples = product(1)
    said: list[str] = []
    graph = int8_graphs(model, Precision.INT8, samples, said.append)["default"]
    assert (kinds(graph)["MatMul"], said) == (1, [])
    assert closeness(model, samples) > 0.999


def test_a_product_that_is_too_sensitive_stays_in_float_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model, samples = product(1)
    said: list[str] = []
    monkeypatch.setattr(smoothing, "TOO_SENSITIVE", 0.0)
    graph = int8_graphs(model, Precision.INT8, samples, said.append)["default"]
    assert kinds(graph)["QuantizeLinear"] == 0
    assert "all" in said[0]
    assert closeness(model, samples) > 0.999999


def test_the_smoothing_has_the_least_error_of_all_strengths_and_names_the_outlying_columns() -> None:
    model, samples = product(100)
    found = observe(model, ["b"], samples)["b"]
    weights = model.graph.initializers["weights"].const_value.numpy()
    best = best_smoothing(found, weights)
    assert best is not None
    assert best.error < SENSITIVE
    assert set(OUTLIERS) <= set(best.outliers.tolist())
    assert len(best.outliers) == smoothing.OUTLIERS
    assert best.strength in smoothing.STRENGTHS


def test_columns_that_calibration_hardly_saw_keep_room_for_other_texts() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(256, 64)).astype(np.float32)
    rows[:, :32] *= 1e-3  # half of the columns: rarely active
    weights = rng.normal(size=(64, 16)).astype(np.float32)
    best = best_smoothing(Activations(rows.min(axis=0), rows.max(axis=0), rows), weights)
    assert best is not None
    smoothed = np.abs(rows / best.scales).max(axis=0)
    assert smoothed[:32].max() < 0.1 * smoothed[32:].max()


def test_observed_ranges_and_rows_are_those_of_all_samples() -> None:
    model, samples = product(3)
    inputs = np.concatenate([sample["x"] for sample in samples])
    computed = observe(model, ["x", "b"], samples)
    np.testing.assert_array_equal(computed["x"].low, inputs.min(axis=0))
    np.testing.assert_array_equal(computed["x"].high, inputs.max(axis=0))
    assert 200 <= len(computed["b"].rows) <= 400
    both = joined([computed["x"], computed["b"]])
    assert (both.low <= computed["b"].low).all()
    assert len(both.rows) == len(computed["x"].rows) + len(computed["b"].rows)


def test_the_same_samples_give_the_same_bytes() -> None:
    model, samples = product(100)
    one, other = (data_of(int8_graphs(model, Precision.INT8, samples)["default"]) for _ in range(2))
    assert one == other
