"""Outputs appear whole or not at all; a failure leaves the old output unchanged."""

import errno
import os
import shutil
import socket
import stat
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from m2d_export.errors import DiskFullError, OutputError, SpecError
from m2d_export.host.files import check_output, check_room, descriptor_of, expanded, followed, output_file, writing
from tests.host.outputs import failing, names

TARGET = Path("/some/target")


# writing


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_full_disk_is_an_error_of_its_own(code: int) -> None:
    with pytest.raises(DiskFullError, match=str(TARGET)), writing(TARGET):
        failing(code)()


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EROFS, errno.EXDEV])
def test_a_failed_write_names_the_target_and_the_reason(code: int) -> None:
    with pytest.raises(OutputError, match=f"cannot write /some/target: {os.strerror(code)}") as caught, writing(TARGET):
        failing(code)()
    assert not isinstance(caught.value, DiskFullError)


def test_errors_of_this_package_pass_through_writing() -> None:
    with pytest.raises(SpecError, match=r"^unchanged$"), writing(TARGET):
        raise SpecError("unchanged")


# check_room


def test_too_little_room_is_an_error_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000))
    check_room(tmp_path / "fits", 5_000_000)
    with pytest.raises(DiskFullError, match=r"7 MB.* 5 MB"):
        check_room(tmp_path / "does not", 7_000_000)


def test_the_folder_of_the_target_need_not_exist_to_measure_the_room(tmp_path: Path) -> None:
    check_room(tmp_path / "not" / "made" / "yet", 1)
    with pytest.raises(DiskFullError):
        check_room(tmp_path / "not" / "made" / "yet", 1 << 60)
    assert names(tmp_path) == []


# output_file


def test_a_file_appears_when_it_is_complete_and_others_can_read_it(tmp_path: Path) -> None:
    with output_file(tmp_path / "out.npy") as file:
        file.write(b"new")
        assert not (tmp_path / "out.npy").exists()
    assert (tmp_path / "out.npy").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "out.npy").stat().st_mode) == 0o644
    assert names(tmp_path) == ["out.npy"]


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ValueError("unchanged"), ValueError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.EIO, "I/O error"), OutputError),
        (OSError(errno.ENOSPC, "No space"), DiskFullError),
    ],
    ids=repr,
)
def test_a_failed_block_leaves_the_old_file(
    tmp_path: Path, raised: BaseException, expected: type[BaseException]
) -> None:
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(expected), output_file(tmp_path / "out") as file:  # noqa: PT012
        file.write(b"half of the n")
        raise raised
    assert (tmp_path / "out").read_bytes() == b"old"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_a_failed_sync_or_rename_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    (tmp_path / "out").write_bytes(b"old")
    with monkeypatch.context() as patched:
        patched.setattr(call, failing(errno.EIO))
        with pytest.raises(OutputError), output_file(tmp_path / "out") as file:
            file.write(b"new")
    assert (tmp_path / "out").read_bytes() == b"old"
    assert names(tmp_path) == ["out"]


def test_a_folder_is_not_overwritten_and_a_missing_folder_is_not_created(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "folder", tmp_path / "missing" / "out"):
        with pytest.raises(OutputError, match=str(target)), output_file(target) as file:
            file.write(b"new")
    assert names(tmp_path) == ["folder"]


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("middle")
    (tmp_path / "middle").symlink_to("elsewhere/out")
    for text in (b"new", b"newer"):
        with output_file(tmp_path / "link") as file:
            file.write(text)
        assert (tmp_path / "elsewhere" / "out").read_bytes() == text
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "elsewhere") == ["out"]


def test_a_replaced_file_keeps_its_mode_and_a_new_one_follows_the_umask(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "old").chmod(0o600)
    mask = os.umask(0o027)
    try:
        for name in ("old", "new"):
            with output_file(tmp_path / name) as file:
                file.write(b"new")
                assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == (0o600 if name == "old" else 0o640)
    finally:
        os.umask(mask)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("old", "new")] == [0o600, 0o640]


@pytest.mark.parametrize(("kind", "replace"), [("file", False), *((kind, True) for kind in ("folder", "pipe", "link"))])
def test_what_appears_meanwhile_is_left_alone(tmp_path: Path, kind: str, replace: bool) -> None:
    target = tmp_path / "out"
    appear: dict[str, Callable[[], object]] = {
        "file": lambda: target.write_text("theirs"),
        "folder": target.mkdir,
        "pipe": lambda: os.mkfifo(target),
        "link": lambda: target.symlink_to("elsewhere"),
    }
    with pytest.raises(OutputError, match="meanwhile"), output_file(target, replace):
        appear[kind]()
    assert names(tmp_path) == ["out"]
    assert kind != "file" or target.read_text() == "theirs"


