"""Folders appear whole or not at all; a failure leaves the old folder unchanged, and no other file is removed."""

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from m2d_export.errors import OutputError
from m2d_export.host import folders
from m2d_export.host.folders import new_folder, other_file, publish, staged_directory
from m2d_export.host.staging import STAGING
from tests.host.outputs import content, dead_process, folder, names

ours = partial(other_file, known={"inner/file"}, owner="ours")


# staged_directory


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


# new_folder


def test_a_new_folder_appears_whole_and_removes_stale_staging(tmp_path: Path) -> None:
    target = tmp_path / "target"
    folder(tmp_path / f"{STAGING}target-{dead_process()}", "half")
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


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_new_folder_does_not_replace_anything(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    {
        "folder": lambda: folder(target, "old"),
        "file": lambda: target.write_text("old"),
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
        publish(folder(staging, "new"), target, ours if replace else None)
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
        publish(folder(staging, "new"), target, ours)
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
        publish(folder(staging, "new"), target)
    assert (target.read_text() if kind == "file" else content(target)) == "old"
    assert names(tmp_path) == ["elsewhere", "target"]


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EACCES, errno.EIO])
def test_a_failed_exchange_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    refusing_renameat2(code)(monkeypatch)
    target = folder(tmp_path / "target", "old")
    with pytest.raises(OutputError, match=os.strerror(code)), staged_directory(target) as staging:
        publish(folder(staging, "new"), target, ours)
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
        publish(folder(staging, "new"), target, ours)
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
        publish(folder(staging, "new"), target, ours)
    assert len(calls) - 1 == failing_sync
    assert names(tmp_path) == (["target"] if exists else [])
    assert not exists or content(target) == "old"


def test_a_folder_with_a_file_of_somebody_else_is_not_replaced_and_the_file_is_named(tmp_path: Path) -> None:
    target = folder(tmp_path / "target", "old")
    (target / "inner" / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match=r"inner/thesis\.tex"), staged_directory(target) as staging:
        publish(folder(staging, "new"), target, ours)
    assert content(target) == "old"
    assert names(target / "inner") == ["file", "thesis.tex"]
    assert names(tmp_path) == ["target"]


def test_a_file_that_is_added_at_the_last_moment_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, exchange = folder(tmp_path / "target", "old"), folders._exchange

    def add_and_exchange(staging: Path, target: Path) -> None:
        (target / "thesis.tex").write_text("mine")
        monkeypatch.setattr(folders, "_exchange", exchange)
        exchange(staging, target)

    monkeypatch.setattr(folders, "_exchange", add_and_exchange)
    with pytest.raises(OutputError, match=r"target has thesis\.tex"), staged_directory(target) as staging:
        publish(folder(staging, "new"), target, ours)
    assert content(target) == "old"
    assert (target / "thesis.tex").read_text() == "mine"
    assert names(tmp_path) == ["target"]


@pytest.mark.parametrize("name", ["empty", "inner/empty", "a/b"])
def test_an_empty_folder_is_of_somebody_else_and_stays(tmp_path: Path, name: str) -> None:
    target = folder(tmp_path / "target", "old")
    (target / name).mkdir(parents=True)
    assert ours(target) == f"has the empty folder {name}, which does not belong to ours"
    with pytest.raises(OutputError, match=name), staged_directory(target) as staging:
        publish(folder(staging, "new"), target, ours)
    assert (target / name).is_dir()
    assert content(target) == "old"


def test_a_folder_whose_files_are_missing_is_no_folder_of_somebody_else(tmp_path: Path) -> None:
    target = folder(tmp_path / "target", "old")
    (target / "inner" / "file").unlink()
    assert ours(target) is None


@pytest.mark.parametrize("name", ["link", "inner/link", ".hidden"])
def test_links_and_hidden_files_are_files_of_somebody_else(tmp_path: Path, name: str) -> None:
    target = folder(tmp_path / "target", "old")
    (target / name).symlink_to(tmp_path)
    assert ours(target) == f"has {name}, which does not belong to ours"


def test_a_replaced_folder_keeps_its_mode_and_a_new_one_follows_the_umask_and_the_group(tmp_path: Path) -> None:
    target = folder(tmp_path / "target", "old")
    target.chmod(0o750)
    with staged_directory(target) as staging:
        publish(folder(staging, "new"), target, ours)
    assert stat.S_IMODE(target.stat().st_mode) == 0o750
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o2775)
    mask = os.umask(0o027)
    try:
        with new_folder(tmp_path / "shared" / "target") as staging:
            folder(staging, "new")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "shared" / "target").stat().st_mode) == 0o2750


def test_a_link_to_a_folder_that_is_not_there_yet_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    with new_folder(tmp_path / "link") as staging:
        folder(staging, "new")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "target") == "new"


def test_files_that_a_library_made_private_are_readable_in_the_published_folder(tmp_path: Path) -> None:
    target, mask = tmp_path / "target", os.umask(0o027)
    try:
        with staged_directory(target) as staging:
            for name, mode in (("weights", 0o600), ("program", 0o700)):
                (staging / name).touch()
                (staging / name).chmod(mode)
            publish(staging, target)
    finally:
        os.umask(mask)
    assert [stat.S_IMODE((target / name).stat().st_mode) for name in ("weights", "program")] == [0o640, 0o740]
