"""How a training ends before its end: stopped and gone on with, lost, out of memory; and that a seed decides it all."""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers.sentence_transformer.losses import CoSENTLoss

import train.train as grid_training
from m2d_export.checkpoint import load_checkpoint
from tests.conftest import WIDTH, save_checkpoint
from tests.trainings import Outcome, train, write_data
from train import publish
from train.live import Screen
from train.stop import asked_to_stop

INTERRUPTED, LOST, USAGE = 130, 1, 2
OPTIONS = ("--dims", f"{WIDTH},16", "--batch-size", 8, "--epochs", 2, "--eval-steps", 4, "--layers", "1,3")
SEED = ("--recipe", "seed", "--dims", f"{WIDTH},16", "--batch-size", 8, "--epochs", 2, "--eval-steps", 4)
STEPS = 6

Start = Callable[..., Outcome]


@pytest.fixture(scope="module", autouse=True)
def undrawn() -> Iterator[None]:
    """No picture: it takes as long as all the rest of these trainings, and is looked at elsewhere."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(publish, "draw", lambda log, path: None)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("base") / "tiny", "distilbert")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("sets") / "pairs")


@pytest.fixture
def start(base: Path, data: Path, tmp_path: Path) -> Start:
    """Train into this test's folder ``out``."""
    return lambda *options, into="out": train(base, data, "-o", tmp_path / into, *options)


@pytest.fixture(scope="module")
def never_stopped(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "out"
    assert train(base, data, "-o", folder, *OPTIONS).code == 0
    return folder


@pytest.fixture(scope="module")
def seed_never_stopped(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole-seed") / "out"
    assert train(base, data, "-o", folder, *SEED).code == 0
    return folder


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have this process signalled after a step, as by Ctrl-C, as often as said."""
    shown = Screen.step

    def at(step: int, number: int = signal.SIGINT, times: int = 1) -> None:
        def stepped(self: Screen, taken: int, *rest: Any) -> None:
            shown(self, taken, *rest)
            for _ in range(times if taken == step else 0):
                signal.raise_signal(number)

        monkeypatch.setattr(Screen, "step", stepped)

    return at


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def weights(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


def log(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "m2d.json").read_text(encoding="utf-8"))["log"]


def one_error(outcome: Outcome) -> str:
    """The error that a command ended with, the only one and the last line."""
    *said, last = outcome.err.splitlines()
    assert last.startswith("Error: ")
    assert not [line for line in said if line.startswith(("Error", "Traceback"))]
    return last.removeprefix("Error: ")


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
    start: Start, signalled: Callable[..., None], never_stopped: Path, tmp_path: Path, stops: tuple[int, ...]
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
    start: Start, signalled: Callable[..., None], never_stopped: Path, tmp_path: Path
) -> None:
    signalled(2)
    start(*OPTIONS)
    ahead = [{**entry, "loss": 0.0} for entry in log(never_stopped)]
    (tmp_path / "out.training" / "log.json").write_text(json.dumps(ahead))
    signalled(0)
    assert start(*OPTIONS, "--resume").code == 0
    assert log(tmp_path / "out") == log(never_stopped)


def test_a_last_step_is_not_stopped_after(start: Start, signalled: Callable[..., None], never_stopped: Path) -> None:
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


def test_sigterm_keeps_what_was_done_too(start: Start, signalled: Callable[..., None], tmp_path: Path) -> None:
    signalled(3, signal.SIGTERM)
    assert start(*OPTIONS).code == INTERRUPTED
    assert "state.pt" in names(tmp_path / "out.training")


def test_a_second_ctrl_c_ends_at_once_and_leaves_nothing_to_go_on_with(
    start: Start, signalled: Callable[..., None], tmp_path: Path
) -> None:
    signalled(2, times=2)
    outcome = start(*OPTIONS)
    assert (outcome.code, outcome.err.splitlines()[-1]) == (INTERRUPTED, "interrupted")
    assert names(tmp_path) == []


def test_a_second_ctrl_c_leaves_the_last_state(start: Start, signalled: Callable[..., None], tmp_path: Path) -> None:
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
    start: Start, signalled: Callable[..., None], seed_never_stopped: Path, tmp_path: Path, step: int
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


def test_a_checkpoint_of_the_seed_recipe_that_is_cut_short(
    start: Start, signalled: Callable[..., None], tmp_path: Path
) -> None:
    signalled(3)
    start(*SEED)
    (held,) = (tmp_path / "out.training").glob("checkpoint-*/model.safetensors")
    held.write_bytes(held.read_bytes()[:1000])
    signalled(0)
    outcome = start(*SEED, "--resume")
    assert outcome.code == LOST
    assert "checkpoint-3 cannot be gone on from (" in one_error(outcome)
    assert one_error(outcome).endswith("out.training to start over")


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
    start: Start, monkeypatch: pytest.MonkeyPatch, never_stopped: Path, tmp_path: Path
) -> None:
    for call, options in ((6, OPTIONS), (2, (*OPTIONS, "--resume"))):  # which loses it again, and says the same
        with monkeypatch.context() as patched:
            lose_from(patched, call, float("nan"))
            outcome = start(*options)
        assert outcome.code == LOST
        assert one_error(outcome) == (
            "the loss is nan at step 6: a lower --learning-rate may help (step 4 is the last good one). What there is "
            f"of it is kept in {tmp_path / 'out.training' / 'last-good'}"
        )
    assert names(tmp_path) == ["out.training"]
    good = tmp_path / "out.training" / "last-good"
    assert log(good) == log(never_stopped)[:1]
    found = json.loads((good / "m2d.json").read_text())
    assert found["scores"]["dev"] == pytest.approx(log(good)[0]["dev"])
    assert sorted(load_checkpoint(str(good)).heads) == [1]


def test_lost_before_any_evaluation_but_after_a_stop(
    start: Start, monkeypatch: pytest.MonkeyPatch, signalled: Callable[..., None], tmp_path: Path
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


def test_an_error_of_our_own_is_not_taken_for_memory(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(grid_training, "grid_loss", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        start(*OPTIONS)


@pytest.fixture
def stopped(base: Path, data: Path, signalled: Callable[..., None], tmp_path: Path, never_stopped: Path) -> Path:
    """The folder of a grid training that was stopped after two steps."""
    signalled(2)
    train(base, data, "-o", tmp_path / "out", *OPTIONS)
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


def test_a_training_that_is_another_one(start: Start, stopped: Path, base: Path, data: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    other_base = save_checkpoint(tmp_path / "other", "bert")
    other_data = Path(shutil.copytree(data, tmp_path / "data"))
    (other_data / "dev.csv").write_text((data / "test.csv").read_text())
    for told, arguments in {
        "settings {": (base, data, *OPTIONS, "--seed", 1),
        "recipe GridRecipe there, SeedRecipe now; settings {": (base, data, *SEED),
        "model ": (other_base, data, *OPTIONS),
        "data ": (base, other_data, *OPTIONS),
        "precision fp32 there, bf16 now": (base, data, *OPTIONS, "--precision", "bf16"),
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
