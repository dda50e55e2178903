"""Outputs appear whole or not at all; a failure leaves the old output unchanged."""

import ctypes
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from m2d_export.errors import DiskFullError, OutputError, SpecError
from m2d_export.host.files import (
    STAGING,
    atomic_file,
    check_room,
    new_folder,
    publish,
    remove_stale,
    staged_directory,
    writing,
)

TARGET = Path("/some/target")


def failing(code: int) -> Callable[..., None]:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def folder(path: Path, content: str) -> Path:
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "file").write_text(content)
    return path


def content(path: Path) -> str:
    return (path / "inner" / "file").read_text()


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


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


# atomic_file


def test_a_file_appears_when_it_is_complete_and_others_can_read_it(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "out.npy") as staged:
        staged.write_bytes(b"new")
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
    with pytest.raises(expected), atomic_file(tmp_path / "out") as staged:  # noqa: PT012
        staged.write_bytes(b"half of the n")
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
        with pytest.raises(OutputError), atomic_file(tmp_path / "out") as staged:
            staged.write_bytes(b"new")
    assert (tmp_path / "out").read_bytes() == b"old"
    assert names(tmp_path) == ["out"]


def test_a_folder_is_not_overwritten_and_a_missing_folder_is_not_created(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "folder", tmp_path / "missing" / "out"):
        with pytest.raises(OutputError, match=str(target)), atomic_file(target) as staged:
            staged.write_bytes(b"new")
    assert names(tmp_path) == ["folder"]


# staged_directory and remove_stale


def test_staging_is_private_and_next_to_its_target_and_removed_afterwards(tmp_path: Path) -> None:
    target = tmp_path / "made" / "on the way" / "target"
    with staged_directory(target) as staging:
        assert staging.parent == target.parent
        assert stat.S_IMODE(staging.stat().st_mode) == 0o700
        folder(staging, "new")
    assert names(target.parent) == []


def test_staging_is_removed_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged_directory(tmp_path / "target") as staging:  # noqa: PT012
        folder(staging, "new")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["tiny.m2d", "[a-z]*?.m2d"])
def test_only_staging_of_killed_builds_of_the_same_target_is_stale(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    dead = folder(tmp_path / f"{STAGING}{name}-dead", "half")
    other = folder(tmp_path / f"{STAGING}other.m2d-dead", "half")
    with staged_directory(target) as living:
        assert remove_stale(target) == 1
        assert not dead.exists()
        assert other.is_dir()
        assert living.is_dir()


def test_a_symbolic_link_named_like_stale_staging_is_not_followed(tmp_path: Path) -> None:
    precious = folder(tmp_path / "precious", "kept")
    (tmp_path / f"{STAGING}target-x").symlink_to(precious)
    assert remove_stale(tmp_path / "target") == 0
    assert content(precious) == "kept"


def test_without_file_locks_builds_work_and_no_staging_counts_as_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    target = tmp_path / "target"
    with staged_directory(target) as staging:
        assert remove_stale(target) == 0
        publish(folder(staging, "new"), target, replace=False)
    assert content(target) == "new"


# new_folder


def test_a_new_folder_appears_whole_and_removes_stale_staging(tmp_path: Path) -> None:
    target = tmp_path / "target"
    folder(tmp_path / f"{STAGING}target-dead", "half")
    with new_folder(target) as staging:
        folder(staging, "new")
        assert not target.exists()
    assert content(target) == "new"
    assert names(tmp_path) == ["target"]


def test_a_new_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "target") as staging:  # noqa: PT012
        folder(staging, "half")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_a_new_folder_does_not_replace_anything(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    {
        "folder": lambda: folder(target, "old"),
        "file": lambda: target.write_text("old"),
        "dangling link": lambda: target.symlink_to(tmp_path / "nowhere"),
    }[kind]()
    with pytest.raises(OutputError, match=str(target)), new_folder(target):
        pytest.fail("the block ran")
    assert names(tmp_path) == ["target"]


# publish


def without_renameat2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *arguments, **options: SimpleNamespace())


