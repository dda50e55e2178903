"""What the driver says of GPUs, by a made-up driver; and that the benchmark of a GPU runs, on the CPU."""

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from m2d_export.errors import RuntimeUnavailable
from m2d_export.gpu import Gpu, first_gpu, gpus

ROOT = Path(__file__).parent.parent


class Driver:
    """The five functions of libcuda that are asked, for cards of compute capability 9.0."""

    def __init__(self, cards: list[str], code: int = 0) -> None:
        self.cards, self.code = cards, code

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.code

    def cuDeviceGetCount(self, count: object) -> int:  # noqa: N802
        count._obj.value = len(self.cards)
        return 0

    def cuDeviceGet(self, device: object, place: int) -> int:  # noqa: N802
        device._obj.value = place
        return 0

    def cuDeviceGetName(self, name: ctypes.Array, length: int, device: ctypes.c_int) -> int:  # noqa: N802
        name.value = self.cards[device.value].encode()[: length - 1]
        return 0

    def cuDeviceGetAttribute(self, value: object, attribute: int, device: ctypes.c_int) -> int:  # noqa: N802
        value._obj.value = {75: 9, 76: 0}[attribute]
        return 0


def with_driver(monkeypatch: pytest.MonkeyPatch, driver: object) -> None:
    monkeypatch.setattr("m2d_export.gpu.ctypes", SimpleNamespace(**{**vars(ctypes), "CDLL": lambda name: driver}))


def test_every_card_has_its_name_and_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    with_driver(monkeypatch, Driver(["NVIDIA H100", "NVIDIA H200"]))
    assert gpus() == (Gpu("NVIDIA H100", "sm90"), Gpu("NVIDIA H200", "sm90"))
    assert first_gpu("this", "try that").name == "NVIDIA H100"


@pytest.mark.parametrize("driver", [Driver([]), Driver(["NVIDIA H100"], code=100)], ids=["no card", "no device"])
def test_a_driver_without_a_card_says_what_to_do_instead(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    with_driver(monkeypatch, driver)
    with pytest.raises(RuntimeUnavailable, match="this needs an NVIDIA GPU, and the driver shows none here: try that"):
        first_gpu("this", "try that")


def test_no_driver_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2d_export.gpu.DRIVER", "libnothing-of-that-name.so.1")
    assert gpus() == ()


def test_the_benchmark_runs_on_a_cpu_and_says_what_it_is(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", str(checkpoint), "-o", str(output), "--smoke", "--layer", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    assert result["card"] == {"name": "none: a smoke test on the CPU"}
    systems = ["pytorch", "pytorch, compiled", "sentence-transformers"]
    assert [row["system"] for row in result["rows"]] == systems * 4
    assert set(result["absent"]) == {"pytorch, CUDA graph", "sentence-transformers, flash attention"}
    for row in result["rows"]:
        assert row["cosine_min"] > 0.99999
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["sentences_per_second"] * row["tokens"] == pytest.approx(row["tokens_per_second"])


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU here")
def test_the_benchmark_without_a_card_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "checkpoint", "-o", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "Error: benchmarks/gpu.py needs an NVIDIA GPU, and the driver shows none here: try it with --smoke on the CPU"
    ]
