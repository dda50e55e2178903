"""A training that is stopped and gone on with is one that never was; and a seed decides every bit of it."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.checkpoints import save_checkpoint
from tests.support.trainings import (
    INTERRUPTED,
    LOST,
    OPTIONS,
    SEED,
    STEPS,
    USAGE,
    Signalled,
    Start,
    log,
    names,
    one_error,
    train,
    weights,
)
from train import publish
from train.stop import asked_to_stop

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def never_stopped(distilbert: Path, graded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "out"
    assert train(distilbert, graded, "-o", folder, *OPTIONS).code == 0
    return folder


@pytest.fixture(scope="module")
def seed_never_stopped(distilbert: Path, graded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole-seed") / "out"
    assert train(distilbert, graded, "-o", folder, *SEED).code == 0
    return folder


def test_a_seed_decides_every_bit(start: Start, never_stopped: Path, tmp_path: Path) -> None:
    assert start(*OPTIONS, into="same").code == 0
    assert weights(tmp_path / "same") == weights(never_stopped)
    assert log(tmp_path / "same") == log(never_stopped)
    assert start(*OPTIONS, "--seed", 7, into="other").code == 0
    for name, other in weights(tmp_path / "other").items():
        assert other != weights(never_stopped)[name]


# Before and at the first evaluation, between two, and twice.
@pytest.mark.parametrize("stops", [(1,), (4,), (5,), (2, 3)])
def test_stopped_and_resumed_is_never_stopped_bit_for_bit(
    start: Start, signalled: Signalled, never_stopped: Path, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    for count, step in enumerate(stops):
        signalled(step)
        outcome = start(*OPTIONS, *(["--resume"] if count else []))
        assert outcome.code == INTERRUPTED
        assert outcome.err.endswith("stopped; the same command with --resume goes on\n")
        assert names(tmp_path) == ["out.training"]
    signalled(0)
    torch.rand(5)  # what came between the two is nothing to the training
    assert start(*OPTIONS, "--resume").code == 0
    assert weights(tmp_path / "out") == weights(never_stopped)
    assert log(tmp_path / "out") == log(never_stopped)
    assert names(tmp_path) == ["out"]


def test_killed_between_the_log_and_the_state_it_goes_on_from_the_state(
    start: Start, signalled: Signalled, never_stopped: Path, tmp_path: Path
) -> None:
    signalled(2)
    start(*OPTIONS)
    ahead = [{**entry, "loss": 0.0} for entry in log(never_stopped)]
    (tmp_path / "out.training" / "log.json").write_text(json.dumps(ahead))
    signalled(0)
    assert start(*OPTIONS, "--resume").code == 0
    assert log(tmp_path / "out") == log(never_stopped)


def test_a_last_step_is_not_stopped_after(start: Start, signalled: Signalled, never_stopped: Path) -> None:
    signalled(STEPS)
    assert start(*OPTIONS).code == 0


@pytest.mark.parametrize("options", [OPTIONS, SEED], ids=["grid", "seed"])
def test_interrupted_while_publishing_it_is_trained_to_the_end_already(
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    never_stopped: Path,
    seed_never_stopped: Path,
    tmp_path: Path,
    options: tuple[Any, ...],
) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(publish, "draw", interrupt)
        assert start(*options).code == INTERRUPTED
    assert names(tmp_path) == ["out.training"]
    assert start(*options, "--resume").code == 0
    whole = seed_never_stopped if options is SEED else never_stopped
    assert log(tmp_path / "out") == log(whole)
    assert weights(tmp_path / "out") == weights(whole)


def test_sigterm_keeps_what_was_done_too(start: Start, signalled: Signalled, tmp_path: Path) -> None:
    signalled(3, signal.SIGTERM)
    assert start(*OPTIONS).code == INTERRUPTED
    assert "state.pt" in names(tmp_path / "out.training")


def test_a_second_ctrl_c_ends_at_once_and_leaves_nothing_to_go_on_with(
    start: Start, signalled: Signalled, tmp_path: Path
) -> None:
    signalled(2, times=2)
    outcome = start(*OPTIONS)
    assert (outcome.code, outcome.err.splitlines()[-1]) == (INTERRUPTED, "interrupted")
    assert names(tmp_path) == []


def test_a_second_ctrl_c_leaves_the_last_state(start: Start, signalled: Signalled, tmp_path: Path) -> None:
    signalled(5, times=2)
    assert start(*OPTIONS).code == INTERRUPTED
    assert names(tmp_path / "out.training") == ["log.json", "state.pt", "training.json"]


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_whichever_signal_comes_second_acts_as_ever(second: signal.Signals) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with asked_to_stop() as asked:
        assert not asked.is_set()
        signal.raise_signal(signal.SIGINT)
        assert asked.is_set()
        assert signal.getsignal(second) is handlers[second]
    assert {number: signal.getsignal(number) for number in handlers} == handlers


@pytest.mark.parametrize("step", [3, 4])
def test_the_seed_recipe_goes_on_from_its_own_checkpoint(
    start: Start, signalled: Signalled, seed_never_stopped: Path, tmp_path: Path, step: int
) -> None:
    signalled(step)
    assert start(*SEED).code == INTERRUPTED
    assert names(tmp_path) == ["out.training"]
    assert f"checkpoint-{step}" in names(tmp_path / "out.training")
    (tmp_path / "out.training" / "checkpoint-7").mkdir()  # one that was being written when the machine went down
    signalled(0)
    assert start(*SEED, "--resume").code == 0
    assert names(tmp_path) == ["out"]
    resumed, whole = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", seed_never_stopped))
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor)
    assert [entry["dev"] for entry in log(tmp_path / "out")] == [
        pytest.approx(entry["dev"]) for entry in log(seed_never_stopped)
    ]


def test_a_checkpoint_of_the_seed_recipe_that_is_cut_short(start: Start, signalled: Signalled, tmp_path: Path) -> None:
    signalled(3)
    start(*SEED)
    (held,) = (tmp_path / "out.training").glob("checkpoint-*/model.safetensors")
    held.write_bytes(held.read_bytes()[:1000])
    signalled(0)
    outcome = start(*SEED, "--resume")
    assert outcome.code == LOST
    assert "checkpoint-3 cannot be gone on from (" in one_error(outcome)
    assert one_error(outcome).endswith("out.training to start over")


@pytest.fixture
def stopped(distilbert: Path, graded: Path, signalled: Signalled, tmp_path: Path, never_stopped: Path) -> Path:
    """The folder of a grid training that was stopped after two steps."""
    signalled(2)
    train(distilbert, graded, "-o", tmp_path / "out", *OPTIONS)
    signalled(0)
    return tmp_path / "out.training"


def test_a_state_that_is_not_whole_or_another_trainings(start: Start, stopped: Path) -> None:
    state = stopped / "state.pt"
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2])
    outcome = start(*OPTIONS, "--resume")
    assert outcome.code == LOST
    assert one_error(outcome) == f"{state} cannot be read, it may be cut short: remove {stopped} to start over"
    for foreign in ({"step": 1}, {"step": 1, "weights": [torch.zeros(3)]}, [1, 2]):
        torch.save(foreign, state)
        outcome = start(*OPTIONS, "--resume")
        assert outcome.code == LOST
        assert one_error(outcome) == f"{stopped} holds another training's state: remove it to start over"
    state.write_bytes(whole)
    (stopped / "log.json").write_text("[{}]")
    assert one_error(start(*OPTIONS, "--resume")).endswith(f"log.json cannot be read: remove {stopped} to start over")


def test_a_training_that_is_another_one(
    start: Start, stopped: Path, distilbert: Path, graded: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    other_base = save_checkpoint(tmp_path / "other", "bert")
    other_data = Path(shutil.copytree(graded, tmp_path / "data"))
    (other_data / "dev.csv").write_text((graded / "test.csv").read_text())
    for told, arguments in {
        "settings {": (distilbert, graded, *OPTIONS, "--seed", 1),
        "recipe GridRecipe there, SeedRecipe now; settings {": (distilbert, graded, *SEED),
        "model ": (other_base, graded, *OPTIONS),
        "data ": (distilbert, other_data, *OPTIONS),
        "precision fp32 there, bf16 now": (distilbert, graded, *OPTIONS, "--precision", "bf16"),
    }.items():
        outcome = train(*arguments, "-o", target, "--resume")
        assert outcome.code == LOST
        assert one_error(outcome).startswith(f"{stopped} is another training ({told}")
        assert one_error(outcome).endswith("): give it the same options, or remove it")
    outcome = start(*OPTIONS)
    assert (outcome.code, one_error(outcome)) == (
        USAGE,
        f"{stopped} holds an unfinished training: --resume goes on with it, or remove it",
    )
    (stopped / "training.json").write_text("[]")
    assert "is no training of this program" in one_error(start(*OPTIONS, "--resume"))
    assert names(stopped) == ["state.pt", "training.json"]  # none of it was touched


def test_nothing_to_resume(start: Start, tmp_path: Path) -> None:
    outcome = start(*OPTIONS, "--resume")
    assert outcome.code == LOST
    assert one_error(outcome) == f"there is no {tmp_path / 'out.training'} to resume: start without --resume"
    assert names(tmp_path) == []
