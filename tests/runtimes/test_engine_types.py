"""What an engine tells of the types that it computes in."""

import json

import pytest

from m2d_export.errors import RuntimeUnavailable
from m2d_export.runtimes.trt import check_types


def information(*types: str) -> str:
    tensors = [{"Name": f"inner {place}", "Format/Datatype": kind} for place, kind in enumerate(types)]
    outer = [{"Name": "input_ids", "Format/Datatype": "Int64"}, {"Name": "out", "Format/Datatype": "Float"}]
    layers = [{"Name": "some", "Inputs": outer[:1], "Outputs": tensors}, {"Name": "last", "Outputs": outer[1:]}]
    return json.dumps({"Layers": layers, "Bindings": ["input_ids", "out"]})


@pytest.mark.parametrize(
    ("precision", "told"),
    [
        ("fp16", information("Row major linear FP16 format", "Float", "Int64")),
        ("fp16", information("Half")),
        ("bf16", information("BFloat16", "Row major linear FP32")),
        ("fp32", information("Float", "Bool")),
    ],
)
def test_an_engine_that_tells_its_precision_is_taken(
    precision: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_types(told, precision, "some.engine")
    assert not caplog.records


@pytest.mark.parametrize(
    ("precision", "told"),
    [
        ("fp16", information("Float")),  # one node of all layers, and the cast before it
        ("bf16", information("Int64")),
        ("fp16", information()),
        ("fp16", json.dumps({"Layers": ["a name alone"], "Bindings": []})),
        ("fp16", "no JSON"),
    ],
)
def test_an_engine_that_does_not_tell_its_precision_is_taken_with_a_warning(
    precision: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_types(told, precision, "some.engine")
    assert f"some.engine does not tell whether it computes in {precision}" in caplog.text


@pytest.mark.parametrize(
    ("precision", "types", "found"),
    [("fp16", ["BF16"], "bf16"), ("fp32", ["Float", "Half"], "fp16, fp32"), ("bf16", ["Half", "BF16"], "bf16, fp16")],
)
def test_an_engine_that_computes_in_other_types_is_not_called_by_its_precision(
    precision: str, types: list[str], found: str
) -> None:
    with pytest.raises(RuntimeUnavailable, match=f"some is to be {precision}, and computes in {found}: build it again"):
        check_types(information(*types), precision, "some")