def refusing_renameat2(code: int) -> Callable[[pytest.MonkeyPatch], None]:
    def refuse(*arguments: object) -> int:
        ctypes.set_errno(code)
        return -1

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ctypes, "CDLL", lambda *arguments, **options: SimpleNamespace(renameat2=refuse))

    return patch


EXCHANGES = {
    "renameat2 of this machine": lambda monkeypatch: None,
    "no renameat2 in the C library": without_renameat2,
    "no renameat2 in the file system": refusing_renameat2(errno.EINVAL),
    "no renameat2 in the kernel": refusing_renameat2(errno.ENOSYS),
}


@pytest.mark.parametrize("replace", [False, True])
def test_a_new_folder_is_published_with_public_permissions(tmp_path: Path, replace: bool) -> None:
    target = tmp_path / "target"
    with staged_directory(target) as staging:
        publish(folder(staging, "new"), target, replace)
    assert content(target) == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert names(tmp_path) == ["target"]


@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)
def test_publishing_replaces_the_old_folder_and_leaves_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: Callable[[pytest.MonkeyPatch], None]
) -> None:
    exchange(monkeypatch)
    target = folder(tmp_path / "target", "old")
    with staged_directory(target) as staging:
        publish(folder(staging, "new"), target, replace=True)
    assert content(target) == "new"
    assert names(tmp_path) == ["target"]


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_a_target_that_appeared_meanwhile_is_not_changed(tmp_path: Path, kind: str) -> None:
    target, elsewhere = tmp_path / "target", folder(tmp_path / "elsewhere", "old")
    if kind == "file":
        target.write_text("old")
    elif kind == "folder":
        folder(target, "old")
    else:
        target.symlink_to(elsewhere)
    with (
        pytest.raises(OutputError, match=f"{target} appeared"),
        staged_directory(target) as staging,
    ):
        publish(folder(staging, "new"), target, replace=False)
    assert (target.read_text() if kind == "file" else content(target)) == "old"
    assert names(tmp_path) == ["elsewhere", "target"]


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EACCES, errno.EIO])
def test_a_failed_exchange_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    refusing_renameat2(code)(monkeypatch)
    target = folder(tmp_path / "target", "old")
    with pytest.raises(OutputError, match=os.strerror(code)), staged_directory(target) as staging:
        publish(folder(staging, "new"), target, replace=True)
    assert content(target) == "old"
    assert names(tmp_path) == ["target"]


@pytest.mark.parametrize("raised", [OSError(errno.EXDEV, "cross-device"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("exists", [False, True])
def test_a_failed_rename_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException, exists: bool
) -> None:
    rename = Path.rename

    def rename_all_but_staging(path: Path, target: Path) -> Path:
        if target.name == "target" and not path.name.endswith("-old"):
            raise raised
        return rename(path, target)

    target = tmp_path / "target"
    if exists:
        folder(target, "old")
    without_renameat2(monkeypatch)
    monkeypatch.setattr(Path, "rename", rename_all_but_staging)
    with pytest.raises((OutputError, KeyboardInterrupt)), staged_directory(target) as staging:
        publish(folder(staging, "new"), target, replace=True)
    assert names(tmp_path) == (["target"] if exists else [])
    assert not exists or content(target) == "old"


@pytest.mark.parametrize("failing_sync", range(4), ids=["folder inside", "file", "staging", "the target's parent"])
@pytest.mark.parametrize("exists", [False, True])
def test_a_failed_sync_at_any_step_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_sync: int, exists: bool
) -> None:
    target, calls, fsync = tmp_path / "target", list[int](), os.fsync

    def fail_once(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) - 1 == failing_sync:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    if exists:
        folder(target, "old")
    monkeypatch.setattr(os, "fsync", fail_once)
    with pytest.raises(OutputError, match=os.strerror(errno.EIO)), staged_directory(target) as staging:
        publish(folder(staging, "new"), target, replace=True)
    assert len(calls) - 1 == failing_sync
    assert names(tmp_path) == (["target"] if exists else [])
    assert not exists or content(target) == "old"
