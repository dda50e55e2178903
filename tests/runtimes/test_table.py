"""The table of runtimes."""

import tomllib
from pathlib import Path

import pytest

from m2d_export.runtimes.table import RUNTIMES
from m2d_export.spec import Precision

EXTRAS = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_row_names_a_class_and_an_extra_that_exist(name: str) -> None:
    row = RUNTIMES[name]
    assert hasattr(row.load(), "vectors")
    assert row.extra in EXTRAS
    assert row.device in ("cpu", "gpu")


@pytest.mark.parametrize(
    ("name", "precision", "compute"),
    [
        ("onnxrt", Precision.FP16, "fp32"),
        ("openvino", Precision.BF16, "fp32"),
        ("trt", Precision.FP16, "fp16"),
        ("pytorch-cuda", Precision.FP32, "fp32"),
    ],
)
def test_the_default_compute_is_the_first_of_the_row_or_the_type_of_the_graph(
    name: str, precision: Precision, compute: str
) -> None:
    assert RUNTIMES[name].default_compute(precision) == compute
