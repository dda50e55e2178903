"""Write folders that appear complete or not at all: each is filled next to its target, and renamed in one step."""

import contextlib
import ctypes
import errno
import os
import shutil
import stat
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from m2d_export.errors import OutputError
from m2d_export.host.files import check_parent, followed, writing
from m2d_export.host.staging import remove_stale, staging_path

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fs.h
# A function that says why a folder must not be replaced, in words that follow its path; None if it may be replaced.
Objection = Callable[[Path], str | None]


def other_file(folder: Path, known: Collection[str], owner: str) -> str | None:
    """Name a file, a link or an empty folder in ``folder`` that is not of ``owner``; None if there is none.

    ``known`` are the paths of the owner's files. Raises OSError if a folder cannot be listed.
    """

    def fail(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=fail):
        folders.sort()
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in sorted([*files, *links]):
            path = Path(parent, name).relative_to(folder).as_posix()
            if path not in known:
                return f"has {path}, which is no file of {owner}"
        path = Path(parent).relative_to(folder).as_posix()
        if not folders and not files and path != "." and not any(name.startswith(f"{path}/") for name in known):
            return f"has the empty folder {path}, which is not of {owner}"
    return None


def check_replaceable(folder: Path, objection: Objection, target: Path) -> None:
    """Raise OutputError if there is an objection to replacing ``folder``, which the message calls ``target``."""
    if reason := objection(folder):
        raise OutputError(f"{target} {reason}: choose another path, or move it away yourself")


@contextlib.contextmanager
def staged_directory(target: Path) -> Iterator[Path]:
    """A private directory next to ``target``, removed at the end unless ``publish`` has renamed it.

    Unfinished outputs that dead processes left for ``target`` are removed first.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(target)
        staging = staging_path(target)
        staging.mkdir(mode=0o700)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def publish(staging: Path, target: Path, objection: Objection | None = None) -> None:
    """Sync the finished ``staging`` directory to disk, then rename it to ``target`` in one step.

    Without ``objection``, ``target`` must not exist. With it, a directory at ``target`` is replaced unless
    ``objection`` finds a reason against that. The two directories are exchanged, and ``objection`` looks again: nobody
    can add files to the old one any more. The new one takes its mode. Raises OutputError if there is a reason against
    it, or if the rename fails; then the old state remains.
    """
    with writing(target):
        for path in [*staging.rglob("*"), staging]:
            _sync(path)
        replaced = objection is not None and target.is_dir() and not target.is_symlink()
        if objection is not None and replaced:
            check_replaceable(target, objection, target)
            staging.chmod(stat.S_IMODE(target.stat().st_mode))
            _exchange(staging, target)
            try:
                check_replaceable(staging, objection, target)
            except BaseException:
                _exchange(staging, target)
                raise
        else:
            staging.chmod(0o777 & ~_umask() | staging.stat().st_mode & stat.S_ISGID)
            try:
                staging.rename(target)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    message = f"{target} appeared meanwhile and was not changed: choose another path"
                    raise OutputError(message) from error
                raise
        try:
            _sync(target.parent)
        except OSError:  # the rename may not be on disk: undo it, because an error must mean that nothing changed
            if replaced:
                _exchange(staging, target)
            else:
                target.rename(staging)
            raise


def _umask() -> int:
    """The umask of this process; the system returns it only when it is set."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(staging: Path, target: Path) -> None:
    """Swap two directories. Linux does it in one step; on other systems ``target`` is missing for a moment."""
    if sys.platform == "linux":
        renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if renameat2 is not None:
            paths = os.fsencode(staging), os.fsencode(target)
            if renameat2(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE) == 0:
                return
            code = ctypes.get_errno()
            if code not in (errno.EINVAL, errno.ENOSYS):  # the file system or the kernel cannot exchange
                raise OSError(code, os.strerror(code))
    aside = staging.with_name(f"{staging.name}-old")
    target.rename(aside)
    try:
        staging.rename(target)
    except BaseException:  # Ctrl-C too
        aside.rename(target)
        raise
    aside.rename(staging)


def check_new(target: Path) -> None:
    """Raise OutputError if ``target`` exists or cannot be written; call this before the work."""
    with writing(target):
        if target.exists() or target.is_symlink():
            raise OutputError(f"{target} exists: choose another path, or remove it yourself")
        check_parent(target)


@contextlib.contextmanager
def new_folder(target: str | Path) -> Iterator[Path]:
    """A folder to fill. If the block succeeds, it is renamed to ``target`` in one step; if it fails, it is removed.

    Raises OutputError if ``target`` exists or cannot be written.
    """
    path = followed(target)
    check_new(path)
    with staged_directory(path) as staging, writing(path):
        yield staging
        publish(staging, path)