def test_a_hard_link_keeps_the_old_bytes(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")
    (tmp_path / "other name").hardlink_to(tmp_path / "out")
    with output_file(tmp_path / "out") as file:
        file.write(b"new")
    assert (tmp_path / "other name").read_bytes() == b"old"


def test_a_pipe_gets_the_bytes_of_a_block_that_seeks_and_stays_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor() as pool:
        read = pool.submit((tmp_path / "pipe").read_bytes)
        with output_file(tmp_path / "pipe") as file:
            file.write(b"old")
            file.seek(0)
            file.write(b"new")
        assert read.result() == b"new"
    assert (tmp_path / "pipe").is_fifo()
    assert names(tmp_path) == ["pipe"]


def test_the_reader_of_a_pipe_sees_its_end_after_a_failure_and_no_bytes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor() as pool:
        read = pool.submit((tmp_path / "pipe").read_bytes)
        with pytest.raises(ValueError, match="stop"), output_file(tmp_path / "pipe") as file:  # noqa: PT012
            file.write(b"half")
            raise ValueError("stop")
        assert read.result() == b""


def test_a_device_gets_the_bytes_and_a_full_one_is_an_error() -> None:
    with output_file(Path("/dev/null")) as file:
        file.write(b"new")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(DiskFullError), output_file(Path("/dev/full")) as file:
        file.write(b"new")


def refused_outputs(folder: Path) -> dict[str, Path]:
    (folder / "loop").symlink_to("loop")
    (folder / "nowhere").symlink_to("missing/out")
    (folder / "to a folder").symlink_to(".")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "socket"))
    (folder / "file").write_text("old")
    found = {name: folder / name for name in ("loop", "nowhere", "to a folder", "socket", "file/out", "missing/out")}
    return found | {"folder": folder}


@pytest.mark.parametrize("name", ["loop", "nowhere", "to a folder", "socket", "file/out", "missing/out", "folder"])
def test_what_cannot_be_written_is_refused_before_the_work(tmp_path: Path, name: str) -> None:
    target, before = refused_outputs(tmp_path)[name], names(tmp_path)
    with pytest.raises(OutputError):
        check_output(target)
    with pytest.raises(OutputError), output_file(target):
        pytest.fail("the block ran")
    assert names(tmp_path) == before


@pytest.mark.parametrize("name", ["new", "old"])
def test_a_folder_or_a_file_without_write_permission_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "old").write_text("old")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(OutputError):
        check_output(tmp_path / name)


def test_open_files_are_known_by_all_their_names(tmp_path: Path) -> None:
    (tmp_path / "fd").symlink_to("/dev/fd")
    (tmp_path / "one").symlink_to("fd/1")
    (tmp_path / "two").symlink_to("one")
    (tmp_path / "round").symlink_to("round")
    known = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", f"/proc/{os.getpid()}/fd/1", "/proc/thread-self/fd/1")
    assert {descriptor_of(path) for path in (*map(Path, known), tmp_path / "two")} == {1}
    others = ("/dev/null", "/dev/fd/x", f"/dev/fd/{10**20}", "/proc/1/fd/1", tmp_path / "round", tmp_path / "1", "-")
    assert {descriptor_of(Path(path)) for path in others} == {None}


def test_a_working_folder_that_was_removed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(OutputError):
        check_output(Path("out"))


def test_a_closed_standard_output_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OutputError, match="standard output"):
        check_output(Path("-"))


# expanded and followed


def test_the_home_folder_stands_for_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert followed("~/out") == tmp_path / "out"
    assert followed("a~/out") == Path.cwd() / "a~" / "out"


@pytest.mark.parametrize("home", [None, ""])
def test_without_a_home_a_tilde_is_refused(monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    monkeypatch.delenv("HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    monkeypatch.setattr("pwd.getpwuid", lambda user: {}[user])  # a user that no file knows, as in a container
    for path in ("~", "~/out"):
        with pytest.raises(SpecError, match="home"):
            expanded(path)
    assert expanded("out~") == Path("out~")


def test_a_librarys_own_error_of_a_full_disk_is_one_of_ours(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match=str(tmp_path)), writing(tmp_path):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(RuntimeError, match="other"), writing(tmp_path):
        raise RuntimeError("other")
