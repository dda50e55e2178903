"""What is asked of engines and cannot be, said before the work; the shapes that they are for by default."""

import sys
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from m2d_export.engines.builds import EnginePlan, plan_engines
from m2d_export.engines.library import check_targets, library
from m2d_export.errors import RuntimeUnavailable, SpecError
from m2d_export.host.gpu import Gpu
from m2d_export.spec import Precision, default_shapes, parse_shapes
from tests.support.checkpoints import MAX_TOKENS, SHAPES

rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed (extra: trt-rtx)")


CARD = Gpu("Made-up RTX", "sm89")


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"kinds": ["tensort"]}, SpecError, "no engines called 'tensort': there are trt, trt-rtx"),
        ({"kinds": [], "targets": ["sm86"]}, SpecError, "add an engine, trt-rtx"),
        ({"precisions": [Precision.INT8]}, SpecError, "fp32, fp16, bf16"),
        ({"shapes": parse_shapes("1x1:1x8:1x64")}, SpecError, "64 tokens.* 48"),
        ({"targets": ["sm90"]}, SpecError, f"'sm90' in trt-rtx {rtx.__version__}: it has sm75, sm80, sm86, sm89"),
        ({"kinds": ["trt"]}, RuntimeUnavailable, "--engine trt needs an NVIDIA GPU, .*: --engine trt-rtx builds"),
    ],
)
def test_what_no_engine_can_be_is_said_before_the_work(
    options: dict[str, Any], error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2d_export.host.gpu.gpus", tuple)
    usual: dict[str, Any] = {"kinds": ["trt-rtx"], "shapes": None, "targets": [], "precisions": [Precision.FP16]}
    with pytest.raises(error, match=said):
        plan_engines(**(usual | options), max_tokens=MAX_TOKENS)


def test_gpu_of_an_engine_that_is_built_for_its_own_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match=r"--gpu.* belong to trt-rtx"):
        plan_engines(["trt"], None, ["sm86"], [Precision.FP16], MAX_TOKENS)


def test_engines_of_the_full_library_are_planned_for_the_first_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2d_export.host.gpu.gpus", lambda: (CARD, Gpu("Another", "sm120")))
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.4.0"))
    planned = plan_engines(["trt"], SHAPES, [], [Precision.FP16], MAX_TOKENS)
    assert planned == EnginePlan({"trt": "11.4.0"}, SHAPES, (), CARD)


@pytest.mark.parametrize(("kind", "module"), [("trt", "tensorrt"), ("trt-rtx", "tensorrt_rtx_bindings")])
def test_a_library_that_is_missing_names_its_extra(kind: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RuntimeUnavailable, match=rf"{module} is not installed.*'m2d-export\[{kind}\]'"):
        library(kind)


@pytest.mark.parametrize(("version", "old"), [("10.11.0.33", True), ("10.12.0.36", False), ("11.4.0.106", False)])
def test_tensorrt_before_10_12_is_too_old(version: str, old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__=version))
    if old:
        with pytest.raises(RuntimeUnavailable, match=r"trt 10\.11\.0\.33 is too old: 10\.12 is the first"):
            library("trt")
    else:
        assert library("trt").__version__ == version


def test_targets_are_taken_once_and_in_order() -> None:
    assert check_targets(rtx, ["sm120", "sm86", "sm120"]) == ("sm86", "sm120")


def test_default_shapes_cover_every_length_once() -> None:
    for longest in (8, 32, 33, 256, 512, 8192):
        shapes = default_shapes(longest)
        assert shapes[0].min == (1, 1)
        assert shapes[-1].max[1] == longest
        assert all(right.min[1] == left.max[1] + 1 for left, right in pairwise(shapes))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1x1:8x16", "such as 1x1:8x16:32x64; got '1x1:8x16'"),
        ("1x1:8x16:32x64,", "got ''"),
        ("2x1:1x16:32x64", "batch must"),
        ("1x32:8x16:32x64", "tokens must"),
        ("0x1:8x16:32x64", "batch must be at least 1"),
    ],
)
def test_shapes_that_make_no_sense_are_refused(text: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        parse_shapes(text)
