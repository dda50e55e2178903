"""The program: help, wrong use, signals, closed pipes, and progress on a terminal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from m2d_export import Bundle, __version__
from m2d_export.cli.common import steps
from m2d_export.host.staging import STAGING
from tests.cli.commands import (
    HUNG_UP,
    INTERNAL,
    INTERRUPTED,
    PROGRAM,
    TERMINATED,
    USAGE,
    Outcome,
    Run,
    contents,
    refuse,
)
from tests.support.signals import heed_signals


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["build", "--help"], ["encode", "-h"]])
def test_help_is_on_standard_output(run: Run, arguments: list[str]) -> None:
    outcome = run(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    assert "Usage:" in outcome.out


def test_the_version_is_that_of_the_package(run: Run) -> None:
    assert run("--version") == Outcome(0, f"m2d-export, version {__version__}\n", "")


def test_without_a_command_the_help_is_shown_as_wrong_use(run: Run) -> None:
    outcome = run()
    assert (outcome.code, outcome.out) == (USAGE, "")
    assert "Commands:" in outcome.err


def test_python_m_m2d_export_runs_the_program(folder: Path) -> None:
    done = subprocess.run([*PROGRAM, "verify", "tiny.m2d"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("tiny.m2d is intact")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("bundle", "No such command 'bundle'"),
        ("show", "Missing argument 'BUNDLE'"),
        ("show tiny.m2d --jsno", "No such option"),
        ("encode tiny.m2d texts.txt", "Missing option '-o' / '--output'"),
        ("encode tiny.m2d texts.txt -o o.npy --cell 3", "LAYERxDIM, such as 3x128; got '3'"),
        ("encode tiny.m2d texts.txt -o o.npy --cell twox64", "got 'twox64'"),
        ("encode tiny.m2d texts.txt -o o.npy --layer 3", "No such option"),
        ("build x -o y --precision fp32,,int8", "words separated by commas"),
        ("encode tiny.m2d texts.txt -o o.npy --runtime tensorrt", "'tensorrt' is not one of"),
        ("encode tiny.m2d texts.txt -o o.npy --precision fp8", "'fp8' is not"),
        ("encode tiny.m2d texts.txt -o o.npy --threads 0", "0 is not in the range 1<=x<=1024"),
        ("encode tiny.m2d texts.txt -o o.npy --threads x", "'x' is not a valid integer range"),
        ("encode tiny.m2d texts.txt -o o.npy --compute fp8", "'fp8' is not one of 'fp32', 'bf16'"),
        ("encode tiny.m2d none.txt -o o.npy", "'none.txt': No such file or directory"),
        ("bench tiny.m2d --layers 1,x", "--layers takes whole numbers separated by commas"),
        ("bench tiny.m2d --dims all", "--dims takes whole numbers separated by commas"),
        ("bench tiny.m2d --batch-size 1.5", "--batch-size takes whole numbers separated by commas"),
        ("build x -o y --layers ALL", "--layers takes whole numbers separated by commas"),
    ],
)
def test_wrong_use_names_the_help_to_read(run: Run, folder: Path, arguments: str, message: str) -> None:
    outcome = refuse(run, folder, arguments, message)
    assert outcome.err.endswith(" --help)\n")


@pytest.mark.parametrize("command", ["show tiny.m2d", "verify tiny.m2d", "encode tiny.m2d texts.txt -o o.npy"])
def test_an_interrupted_command_ends_with_130(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bundle, "open", interrupted)
    before = contents(folder)
    outcome = run(*command.split())
    assert (outcome.code, outcome.out, outcome.err.strip()) == (INTERRUPTED, "", "interrupted")
    assert contents(folder) == before


def test_an_interrupt_inside_an_exec_ends_a_module_with_130(tmp_path: Path) -> None:
    text = (
        "import click\nfrom m2d_export.cli import run\nrun(click.command()(lambda: exec('raise KeyboardInterrupt')))\n"
    )
    (tmp_path / "program.py").write_text(text)
    done = subprocess.run([sys.executable, "-m", "program"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == INTERRUPTED


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED), (signal.SIGHUP, HUNG_UP)]
)
def test_a_signal_ends_a_command_and_removes_its_unfinished_output(
    folder: Path, sent: signal.Signals, code: int
) -> None:
    before = contents(folder)
    command = [*PROGRAM, "encode", "tiny.m2d", "-o", "vectors.npy"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, preexec_fn=heed_signals, **pipes) as process:
        deadline = time.monotonic() + 60
        # When the staged file is there, it reads standard input.
        while not list(folder.glob(f"{STAGING}vectors.npy-*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(sent)
        out, err = process.communicate(timeout=60)
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
def test_a_closed_pipe_causes_no_traceback(folder: Path, command: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as "| head -0" does, but before the first byte
    done = subprocess.run([*PROGRAM, *command.split()], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode in (0, 1)
    assert done.stderr == ""


def test_steps_are_shown_on_a_terminal_without_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with steps() as progress:
        progress("unfinished build of [/]odd[bold].m2d")
    captured = capsys.readouterr()
    assert "unfinished build of [/]odd[bold].m2d" in captured.err
    assert captured.out == ""


def test_steps_are_not_shown_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with steps() as progress:
        progress("loading the checkpoint")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("shown", [False, True])
def test_an_error_that_nobody_expected_is_one_line_with_its_own_code(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, shown: bool
) -> None:
    class PanicException(BaseException):  # as that of Rust libraries
        pass

    def broken(*arguments: object) -> None:
        raise PanicException("index out of\nbounds")

    monkeypatch.setattr(Bundle, "open", broken)
    if shown:
        monkeypatch.setenv("M2D_TRACEBACK", "1")
    outcome = run("show", "tiny.m2d")
    assert outcome.code == INTERNAL
    assert "PanicException" in outcome.err
    assert ("Traceback" in outcome.err) is shown
    assert shown or outcome.err.count("\n") == 1


def test_too_little_memory_is_no_bug(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Bundle, "open", greedy)
    outcome = run("show", "tiny.m2d")
    assert (outcome.code, outcome.err.count("\n")) == (USAGE, 1)
