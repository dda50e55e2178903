"""The machine's processor and packages as records name them."""

import re
import tomllib
from pathlib import Path

import pytest

from benchmarks.tables.gpu import GPU_PACKAGES
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
def test_int8_dot_products_are_read_from_the_flags(
    monkeypatch: pytest.MonkeyPatch, cpuinfo: str, expected: bool | None
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *arguments, **options: cpuinfo)
    assert machine.multiplies_int8() is expected


def test_the_processor_is_named_with_its_instruction_sets_for_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpuinfo = "model name\t: Some CPU\nflags\t\t: fpu avx512_vnni avx2\n"
    monkeypatch.setattr(Path, "read_text", lambda *arguments, **options: cpuinfo)
    machine.machine.cache_clear()
    assert machine.machine()["cpu"] == "Some CPU (avx2, avx512_vnni)"
    machine.machine.cache_clear()


def test_records_hold_the_versions_of_all_packages_that_run_engines() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {re.split(r"[^\w-]", name)[0] for name in (*extras["trt"], *extras["trt-rtx"])}
    assert wanted - {"tensorrt-rtx-cu13-libs"} <= set(GPU_PACKAGES) <= set(machine.PACKAGES)


def test_int8_support_is_unknown_without_a_list_of_instruction_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: object, **options: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert machine.multiplies_int8() is None
