"""Outputs on the command line: devices, pipes, links, standard output, and what is never replaced."""

import fcntl
import io
import os
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from m2d_export.host.staging import STAGING
from tests.cli.commands import PROGRAM, QUICK, USAGE, Run, contents, encoded, refuse
from tests.support.checkpoints import WIDTH


def shape(data: bytes) -> tuple[int, ...]:
    return tuple(np.load(io.BytesIO(data)).shape)


def program(line: str) -> "subprocess.CompletedProcess[bytes]":
    """Run a line of a shell, in which $M is the program."""
    return subprocess.run(["bash", "-c", line], env=os.environ | {"M": " ".join(PROGRAM)}, capture_output=True)


# Files that encode writes


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "//dev/stdout", "/proc/thread-self/fd/1", "link"])
def test_vectors_on_standard_output_are_a_file_of_numpy_and_nothing_else(folder: Path, name: str) -> None:
    (folder / "link").symlink_to("/dev/stdout")
    done = program(f"$M encode tiny.m2d texts.txt -o {name} | cat")
    assert (done.returncode, shape(done.stdout), done.stderr) == (0, (2, WIDTH), b"")


@pytest.mark.parametrize("remove", ["", "rm file;"])
def test_an_open_file_of_the_shell_gets_the_vectors_after_what_it_has(folder: Path, remove: str) -> None:
    line = f"echo first > file; exec 3>> file 4< file; {remove} $M encode tiny.m2d texts.txt -o /dev/fd/3; cat <&4 >&2"
    done = program(line)
    first, vectors = done.stderr[:6], done.stderr[6:]
    assert (done.returncode, first, shape(vectors)) == (0, b"first\n", (2, WIDTH))
    assert sorted(path.name for path in folder.glob("file*")) == ([] if remove else ["file"])


def test_an_open_file_that_cannot_be_written_is_refused_before_the_work(folder: Path) -> None:
    done = program("exec 4< texts.txt; $M encode tiny.m2d texts.txt -o /dev/fd/4 --force")
    assert (done.returncode, done.stderr.count(b"open for reading only")) == (USAGE, 1)


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_pipe_and_a_device_get_the_vectors_and_stay(run: Run, folder: Path, force: list[str]) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("/dev/null")
    with ThreadPoolExecutor() as pool:
        read = pool.submit((folder / "pipe").read_bytes)
        for output in ("pipe", "/dev/null", "link"):
            assert run("encode", "tiny.m2d", "texts.txt", "-o", output, *force).code == 0
        assert shape(read.result()) == (2, WIDTH)
    assert (folder / "pipe").is_fifo()
    assert (folder / "link").is_symlink()
    assert Path("/dev/null").is_char_device()
    assert not list(folder.glob(f"{STAGING}*"))


def test_a_link_is_followed_and_stays_and_a_replaced_file_keeps_its_mode(run: Run, folder: Path) -> None:
    (folder / "real.npy").touch(mode=0o600)
    (folder / "link.npy").symlink_to("real.npy")
    (folder / "new.npy").symlink_to("made.npy")
    assert run("encode", "tiny.m2d", "texts.txt", "-o", "link.npy").code == USAGE
    assert run("encode", "tiny.m2d", "texts.txt", "-o", "link.npy", "--force").code == 0
    assert run("encode", "tiny.m2d", "texts.txt", "-o", "new.npy").code == 0
    assert (folder / "link.npy").is_symlink()
    assert (folder / "new.npy").is_symlink()
    assert encoded(folder, "real.npy").shape == encoded(folder, "made.npy").shape == (2, WIDTH)
    assert (folder / "real.npy").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["same name", "hard link", "link"])
def test_the_input_is_never_the_output(run: Run, folder: Path, name: str) -> None:
    path = folder / name
    if name == "hard link":
        path.hardlink_to(folder / "texts.txt")
    else:
        path.symlink_to("texts.txt")
    output = "texts.txt" if name == "same name" else name
    outcome = run("encode", "tiny.m2d", "texts.txt", "-o", output, "--force")
    assert (outcome.code, outcome.out) == (USAGE, "")
    assert (folder / "texts.txt").read_text() == "a cat\nthe dog\n"
    if name == "same name":  # the shell opens it
        encode = "$M encode tiny.m2d --force -o"
        done = program(f"{encode} texts.txt < texts.txt; {encode} - < texts.txt >> texts.txt")
        assert done.returncode == USAGE
        assert (folder / "texts.txt").read_text() == "a cat\nthe dog\n"


