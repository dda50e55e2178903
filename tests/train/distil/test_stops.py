"""A distillation that is stopped, killed or out of room goes on, or says in one line why not."""

import fcntl
import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from m2d_train.distil import pipeline, publish
from m2d_train.log import check_finite
from m2d_train.work import WorkFolder
from safetensors.torch import load_file

from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.errors import TrainingError
from tests.support.distillations import STEPS
from tests.train.distil.conftest import Distil

pytestmark = pytest.mark.slow

INTERRUPTED, FAILED, USAGE = 130, 1, 2
OPTIONS = ("--layers", "0,1,2,3", *STEPS)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def same_weights(folder: Path, other: Path) -> None:
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.safetensors"))
    assert files == sorted(path.relative_to(other) for path in other.rglob("*.safetensors"))
    for file in files:
        left, right = load_file(folder / file), load_file(other / file)
        for name in left:
            torch.testing.assert_close(left[name], right[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_writes_a_checkpoint_and_resume_finishes_it(
    start: Distil, signalled: Callable[..., None], distilled: Path, tmp_path: Path, number: int
) -> None:
    signalled(2, number)
    ended = start(*OPTIONS)
    assert ended.code == INTERRUPTED
    assert "--resume" in ended.err.splitlines()[-1]
    assert load_checkpoint(str(tmp_path / "out")).exits == (0, 1, 2, 3)
    assert json.loads((tmp_path / "out" / "m2d.json").read_text())["stopped"] is True
    signalled(0)
    assert start(*OPTIONS, "--resume").code == 0
    assert names(tmp_path) == ["out"]
    assert json.loads((tmp_path / "out" / "m2d.json").read_text())["steps"] == 4
    same_weights(tmp_path / "out", distilled)


@pytest.mark.parametrize("stage", ["solve_heads", "write_checkpoint", "choose_reads", "publish_checkpoint"])
def test_killed_in_any_stage_it_goes_on(
    start: Distil, monkeypatch: pytest.MonkeyPatch, distilled: Path, tmp_path: Path, stage: str
) -> None:
    def die(*arguments: object, **options: object) -> None:
        raise SystemExit(137)

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, stage, die)
        patched.setattr(WorkFolder, "remove_if_empty", lambda self: None)  # a killed process tidies nothing
        assert start(*OPTIONS).code == 137
    assert names(tmp_path) == ["out.distil"]
    again = start(*OPTIONS)
    assert again.code == USAGE
    assert "--resume" in again.error
    assert start(*OPTIONS, "--resume").code == 0
    assert names(tmp_path) == ["out"]
    same_weights(tmp_path / "out", distilled)


def test_ctrl_c_after_the_training_keeps_it_for_resume(
    start: Distil, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "choose_reads", interrupt)
    ended = start(*OPTIONS)
    assert ended.code == INTERRUPTED
    assert "--resume" in ended.err
    assert names(tmp_path) == ["out.distil"]


@pytest.mark.parametrize("kilobytes", [100, 400, 600])  # too few for the weights, for the state, for the targets
def test_a_full_disk_is_one_line_and_the_next_run_goes_on(start: Distil, tmp_path: Path, kilobytes: int) -> None:
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes << 10, usual[1]))
    try:
        ended = start(*OPTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert ended.code == USAGE
    assert "no room left" in ended.error
    assert names(tmp_path) in ([], ["out.distil"])
    assert start(*OPTIONS, *(["--resume"] if names(tmp_path) else [])).code == 0
    assert names(tmp_path) == ["out"]


def test_memory_that_runs_out_is_one_line(start: Distil, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(pipeline, "solve_heads", full)
    ended = start(*OPTIONS)
    assert ended.code == FAILED
    assert "memory ran out" in ended.error
    assert names(tmp_path) == []


@pytest.fixture
def stopped(start: Distil, signalled: Callable[..., None], tmp_path: Path) -> Path:
    """The work folder of a distillation that was stopped after two steps."""
    signalled(2)
    assert start(*OPTIONS).code == INTERRUPTED
    signalled(0)
    return tmp_path / "out.distil"


def test_a_damaged_or_foreign_work_folder_is_refused_in_one_line(start: Distil, stopped: Path, tmp_path: Path) -> None:
    def refused(*options: object) -> str:
        ended = start(*OPTIONS, "--resume", *options)
        assert ended.code == FAILED
        return ended.error

    assert "seed" in refused("--seed", 1)
    assert "steps was 4, now 5" in refused("--steps", 5)
    state = stopped / "state.pt"
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2])
    assert str(state) in refused()
    torch.save([1, 2], state)
    assert str(stopped) in refused()
    state.write_bytes(whole)
    weights = stopped / "start" / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[len(changed) // 2] ^= 1
    weights.write_bytes(changed)
    assert str(stopped) in refused()


@pytest.mark.parametrize("name", ["notes.txt", "README.md"])
def test_what_somebody_added_to_or_changed_in_a_stopped_output_is_not_removed(
    start: Distil, stopped: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "out" / name).write_text("mine")
    ended = start(*OPTIONS, "--resume")
    assert ended.code == USAGE
    assert name in ended.error
    assert (tmp_path / "out" / name).read_text() == "mine"


@pytest.mark.parametrize("stopped_first", [True, False])
def test_killed_right_after_the_output_appeared_it_goes_on(
    start: Distil, signalled: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stopped_first: bool
) -> None:
    real = publish.publish

    def die(*arguments: Any) -> None:
        real(*arguments)
        raise SystemExit(137)

    signalled(2 if stopped_first else 0)
    with monkeypatch.context() as patched:
        patched.setattr(publish, "publish", die)
        assert start(*OPTIONS).code == 137
    signalled(0)
    assert names(tmp_path) == ["out", "out.distil"]
    assert start(*OPTIONS, "--resume").code == 0
    assert names(tmp_path) == ["out"]
    assert json.loads((tmp_path / "out" / "m2d.json").read_text())["steps"] == 4


def test_two_at_once_for_one_output(start: Distil, stopped: Path) -> None:
    other = os.open(stopped, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    ended = start(*OPTIONS, "--resume")
    assert ended.code == USAGE
    assert "another process" in ended.error
    os.close(other)
    assert start(*OPTIONS, "--resume").code == 0


def test_a_state_with_nan_advises_an_option_that_distil_has(start: Distil, stopped: Path) -> None:
    found = torch.load(stopped / "state.pt", weights_only=True)
    found["state"]["training"]["weights"][0][:] = float("nan")
    torch.save(found, stopped / "state.pt")
    ended = start(*OPTIONS, "--resume")
    assert ended.code == FAILED
    assert "NaN" in ended.error
    assert "--learning-rate" not in ended.error
    with pytest.raises(TrainingError, match="--minutes 0"):
        check_finite(found["state"], "distil")


def test_nothing_to_resume(start: Distil, tmp_path: Path) -> None:
    ended = start(*OPTIONS, "--resume")
    assert ended.code == FAILED
    assert ended.error.startswith(str(tmp_path / "out.distil"))
