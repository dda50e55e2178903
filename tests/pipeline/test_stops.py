"""A full disk, a kill or an interrupt leaves what was there, and nothing else."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from m2d_export import Bundle, pipeline
from m2d_export.errors import DiskFullError, OutputError
from m2d_export.graphs import export as graphs
from m2d_export.host.staging import remove_stale
from m2d_export.plan import Plan
from tests.pipeline.forge import STEPS, Forge, build, sound, staging, tree
from tests.support.signals import heed_signals

pytestmark = pytest.mark.slow


def test_too_small_a_disk_is_refused_before_the_work(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    with pytest.raises(DiskFullError, match=r"new\.m2d needs about 1 MB .* 0 MB are free"):
        plan()
    assert list(tmp_path.iterdir()) == []


def test_the_room_is_that_of_every_precision_and_engine(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed: list[int] = []
    monkeypatch.setattr("m2d_export.plan.check_room", lambda target, room: needed.append(room))
    weights = plan().weight_bytes
    plan(precisions=["fp32", "fp16", "int8"])
    assert needed == [2 * weights, 2 * weights + weights + weights // 2]
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed (extra: trt-rtx)")
    plan(engines=["trt-rtx"])
    assert 3 * weights < needed[-1] < 2 * weights + 3 * weights  # an engine of each of three exits, the deepest whole


@pytest.mark.parametrize(("code", "error"), [(errno.ENOSPC, DiskFullError), (errno.EIO, OutputError)])
def test_a_failing_disk_leaves_the_old_bundle_and_no_staging(
    plan: Callable[..., Plan], old: Path, monkeypatch: pytest.MonkeyPatch, code: int, error: type[OutputError]
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    before, planned = tree(old), plan(target=old, layers=[1], force=True)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(error, match=f"write {old}.*{os.strerror(code)}"):
        pipeline.build_planned(planned)
    assert tree(old) == before
    assert staging(old) == []


def limit_file_size(checkpoint: Path, target: Path, at_step: str, size: int) -> None:
    def limit(step: str) -> None:
        if step == at_step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    build(checkpoint, target, force=True, progress=limit, layers=None)


@pytest.mark.parametrize(
    ("step", "size"),
    [("writing fp32 graphs and their shared weights", 100_000), ("writing the manifest", 1000)],
    ids=["weights", "manifest"],
)
def test_a_file_that_cannot_be_written_whole_leaves_the_old_bundle_and_no_staging(
    forge: Forge, old: Path, step: str, size: int
) -> None:
    before = tree(old)
    code, message = forge.run(limit_file_size, old, step, size)
    assert code == 2
    assert message.startswith(f"DiskFullError: no room left to write {old} (File too large): free some space")
    assert tree(old) == before
    assert staging(old) == []


# A build that is killed


def die_at(checkpoint: Path, target: Path, force: bool, at_step: str) -> None:
    def die(step: str) -> None:
        if step == at_step:
            os.kill(os.getpid(), signal.SIGKILL)

    build(checkpoint, target, force, progress=die)


def die_after_the_exchange(checkpoint: Path, target: Path) -> None:
    shutil.rmtree = lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL)  # what removes the old bundle
    build(checkpoint, target, force=True)


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_build_leaves_no_target_and_the_next_one_succeeds(forge: Forge, tmp_path: Path, step: str) -> None:
    target = tmp_path / "new.m2d"
    assert forge.run(die_at, target, False, step) == (-signal.SIGKILL, "")
    assert not target.exists()
    assert len(staging(target)) == (step in STEPS[1:])
    assert forge.run(build, target) == (0, "")
    assert sound(target)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_replacement_leaves_the_old_bundle_and_the_next_one_succeeds(
    forge: Forge, old: Path, step: str
) -> None:
    before = tree(old)
    assert forge.run(die_at, old, True, step) == (-signal.SIGKILL, "")
    assert tree(old) == before
    assert forge.run(build, old, True) == (0, "")
    assert Bundle.open(old).grid.layers == (1,)
    assert sound(old)
    assert staging(old) == []


def test_a_build_killed_after_the_exchange_has_published(forge: Forge, old: Path) -> None:
    first = Bundle.open(old)
    assert forge.run(die_after_the_exchange, old) == (-signal.SIGKILL, "")
    assert Bundle.open(old).grid.layers == (1,)
    assert sound(old)
    assert [Bundle.open(path).id for path in staging(old)] == [first.id]
    assert remove_stale(old) == 1


def test_the_next_build_reports_what_a_killed_one_left(plan: Callable[..., Plan], forge: Forge) -> None:
    planned, steps = plan(layers=[1]), list[str]()
    forge.run(die_at, planned.target, False, "writing the manifest")
    pipeline.build_planned(planned, progress=steps.append)
    assert steps[0] == "removed 1 unfinished build(s) of new.m2d"


def test_a_build_leaves_the_staging_of_a_living_one_alone(plan: Callable[..., Plan]) -> None:
    planned = plan(layers=[1])
    removed: list[int] = []
    pipeline.build_planned(planned, progress=lambda step: removed.append(remove_stale(planned.target)))
    assert set(removed) == {0}
    assert sound(planned.target)


# A command that is interrupted


def interrupt(checkpoint: Path, target: Path, number: int) -> None:
    from m2d_export.cli import main

    save = graphs.save_graphs

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test in the background of a shell ignores it

    def save_and_signal(*arguments: Any) -> None:
        save(*arguments)
        os.kill(os.getpid(), number)

    graphs.save_graphs = save_and_signal
    sys.argv = ["m2d-export", "build", str(checkpoint), "-o", str(target), "--force"]
    main()


SIGNALS = {"Ctrl-C": (signal.SIGINT, 130), "SIGTERM": (signal.SIGTERM, 143)}


@pytest.mark.parametrize(("number", "code"), SIGNALS.values(), ids=SIGNALS)
def test_an_interrupted_command_cleans_up_and_says_so_by_its_code(
    forge: Forge, old: Path, number: int, code: int
) -> None:
    before = tree(old)
    assert forge.run(interrupt, old, number) == (code, "")
    assert tree(old) == before
    assert staging(old) == []


@pytest.mark.parametrize(("number", "code"), SIGNALS.values(), ids=SIGNALS)
def test_the_installed_command_line_can_be_interrupted(checkpoint: Path, old: Path, number: int, code: int) -> None:
    before = tree(old)
    command = [sys.executable, "-m", "m2d_export", "build", str(checkpoint), "-o", str(old), "--force"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_signals) as process:
        while not staging(old) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert tree(old) == before
    assert staging(old) == []