@pytest.mark.parametrize(
    "command",
    [
        "encode tiny.m2d texts.txt -o tiny.m2d/o.npy",
        "encode tiny.m2d texts.txt -o tiny.m2d/tokenizer.json --force",
        "encode tiny.m2d texts.txt -o inside/o.npy",
        "bench tiny.m2d -o tiny.m2d/results.jsonl",
        "report results.jsonl -o tiny.m2d/report",
        "onnx tiny.m2d -o tiny.m2d/graphs/onnx",
        "triton tiny.m2d --cell 1x64 -o tiny.m2d/models",
        "cpp tiny.m2d --cell 1x64 --runtime onnxrt -o tiny.m2d/cpp",
        "slice checkpoint --cell 1x64 -o tiny.m2d/slice",
        "build checkpoint -o tiny.m2d/new.m2d",
    ],
)
def test_nothing_is_written_into_a_bundle(run: Run, folder: Path, command: str) -> None:
    (folder / "inside").symlink_to("tiny.m2d/graphs")
    refuse(run, folder, command, str(folder / "tiny.m2d"))


@pytest.mark.parametrize("command", ["onnx tiny.m2d", "triton tiny.m2d --cell 1x64", "report results.jsonl", "build x"])
def test_a_folder_cannot_be_standard_output_or_a_device(run: Run, folder: Path, command: str) -> None:
    refuse(run, folder, f"{command} -o -", "standard output")
    refuse(run, folder, f"{command} -o /dev/null", "/dev/null" if command != "report results.jsonl" else "")


