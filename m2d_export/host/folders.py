"""Write folders that appear complete or not at all.

A folder is filled next to its target, and then renamed to the target in one step.
"""

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
# A function that returns why a folder must not be replaced, or None. Messages put these words after the folder's path.
Objection = Callable[[Path], str | None]


def other_file(folder: Path, known: Collection[str], owner: str) -> str | None:
    """Name a file, a link or an empty folder in ``folder`` that ``owner`` did not write. None if there is none.

    ``known`` has the paths of the owner's files. Raises OSError if a folder cannot be listed.
    """

    def fail(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=fail):
        folders.sort()
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in sorted([*files, *links]):
            path = Path(parent, name).relative_to(folder).as_posix()
            if path not in known:
                return f"has {path}, which does not belong to {owner}"
        path = Path(parent).relative_to(folder).as_posix()
        if not folders and not files and path != "." and not any(name.startswith(f"{path}/") for name in known):
            return f"has the empty folder {path}, which does not belong to {owner}"
    return None


def check_replaceable(folder: Path, objection: Objection, target: Path) -> None:
    """Raise OutputError if ``objection`` says why ``folder`` must not be replaced. The message names ``target``."""
    if reason := objection(folder):
        raise OutputError(f"{target} {reason}: choose another path, or move {target} to another place")


@contextlib.contextmanager
def staged_directory(target: Path) -> Iterator[Path]:
    """Make a private directory next to ``target``. It is removed at the end, unless ``publish`` has renamed it.

    Before it is made, unfinished outputs that dead processes left for ``target`` are removed.
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

    If ``objection`` is None, ``target`` must not exist. Otherwise, a directory at ``target`` is replaced unless
    ``objection`` returns a reason. ``objection`` is called before the two directories are exchanged and again after the
    exchange, because somebody may have added a file in between. The new directory gets the mode of the old one. Its
    files get the mode that the umask gives to a new file: some libraries write files that only their owner can read.
    Raises OutputError if ``objection`` returns a reason, or if the rename fails. After an error, ``target`` is as it
    was before.
    """
    with writing(target):
        readable = 0o666 & ~_umask()
        for path in [*staging.rglob("*"), staging]:
            if path.is_file() and not path.is_symlink():
                path.chmod(stat.S_IMODE(path.stat().st_mode) | readable)
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
                    message = f"{target} appeared meanwhile, and was not changed: choose another path"
                    raise OutputError(message) from error
                raise
        try:
            _sync(target.parent)
        except OSError:  # the rename is perhaps not on disk: undo it, so that an error changes nothing
            if replaced:
                _exchange(staging, target)
            else:
                target.rename(staging)
            raise


def _umask() -> int:
    """The umask of this process. The system returns it only to a call that sets it."""
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
    """Exchange two directories. Linux needs one step for this. On other systems, ``target`` is missing for a moment."""
    if sys.platform == "linux":
        renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if renameat2 is not None:
            paths = os.fsencode(staging), os.fsencode(target)
            if renameat2(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE) == 0:
                return
            code = ctypes.get_errno()
            if code not in (errno.EINVAL, errno.ENOSYS):  # with these two, the system cannot exchange folders
                raise OSError(code, os.strerror(code))
    aside = staging.with_name(f"{staging.name}-old")
    target.rename(aside)
    try:
        staging.rename(target)
    except BaseException:  # this includes Ctrl-C
        aside.rename(target)
        raise
    aside.rename(staging)


def check_new(target: Path) -> None:
    """Raise OutputError if ``target`` exists or cannot be written. Call this before the work."""
    with writing(target):
        if target.exists() or target.is_symlink():
            raise OutputError(f"{target} exists: choose another path, or remove {target}")
        check_parent(target)


@contextlib.contextmanager
def new_folder(target: str | Path) -> Iterator[Path]:
    """Make a folder that the block fills.

    If the block succeeds, the folder is renamed to ``target`` in one step. If the block fails, the folder is removed.

    Raises OutputError if ``target`` exists or cannot be written.
    """
    path = followed(target)
    check_new(path)
    with staged_directory(path) as staging, writing(path):
        yield staging
        publish(staging, path)
