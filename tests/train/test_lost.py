"""A training that is lost, or out of memory, says so in one line and keeps the last good checkpoint."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import CoSENTLoss

import train.train as grid_training
from m2d_export.checkpoints.load import load_checkpoint
from tests.support.trainings import (
    LOST,
    OPTIONS,
    SEED,
    Signalled,
    Start,
    log,
    names,
    one_error,
)
from train import evaluate

pytestmark = pytest.mark.usefixtures("undrawn")


def lose_from(monkeypatch: pytest.MonkeyPatch, call: int, factor: float) -> None:
    """Have the grid recipe's loss spoilt from its ``call``-th call on."""
    real, calls = grid_training.grid_loss, iter(range(1, 1000))

    def spoilt(*arguments: Any) -> Any:
        loss = real(*arguments)
        if next(calls) >= call:
            object.__setattr__(loss, "total", loss.total * factor)
        return loss

    monkeypatch.setattr(grid_training, "grid_loss", spoilt)


def test_a_loss_that_is_no_number_leaves_the_last_good_checkpoint(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for call, options in ((6, OPTIONS), (2, (*OPTIONS, "--resume"))):  # which loses it again, and says the same
        with monkeypatch.context() as patched:
            lose_from(patched, call, float("nan"))
            outcome = start(*options)
        assert outcome.code == LOST
        assert one_error(outcome) == (
            "the loss is nan at step 6: a lower --learning-rate may help (step 4 is the last good one). What there is "
            f"of it is kept in {tmp_path / 'out.training' / 'last-good'}: move that away and remove "
            f"{tmp_path / 'out.training'} to try again, or choose another --output"
        )
    assert names(tmp_path) == ["out.training"]
    good = tmp_path / "out.training" / "last-good"
    assert [entry["step"] for entry in log(good)] == [4]
    found = json.loads((good / "m2d.json").read_text())
    assert found["scores"]["dev"] == pytest.approx(log(good)[0]["dev"])
    assert sorted(load_checkpoint(str(good)).heads) == [1]


def test_lost_before_any_evaluation_but_after_a_stop(
    start: Start, monkeypatch: pytest.MonkeyPatch, signalled: Signalled, tmp_path: Path
) -> None:
    signalled(2)
    start(*OPTIONS)
    signalled(0)
    lose_from(monkeypatch, 1, float("inf"))
    outcome = start(*OPTIONS, "--resume")
    assert one_error(outcome).startswith("the loss is inf at step 3: a lower --learning-rate may help (step 2 is")
    good = tmp_path / "out.training" / "last-good"
    assert "Training log" not in (good / "README.md").read_text()
    assert load_checkpoint(str(good)).trained_layers == (1, 3)


def test_lost_before_anything_was_kept(start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lose_from(monkeypatch, 2, float("nan"))
    outcome = start(*OPTIONS)
    assert (outcome.code, one_error(outcome)) == (
        LOST,
        "the loss is nan at step 2: a lower --learning-rate may help",
    )
    assert names(tmp_path) == []  # nothing that would be in the way of another attempt


def test_diverging_leaves_the_last_good_checkpoint(start: Start, tmp_path: Path) -> None:
    outcome = start(*OPTIONS, "--eval-steps", 1, "--learning-rate", 1e30)
    assert outcome.code == LOST
    assert one_error(outcome).startswith("diverged: the full cell's dev score ")
    assert "(step 1 is the last good one)" in one_error(outcome)
    assert json.loads((tmp_path / "out.training" / "last-good" / "m2d.json").read_text())["scores"]["dev"]["3x64"] > 0


def test_the_seed_recipe_stops_where_the_loss_is_no_number(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real, calls = CoSENTLoss.forward, iter(range(1000))
    broken = lambda *arguments: real(*arguments) * (float("nan") if next(calls) > 10 else 1)  # noqa: E731
    monkeypatch.setattr(CoSENTLoss, "forward", broken)
    outcome = start(*SEED)
    assert outcome.code == LOST
    assert one_error(outcome).startswith("the loss is nan by step 8: a lower --learning-rate may help. The last")
    assert "checkpoint-4" in names(tmp_path / "out.training")
    assert "checkpoint-8" not in names(tmp_path / "out.training")


NO_MEMORY = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee also elsewhere"),
    "cpu": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    "python": lambda: MemoryError(),
}


@pytest.mark.parametrize(("recipe", "kind"), [*(("grid", kind) for kind in NO_MEMORY), ("seed", "cpu")])
def test_memory_that_runs_out_is_one_line(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recipe: str, kind: str
) -> None:
    def run_out(*arguments: Any) -> Any:
        raise NO_MEMORY[kind]()

    monkeypatch.setattr(grid_training, "grid_loss", run_out)
    monkeypatch.setattr(CoSENTLoss, "forward", run_out)
    outcome = start(*(SEED if recipe == "seed" else OPTIONS))
    assert outcome.code == LOST
    assert one_error(outcome) == "cpu memory ran out with batches of 8 pairs: try a smaller --batch-size"
    assert names(tmp_path) == []


@pytest.mark.parametrize("options", [OPTIONS, SEED], ids=["grid", "seed"])
def test_memory_that_runs_out_while_dev_is_scored_is_one_line(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str]
) -> None:
    def run_out(*arguments: Any) -> Any:
        raise NO_MEMORY["cpu"]()

    monkeypatch.setattr(evaluate, "grid_scores", run_out)
    outcome = start(*options)
    assert outcome.code == LOST
    assert one_error(outcome).startswith("cpu memory ran out while dev was scored: ")
    assert not (tmp_path / "out").exists()


def test_an_error_of_our_own_is_not_taken_for_memory(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(grid_training, "grid_loss", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        start(*OPTIONS)
