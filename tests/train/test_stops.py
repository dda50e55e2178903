"""A training that is stopped and resumed equals one without a stop, and the random seed decides all of it."""

import io
import math
import shutil
import signal
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.commands import flip
from tests.support.checkpoints import save_checkpoint
from tests.support.trainings import (
    FAILED,
    GRID,
    INTERRUPTED,
    RECIPES,
    SEED,
    STEPS,
    USAGE,
    Signalled,
    Start,
    log,
    names,
    train,
    weights,
)
from tests.train.conftest import Trained
from train import publish
from train.stop import stop_on_signal

pytestmark = pytest.mark.usefixtures("undrawn")


def test_another_random_seed_changes_every_weight(start: Start, trained: Trained, tmp_path: Path) -> None:
    assert start(*GRID, "--seed", 7).code == 0
    for name, other in weights(tmp_path / "out").items():
        assert other != weights(trained("grid")[0])[name]


# Before and at the first evaluation, between two evaluations, and two stops.
@pytest.mark.parametrize(
    ("stops", "number"),
    [((1,), signal.SIGINT), ((4,), signal.SIGINT), ((5,), signal.SIGTERM), ((2, 3), signal.SIGINT)],
)
def test_stopped_and_resumed_equals_never_stopped_bit_for_bit(
    start: Start, signalled: Signalled, trained: Trained, tmp_path: Path, stops: tuple[int, ...], number: signal.Signals
) -> None:
    for count, step in enumerate(stops):
        signalled(step, number)
        outcome = start(*GRID, *(["--resume"] if count else []))
        assert outcome.code == INTERRUPTED
        assert "--resume" in outcome.err.splitlines()[-1]
        assert names(tmp_path) == ["out.training"]
        assert "state.pt" in names(tmp_path / "out.training")
    signalled(0)
    torch.rand(5)  # random numbers that others draw between the two processes change nothing
    assert start(*GRID, "--resume").code == 0
    assert weights(tmp_path / "out") == weights(trained("grid")[0])
    assert log(tmp_path / "out") == log(trained("grid")[0])
    assert names(tmp_path) == ["out"]


