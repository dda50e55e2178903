"""A step that would take too much memory computes its activations twice, and learns the same."""

import re
from pathlib import Path

import pytest
import torch
from m2d_train import memory
from m2d_train.memory import StepMemory, fit_step
from safetensors.torch import load_file

from tests.support.distillations import SMALL
from tests.train.distil.conftest import Distil

GIGABYTE = 1_000_000_000


@pytest.mark.parametrize(
    ("gigabytes", "expected"),
    [(64, StepMemory(4096, again=False)), (16, StepMemory(1929, again=True)), (1, StepMemory(256, again=True))],
)
def test_a_step_of_a_large_encoder_fits_the_memory(
    monkeypatch: pytest.MonkeyPatch, gigabytes: int, expected: StepMemory
) -> None:
    monkeypatch.setattr(memory, "memory_bytes", lambda: gigabytes * GIGABYTE)
    assert fit_step("cpu", tokens=16_384, size=12 * 768, budget=4096) == expected


def test_computing_twice_gives_the_same_weights(start: Distil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert start("--steps", 3, *SMALL).code == 0
    once = (tmp_path / "out").rename(tmp_path / "once")
    monkeypatch.setattr("m2d_train.distil.steps.fit_step", lambda *given: StepMemory(given[-1], again=True))
    ended = start("--steps", 3, *SMALL)
    assert ended.code == 0
    assert re.search(r"computes activations twice", " ".join(ended.err.split()))
    for path in sorted(once.rglob("*.safetensors")):
        again = load_file(tmp_path / "out" / path.relative_to(once))
        torch.testing.assert_close(again, load_file(path), rtol=1e-4, atol=1e-6)
