"""What the machine says of itself."""

import re
import tomllib
from pathlib import Path

import pytest

from benchmarks.gpu_tables import GPU_PACKAGES
from m2d_export.host import machine


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("model name\t: Some CPU\nflags\t\t: fpu avx2 avx512_vnni\n", True),
        ("flags\t\t: fpu avx2 avx512f\n", False),
        ("Features\t: fp asimd asimddp\n", True),
        ("Features\t: fp asimd\n", False),
        ("processor\t: 0\n", None),
    ],
)
def test_int8_products_are_read_from_the_flags(
    monkeypatch: pytest.MonkeyPatch, cpuinfo: str, expected: bool | None
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *arguments, **options: cpuinfo)
    assert machine.multiplies_int8() is expected


def test_the_processor_is_named_with_the_flags_that_decide_which_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = "model name\t: Some CPU\nflags\t\t: fpu avx512_vnni avx2\n"
    monkeypatch.setattr(Path, "read_text", lambda *arguments, **options: cpuinfo)
    machine.machine.cache_clear()
    assert machine.machine()["cpu"] == "Some CPU (avx2, avx512_vnni)"
    machine.machine.cache_clear()


def test_the_packages_that_run_engines_are_recorded_as_the_extras_name_them() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {re.split(r"[^\w-]", name)[0] for name in (*extras["trt"], *extras["trt-rtx"])}
    assert wanted - {"tensorrt-rtx-cu13-libs"} <= set(GPU_PACKAGES) <= set(machine.PACKAGES)


def test_a_system_without_that_list_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: object, **options: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert machine.multiplies_int8() is None