def test_a_signal_in_the_last_step_does_not_stop_publishing(start: Start, signalled: Signalled) -> None:
    signalled(STEPS["grid"])
    assert start(*GRID).code == 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_interrupted_while_publishing_it_only_publishes_when_it_is_resumed(
    start: Start, monkeypatch: pytest.MonkeyPatch, trained: Trained, tmp_path: Path, recipe: str
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(publish, "draw", interrupt)
        assert start(*RECIPES[recipe]).code == INTERRUPTED
    assert names(tmp_path) == ["out.training"]
    assert start(*RECIPES[recipe], "--resume").code == 0
    assert log(tmp_path / "out") == log(trained(recipe)[0])
    assert weights(tmp_path / "out") == weights(trained(recipe)[0])


@pytest.mark.parametrize(("step", "left"), [(2, []), (5, ["state.pt", "training.json"])])
def test_a_second_ctrl_c_ends_at_once_and_leaves_only_what_was_saved(
    start: Start, signalled: Signalled, tmp_path: Path, step: int, left: list[str]
) -> None:
    signalled(step, times=2)
    outcome = start(*GRID)
    assert (outcome.code, outcome.err.splitlines()[-1]) == (INTERRUPTED, "interrupted")
    work = tmp_path / "out.training"
    assert (names(work) if work.exists() else []) == left


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_after_the_first_signal_both_signals_act_as_before(second: signal.Signals) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with stop_on_signal() as stop:
        assert not stop.is_set()
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        assert signal.getsignal(second) is handlers[second]
    assert {number: signal.getsignal(number) for number in handlers} == handlers


@pytest.mark.parametrize("step", [3, 4])
def test_the_seed_recipe_resumes_from_the_trainers_checkpoint(
    start: Start, signalled: Signalled, trained: Trained, tmp_path: Path, step: int
) -> None:
    signalled(step)
    assert start(*SEED).code == INTERRUPTED
    assert names(tmp_path) == ["out.training"]
    assert f"checkpoint-{step}" in names(tmp_path / "out.training")
    (tmp_path / "out.training" / "checkpoint-7").mkdir()  # one that a killed process had begun to write
    signalled(0)
    assert start(*SEED, "--resume").code == 0
    assert names(tmp_path) == ["out"]
    whole = trained("seed")[0]
    resumed, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", whole))
    for name, tensor in expected.items():
        torch.testing.assert_close(resumed[name], tensor)
    assert [entry["dev"] for entry in log(tmp_path / "out")] == [pytest.approx(entry["dev"]) for entry in log(whole)]


def test_files_of_somebody_else_in_the_work_folder_stay(start: Start, signalled: Signalled, tmp_path: Path) -> None:
    signalled(2)
    start(*GRID)
    (tmp_path / "out.training" / "notes.txt").write_text("mine")
    signalled(0)
    assert start(*GRID, "--resume").code == 0
    assert names(tmp_path) == ["out", "out.training"]
    assert names(tmp_path / "out.training") == ["notes.txt"]


def test_a_damaged_checkpoint_of_the_seed_recipe_is_refused(start: Start, signalled: Signalled, tmp_path: Path) -> None:
    signalled(3)
    start(*SEED)
    signalled(0)
    (held,) = (tmp_path / "out.training").glob("checkpoint-*")

    def refused() -> None:
        outcome = start(*SEED, "--resume")
        assert outcome.code == FAILED
        assert str(held) in outcome.error
        assert f"remove {tmp_path / 'out.training'}" in outcome.error

    for file in sorted(path for path in held.rglob("*") if path.stat().st_size > 1 and path.is_file()):
        whole = file.read_bytes()
        flip(file)
        refused()
        file.write_bytes(whole)
    (held / "optimizer.pt").unlink()
    refused()


@pytest.fixture
def stopped(distilbert: Path, graded: Path, signalled: Signalled, tmp_path: Path) -> Path:
    """The work folder of a grid training that was stopped after two steps."""
    signalled(2)
    train(distilbert, graded, "-o", tmp_path / "out", *GRID)
    signalled(0)
    return tmp_path / "out.training"


def test_a_damaged_state_or_one_of_another_training_is_refused(start: Start, stopped: Path) -> None:
    def refused(named: Path) -> None:
        outcome = start(*GRID, "--resume")
        assert outcome.code == FAILED
        assert str(named) in outcome.error
        assert "remove" in outcome.error

    state = stopped / "state.pt"
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2])
    refused(state)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        largest = max(archive.infolist(), key=lambda item: item.file_size)
    flipped = bytearray(whole)
    flipped[largest.header_offset + largest.file_size // 2 + 64] ^= 1
    state.write_bytes(flipped)
    refused(state)
    for foreign in ({"step": 1}, {"step": 1, "weights": [torch.zeros(3)]}, [1, 2]):
        for content in (foreign, {"state": foreign, "log": []}, {"state": foreign, "log": [{}]}):
            torch.save(content, state)
            refused(stopped)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_state_with_nan_or_infinity_is_not_resumed(start: Start, stopped: Path, value: float) -> None:
    saved = torch.load(stopped / "state.pt", weights_only=True)
    for tensor in (saved["state"]["weights"][3], saved["state"]["optimizer"]["state"][0]["exp_avg"]):
        before = tensor.flatten()[0].item()
        tensor.view(-1)[0] = value
        torch.save(saved, stopped / "state.pt")
        outcome = start(*GRID, "--resume")
        assert outcome.code == FAILED
        assert "NaN" in outcome.error
        tensor.view(-1)[0] = before


@pytest.mark.parametrize(("recipe", "step"), [("grid", 2), ("grid", 5), ("seed", 3), ("seed", 5)])
def test_weights_that_became_nan_are_not_saved_when_a_training_stops(
    start: Start, signalled: Signalled, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recipe: str, step: int
) -> None:
    """The loss of the step was finite, and its gradient was not."""
    taken = torch.optim.AdamW.step

    def spoil(self: torch.optim.AdamW, *arguments: Any, **options: Any) -> Any:
        result = taken(self, *arguments, **options)
        count.append(0)
        if len(count) == step:
            with torch.no_grad():
                self.param_groups[0]["params"][0].view(-1)[0] = math.nan
        return result

    count: list[int] = []
    signalled(step)
    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", spoil)
        outcome = start(*RECIPES[recipe])
    assert outcome.code == FAILED
    assert "NaN" in outcome.error
    signalled(0)
    if recipe == "seed" and step > 4:  # the checkpoint of step 4 was saved before
        assert start(*SEED, "--resume").code == 0


def test_a_training_with_other_options_is_not_resumed(
    start: Start, stopped: Path, distilbert: Path, graded: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    other_base = save_checkpoint(tmp_path / "other", "bert")
    other_data = Path(shutil.copytree(graded, tmp_path / "data"))
    (other_data / "dev.csv").write_text((graded / "test.csv").read_text())
    for changed, arguments in {
        "(settings: seed was 42, now 1)": (distilbert, graded, *GRID, "--seed", 1),
        "(recipe was GridRecipe, now SeedRecipe; settings: ": (distilbert, graded, *SEED),
        "(model was ": (other_base, graded, *GRID),
        "(data was ": (distilbert, other_data, *GRID),
        "(precision was fp32, now bf16)": (distilbert, graded, *GRID, "--precision", "bf16"),
    }.items():
        outcome = train(*arguments, "-o", target, "--resume")
        assert outcome.code == FAILED
        assert outcome.error.startswith(str(stopped))
        assert changed in outcome.error
    outcome = start(*GRID)
    assert outcome.code == USAGE
    assert outcome.error.startswith(str(stopped))
    assert "--resume" in outcome.error
    (stopped / "training.json").write_text("[]")
    assert "training.json" in start(*GRID, "--resume").error
    assert names(stopped) == ["state.pt", "training.json"]  # nothing was removed


def test_nothing_to_resume(start: Start, tmp_path: Path) -> None:
    outcome = start(*GRID, "--resume")
    assert outcome.code == FAILED
    assert outcome.error.startswith(str(tmp_path / "out.training"))
    assert names(tmp_path) == []
