"""A training that diverges or runs out of memory ends with one line and keeps the last good checkpoint."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import CoSENTLoss

import train.grid as grid_training
from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.errors import TrainingError
from tests.support.trainings import FAILED, GRID, RECIPES, SEED, Signalled, Start, log, names
from train import evaluate
from train.memory import explain_out_of_memory

pytestmark = pytest.mark.usefixtures("undrawn")


def spoil_loss_from(monkeypatch: pytest.MonkeyPatch, call: int, factor: float) -> None:
    """Multiply the grid recipe's loss by ``factor`` from its ``call``-th call on."""
    real, calls = grid_training.grid_loss, iter(range(1, 1000))

    def spoilt(*arguments: Any) -> Any:
        loss = real(*arguments)
        if next(calls) >= call:
            object.__setattr__(loss, "total", loss.total * factor)
        return loss

    monkeypatch.setattr(grid_training, "grid_loss", spoilt)


def test_an_undefined_loss_leaves_the_last_good_checkpoint(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = (*GRID, "--layers", "1,3")
    good = tmp_path / "out.training" / "last-good"
    for call, more in ((6, ()), (2, ("--resume",))):  # resumed after step 4, it fails again
        with monkeypatch.context() as patched:
            spoil_loss_from(patched, call, float("nan"))
            outcome = start(*options, *more)
        assert outcome.code == FAILED
        for part in ("the loss is nan at step 6:", "--learning-rate", "step 4 is", str(good), "--output"):
            assert part in outcome.error
    assert names(tmp_path) == ["out.training"]
    assert [entry["step"] for entry in log(good)] == [4]
    found = json.loads((good / "m2d.json").read_text())
    assert found["scores"]["dev"] == pytest.approx(log(good)[0]["dev"])
    assert sorted(load_checkpoint(str(good)).heads) == [1]


def test_an_infinite_loss_after_a_stop_and_before_any_evaluation(
    start: Start, monkeypatch: pytest.MonkeyPatch, signalled: Signalled, tmp_path: Path
) -> None:
    signalled(2)
    start(*GRID)
    signalled(0)
    spoil_loss_from(monkeypatch, 1, float("inf"))
    outcome = start(*GRID, "--resume")
    assert "the loss is inf at step 3:" in outcome.error
    assert "step 2 is" in outcome.error
    good = tmp_path / "out.training" / "last-good"
    assert "Training log" not in (good / "README.md").read_text()
    assert load_checkpoint(str(good)).trained_layers == (1, 2, 3)


def test_a_failure_before_anything_was_saved_leaves_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spoil_loss_from(monkeypatch, 2, float("nan"))
    outcome = start(*GRID)
    assert outcome.code == FAILED
    assert "the loss is nan at step 2:" in outcome.error
    assert names(tmp_path) == []  # the same command can start again


def test_divergence_leaves_the_last_good_checkpoint(start: Start, tmp_path: Path) -> None:
    outcome = start(*GRID, "--eval-steps", 1, "--learning-rate", 1e30)
    assert outcome.code == FAILED
    assert "diverged" in outcome.error
    assert "step 1 is" in outcome.error
    assert json.loads((tmp_path / "out.training" / "last-good" / "m2d.json").read_text())["scores"]["dev"]["3x64"] > 0


def test_the_seed_recipe_stops_at_an_undefined_loss(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real, calls = CoSENTLoss.forward, iter(range(1000))
    broken = lambda *arguments: real(*arguments) * (float("nan") if next(calls) > 10 else 1)  # noqa: E731
    monkeypatch.setattr(CoSENTLoss, "forward", broken)
    outcome = start(*SEED)
    assert outcome.code == FAILED
    assert "the loss is nan at step 8:" in outcome.error
    assert str(tmp_path / "out.training") in outcome.error
    assert "checkpoint-4" in names(tmp_path / "out.training")
    assert "checkpoint-8" not in names(tmp_path / "out.training")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee also elsewhere"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_memory_that_runs_out_is_a_training_error_of_one_line(error: Exception) -> None:
    with pytest.raises(TrainingError) as raised, explain_out_of_memory("cuda", "here"):
        raise error
    assert str(raised.value) == "cuda memory ran out here, or --device cpu"


def test_any_other_error_is_not_taken_for_memory() -> None:
    with pytest.raises(RuntimeError, match="a bug"), explain_out_of_memory("cuda", "here"):
        raise RuntimeError("a bug")


def run_out(*arguments: Any) -> Any:
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("recipe", RECIPES)
def test_memory_that_runs_out_in_a_step_leaves_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recipe: str
) -> None:
    monkeypatch.setattr(grid_training, "grid_loss", run_out)
    monkeypatch.setattr(CoSENTLoss, "forward", run_out)
    outcome = start(*RECIPES[recipe])
    assert outcome.code == FAILED
    assert "8 pairs: choose a smaller --batch-size" in outcome.error
    assert names(tmp_path) == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_memory_that_runs_out_in_an_evaluation_publishes_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recipe: str
) -> None:
    monkeypatch.setattr(evaluate, "grid_scores", run_out)
    outcome = start(*RECIPES[recipe])
    assert outcome.code == FAILED
    assert "dev split" in outcome.error
    assert not (tmp_path / "out").exists()