def test_a_home_folder_that_the_shell_left_in_is_found(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert run("encode", "~/tiny.m2d", "~/texts.txt", "--output=~/o.npy").code == 0
    assert encoded(folder).shape == (2, WIDTH)
    monkeypatch.setenv("HOME", "")
    refuse(run, folder, "encode ~/tiny.m2d ~/texts.txt -o o2.npy", "home")


def test_what_a_killed_encode_left_is_removed_by_the_next_one_of_that_output(run: Run, folder: Path) -> None:
    command = [*PROGRAM, "encode", "tiny.m2d", "-o", "o.npy"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not list(folder.glob(f"{STAGING}o.npy-*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        run("encode", "tiny.m2d", "texts.txt", "-o", "o.npy")  # the other one lives: it is left alone
        assert len(list(folder.glob(f"{STAGING}o.npy-*"))) == 1
        process.send_signal(signal.SIGKILL)
    run("encode", "tiny.m2d", "texts.txt", "-o", "other.npy")
    assert len(list(folder.glob(f"{STAGING}*"))) == 1
    assert run("encode", "tiny.m2d", "texts.txt", "-o", "o.npy", "--force").code == 0
    assert list(folder.glob(f"{STAGING}*")) == []


@pytest.mark.slow
def test_a_full_disk_is_an_error_of_one_line_also_in_a_library_of_rust(
    folder: Path, make_checkpoint: Callable[..., Path]
) -> None:
    """safetensors raises an error of its own with the system's error in its text."""
    done = program(f"ulimit -f 16; $M slice {make_checkpoint()} --cell 1x64 -o sliced")
    (line,) = done.stderr.splitlines()
    assert done.returncode == USAGE
    assert line.startswith(b"Error: no room left to write")
    assert not list(folder.glob("*sliced*"))


def test_a_terminal_that_closes_does_not_end_a_command_under_nohup(folder: Path) -> None:
    with subprocess.Popen(
        [*PROGRAM, "encode", "tiny.m2d", "-o", "o.npy"],
        stdin=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    ) as process:
        deadline = time.monotonic() + 60
        while not list(folder.glob(f"{STAGING}o.npy-*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGHUP)
        process.communicate(b"a cat\n", timeout=60)
    assert (process.returncode, encoded(folder).shape) == (0, (1, WIDTH))


# Standard streams


@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize("command", ["show tiny.m2d", "show tiny.m2d --json", "encode tiny.m2d texts.txt -o -"])
def test_a_full_standard_output_is_an_error_in_one_line(folder: Path, command: str, buffered: str) -> None:
    done = program(f"PYTHONUNBUFFERED={buffered} $M {command} > /dev/full")
    assert done.returncode == USAGE
    (line,) = done.stderr.splitlines()
    assert line.startswith(b"Error: standard output")


def test_a_reader_that_stops_reading_ends_a_command_quietly(folder: Path) -> None:
    done = program("($M show tiny.m2d; $M encode tiny.m2d texts.txt -o -) | true")
    assert done.stderr == b""


def test_closed_streams_harm_no_output(folder: Path) -> None:
    done = program("$M encode tiny.m2d texts.txt -o o.npy <&- >&- 2>&-")
    assert (done.returncode, encoded(folder).shape) == (0, (2, WIDTH))
    done = program("$M encode tiny.m2d -o o2.npy <&-; $M encode tiny.m2d texts.txt -o - >&-")
    assert done.returncode == USAGE
    assert len(done.stderr.splitlines()) == 2
    assert b"Traceback" not in done.stderr
    assert not (folder / "o2.npy").exists()


@pytest.mark.parametrize(
    "command",
    [
        "show tiny.m2d",
        "show tiny.m2d --json",
        "verify tiny.m2d --json",
        "select tiny.m2d",
        f"bench tiny.m2d {QUICK} --json -o results.jsonl",
    ],
)
def test_a_command_that_prints_its_result_needs_standard_output(folder: Path, command: str) -> None:
    done = program(f"$M {command} >&-")
    (line,) = done.stderr.splitlines()
    assert done.returncode == USAGE
    assert line.startswith(b"Error: standard output is closed")
    assert not (folder / "results.jsonl").exists()


def test_a_name_that_is_no_utf_8_is_written_and_printed(folder: Path) -> None:
    done = program("PYTHONIOENCODING=utf-8 $M encode tiny.m2d texts.txt -o $'caf\\xe9.npy'")
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"caf\udce9.npy" in done.stdout
    assert (folder / os.fsdecode(b"caf\xe9.npy")).exists()


# Results of bench


def test_an_empty_results_file_of_the_user_stays_and_a_new_one_is_removed(run: Run, folder: Path) -> None:
    (folder / "link.jsonl").symlink_to("real.jsonl")
    (folder / "mine.jsonl").touch()
    before = contents(folder)
    for name in ("link.jsonl", "mine.jsonl"):
        assert run("bench", "tiny.m2d", "--sts", "none.csv", "-o", name).code == USAGE
    assert contents(folder) == before
    assert (folder / "link.jsonl").is_symlink()


@pytest.mark.parametrize("name", ["pipe", "/dev/null", "-", "folder"])
def test_results_that_cannot_be_read_again_are_refused_before_the_work(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    monkeypatch.setattr("m2d_export.bundle.disk.Bundle.open", lambda *arguments: pytest.fail("the work began"))
    outcome = run("bench", "tiny.m2d", *QUICK.split(), "-o", name)
    assert (outcome.code, outcome.out) == (USAGE, "")
    assert len(outcome.err.splitlines()) == 1


def test_a_second_bench_of_a_results_file_is_refused(run: Run, folder: Path) -> None:
    (folder / "link.jsonl").symlink_to("results.jsonl")
    with (folder / "results.jsonl").open("ab") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        before = contents(folder)
        for name in ("results.jsonl", "link.jsonl"):
            outcome = run("bench", "tiny.m2d", *QUICK.split(), "-o", name)
            assert (outcome.code, outcome.out) == (USAGE, "")
            assert "another bench" in outcome.err
        assert contents(folder) == before
    assert run("bench", "tiny.m2d", *QUICK.split(), "-o", "link.jsonl").code == 0
    assert (folder / "link.jsonl").is_symlink()
