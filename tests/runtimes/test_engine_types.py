"""The types that an engine reports to compute in."""

import json

import pytest

from m2d_export.errors import RuntimeUnavailable
from m2d_export.runtimes.engine_types import check_types


def information(*types: str) -> str:
    tensors = [{"Name": f"inner {index}", "Format/Datatype": kind} for index, kind in enumerate(types)]
    outer = [{"Name": "input_ids", "Format/Datatype": "Int64"}, {"Name": "out", "Format/Datatype": "Float"}]
    layers = [{"Name": "some", "Inputs": outer[:1], "Outputs": tensors}, {"Name": "last", "Outputs": outer[1:]}]
    return json.dumps({"Layers": layers, "Bindings": ["input_ids", "out"]})


@pytest.mark.parametrize(
    ("precision", "reported"),
    [
        ("fp16", information("Row major linear FP16 format", "Float", "Int64")),
        ("fp16", information("Half")),
        ("bf16", information("BFloat16", "Row major linear FP32")),
        ("fp32", information("Float", "Bool")),
    ],
)
def test_an_engine_that_reports_its_precision_is_accepted(
    precision: str, reported: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_types(reported, precision, "some.engine")
    assert not caplog.records


@pytest.mark.parametrize(
    ("precision", "reported"),
    [
        ("fp16", information("Float")),  # all layers in one node, and the cast before it
        ("bf16", information("Int64")),
        ("fp16", information()),
        ("fp16", json.dumps({"Layers": ["only a name"], "Bindings": []})),
        ("fp16", "no JSON"),
    ],
)
def test_an_engine_that_does_not_report_its_precision_is_accepted_with_a_warning(
    precision: str, reported: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_types(reported, precision, "some.engine")
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "some.engine" in warning
    assert precision in warning


@pytest.mark.parametrize(
    ("precision", "types", "found"),
    [("fp16", ["BF16"], "bf16"), ("fp32", ["Float", "Half"], "fp16, fp32"), ("bf16", ["Half", "BF16"], "bf16, fp16")],
)
def test_an_engine_that_computes_in_another_half_type_is_refused(precision: str, types: list[str], found: str) -> None:
    with pytest.raises(RuntimeUnavailable, match=f"some.engine.*{precision}.*{found}"):
        check_types(information(*types), precision, "some.engine")
