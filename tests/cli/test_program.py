"""The program itself: its help, wrong use, how it ends when it is interrupted, and its steps."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from m2d_export import Bundle, __version__
from m2d_export.cli.common import steps
from tests.cli.commands import INTERRUPTED, PROGRAM, TERMINATED, USAGE, Outcome, Run, contents, refuse
from tests.conftest import heed_signals


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["build", "--help"], ["encode", "-h"]])
def test_help_is_on_standard_output(run: Run, arguments: list[str]) -> None:
    outcome = run(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    assert "Usage:" in outcome.out


def test_the_version_is_the_packages(run: Run) -> None:
    assert run("--version") == Outcome(0, f"m2d-export, version {__version__}\n", "")


def test_no_command_at_all_is_wrong_use_and_shows_the_help(run: Run) -> None:
    outcome = run()
    assert (outcome.code, outcome.out) == (USAGE, "")
    assert "Commands:" in outcome.err


def test_the_module_is_the_program(folder: Path) -> None:
    done = subprocess.run([*PROGRAM, "verify", "tiny.m2d"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("tiny.m2d is sound")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("bundle", "No such command 'bundle'"),
        ("show", "Missing argument 'BUNDLE'"),
        ("show tiny.m2d --jsno", "No such option"),
        ("encode tiny.m2d texts.txt", "Missing option '-o' / '--output'"),
        ("encode tiny.m2d texts.txt -o o.npy --layer two", "'two' is not a valid integer"),
        ("encode tiny.m2d texts.txt -o o.npy --runtime tensorrt", "'tensorrt' is not one of"),
        ("encode tiny.m2d texts.txt -o o.npy --precision fp8", "'fp8' is not"),
        ("encode tiny.m2d texts.txt -o o.npy --threads 0", "0 is not in the range x>=1"),
        ("encode tiny.m2d texts.txt -o o.npy --threads x", "'x' is not a valid integer range"),
        ("encode tiny.m2d texts.txt -o o.npy --compute fp8", "'fp8' is not one of 'fp32', 'bf16'"),
        ("encode tiny.m2d none.txt -o o.npy", "'none.txt': No such file or directory"),
        ("bench tiny.m2d --layers 1,x", "--layers takes whole numbers separated by commas"),
        ("bench tiny.m2d --dims all", "--dims takes whole numbers separated by commas"),
        ("bench tiny.m2d --batch-size 1.5", "--batch-size takes whole numbers separated by commas"),
        ("build x -o y --layers ALL", "--layers takes whole numbers separated by commas"),
    ],
)
def test_wrong_use_is_said_with_where_to_read_more(run: Run, folder: Path, arguments: str, message: str) -> None:
    outcome = refuse(run, folder, arguments, message)
    assert outcome.err.endswith(" --help says more)\n")


@pytest.mark.parametrize("command", ["show tiny.m2d", "verify tiny.m2d", "encode tiny.m2d texts.txt -o o.npy"])
def test_an_interrupted_command_ends_with_130(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bundle, "open", interrupted)
    before = contents(folder)
    outcome = run(*command.split())
    assert (outcome.code, outcome.out, outcome.err.strip()) == (INTERRUPTED, "", "interrupted")
    assert contents(folder) == before


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)])
def test_a_signal_ends_a_waiting_command_and_leaves_nothing(folder: Path, sent: signal.Signals, code: int) -> None:
    before = contents(folder)
    command = [*PROGRAM, "encode", "tiny.m2d", "-o", "vectors.npy"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, preexec_fn=heed_signals, **pipes) as process:
        # It reads standard input once the model is loaded, so it is waiting when that library is mapped.
        maps = Path(f"/proc/{process.pid}/maps")
        deadline = time.monotonic() + 30
        while "onnxruntime" not in maps.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(sent)
        out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert out == b""
    assert b"Traceback" not in err
    assert contents(folder) == before


@pytest.mark.parametrize(
    "command",
    [
        *("--help", "show tiny.m2d", "show tiny.m2d --json", "verify tiny.m2d"),
        "bench tiny.m2d --sts pairs.csv --layers 1 --batch-size 1 --tokens 8 --json",
    ],
)
def test_a_reader_that_has_gone_is_no_traceback(folder: Path, command: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as "| head -0" does, but before the first byte
    done = subprocess.run([*PROGRAM, *command.split()], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode in (0, 1)
    assert done.stderr == ""


def test_steps_are_told_on_a_terminal_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with steps() as report:
        report("unfinished build of [/]odd[bold].m2d")
    captured = capsys.readouterr()
    assert "unfinished build of [/]odd[bold].m2d" in captured.err
    assert captured.out == ""


def test_steps_are_told_nowhere_else(capsys: pytest.CaptureFixture[str]) -> None:
    with steps() as report:
        report("loading the checkpoint")
    assert capsys.readouterr() == ("", "")
