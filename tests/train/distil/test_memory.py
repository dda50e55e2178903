"""A step that would take too much memory computes its activations twice, and learns the same."""

import re
from pathlib import Path

import pytest
import torch
from m2d_train import memory, model
from m2d_train.memory import StepMemory, fit_step
from safetensors.torch import load_file
from transformers import BertConfig

from tests.support.distillations import SMALL
from tests.train.distil.conftest import Distil

GIGABYTE = 1_000_000_000


@pytest.mark.parametrize(
    ("gigabytes", "expected"),
    [(64, StepMemory(4096, again=False)), (16, StepMemory(2296, again=True)), (1, StepMemory(256, again=True))],
)
def test_a_step_of_a_large_encoder_fits_the_memory(
    monkeypatch: pytest.MonkeyPatch, gigabytes: int, expected: StepMemory
) -> None:
    monkeypatch.setattr(memory, "memory_bytes", lambda: gigabytes * GIGABYTE)
    assert fit_step("cpu", BertConfig(), texts=128, longest=128, budget=4096) == expected


def test_a_token_of_a_long_text_takes_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_bytes", lambda: 64 * GIGABYTE)
    assert not fit_step("cpu", BertConfig(), texts=16, longest=512, budget=4096).again
    assert fit_step("cpu", BertConfig(), texts=1, longest=8192, budget=4096).again


def test_computing_twice_gives_the_same_weights(start: Distil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2d_train.distil.steps.fit_step", lambda *given: StepMemory(64, again=False))
    assert start("--steps", 3, *SMALL).code == 0
    once = (tmp_path / "out").rename(tmp_path / "once")
    monkeypatch.setattr("m2d_train.distil.steps.fit_step", lambda *given: StepMemory(64, again=True))
    calls = []
    computed = model.recomputed
    monkeypatch.setattr(model, "recomputed", lambda *args, **named: calls.append(1) or computed(*args, **named))
    ended = start("--steps", 3, *SMALL)
    assert ended.code == 0
    assert len(calls) > 3 * 4  # groups of texts in three steps
    assert re.search(r"computes activations twice", " ".join(ended.err.split()))
    for path in sorted(once.rglob("*.safetensors")):
        again = load_file(tmp_path / "out" / path.relative_to(once))
        torch.testing.assert_close(again, load_file(path), rtol=1e-4, atol=1e-6)
