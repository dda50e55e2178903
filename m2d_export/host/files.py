"""Read files, and write outputs that appear whole or not at all.

A folder is written in a staging directory next to its target, synced to disk and renamed to the target in one step.
"""

import contextlib
import ctypes
import errno
import fcntl
import glob
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from m2d_export.errors import DataError, DiskFullError, OutputError

STAGING = ".m2d-staging-"
NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fs.h


def read_text(path: Path, layout: str = "") -> str:
    """The text of a UTF-8 file, with its line ends and without a byte order mark.

    Raises DataError; if the file cannot be read, its message ends with ``layout``, which says what was expected.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}): convert it first") from error
    except OSError as error:
        expected = f". {layout}" if layout else ""
        raise DataError(f"{path} cannot be read: {error.strerror}{expected}") from error


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_private(folder: Path) -> bool:
    """Whether ``folder`` is this user's and nobody else has access to it; also True if it does not exist yet."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return True
    return found.st_uid == os.getuid() and not found.st_mode & 0o077


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn an OSError while writing ``target`` into OutputError, or into DiskFullError if the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFullError(
                f"no room left to write {target} ({error.strerror}): free some space, or choose another disk. "
                "What was there before is unchanged"
            ) from error
        reason = error.strerror or error
        raise OutputError(f"cannot write {target}: {reason}. Choose a path where you can write") from error


def check_room(target: Path, needed: int) -> None:
    """Raise DiskFullError if ``needed`` bytes do not fit on the disk of ``target``."""
    with writing(target):
        free = shutil.disk_usage(next(folder for folder in target.parents if folder.exists())).free
    if free < needed:
        raise DiskFullError(
            f"{target} needs about {needed / 1e6:.0f} MB while it is built, but {free / 1e6:.0f} MB are free on its "
            "disk: free some space, or choose another disk"
        )


@contextlib.contextmanager
def staged_directory(target: Path) -> Iterator[Path]:
    """A private directory next to ``target``, removed at the end unless ``publish`` has renamed it.

    This process holds a lock on it, so that ``remove_stale`` in another process does not remove it.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f"{STAGING}{target.name}-", dir=target.parent))
        lock = os.open(staging, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: remove_stale removes nothing there
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield staging
    finally:
        os.close(lock)
        shutil.rmtree(staging, ignore_errors=True)


def remove_stale(target: Path) -> int:
    """Remove the staging directories that killed builds of ``target`` left next to it; returns how many."""
    removed = 0
    for staging in target.parent.glob(f"{STAGING}{glob.escape(target.name)}-*"):
        with contextlib.suppress(OSError):
            lock = os.open(staging, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(staging)
                removed += 1
            finally:
                os.close(lock)
    return removed


def publish(staging: Path, target: Path, replace: bool) -> None:
    """Sync the finished ``staging`` directory to disk, then rename it to ``target`` in one step.

    With ``replace``, an old directory at ``target`` takes the place of ``staging`` and is removed with it. Raises
    OutputError if the rename fails, or if ``replace`` is False and ``target`` is anything but an empty directory. The
    old state then remains.
    """
    with writing(target):
        for path in [*staging.rglob("*"), staging]:
            _sync(path)
        staging.chmod(0o777 & ~_umask())
        replaced = replace and target.exists()
        if replaced:
            _exchange(staging, target)
        else:
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
    """The permissions that new files of this process lack; reading it means setting it and setting it back."""
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
    """Swap two directories: atomically where Linux can; elsewhere ``target`` is missing for a moment."""
    if sys.platform == "linux":
        renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if renameat2 is not None:
            paths = os.fsencode(staging), os.fsencode(target)
            if renameat2(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE) == 0:
                return
            code = ctypes.get_errno()
            if code not in (errno.EINVAL, errno.ENOSYS):  # the file system or the kernel has no exchange
                raise OSError(code, os.strerror(code))
    aside = staging.with_name(f"{staging.name}-old")
    target.rename(aside)
    try:
        staging.rename(target)
    except BaseException:  # Ctrl-C too
        aside.rename(target)
        raise
    aside.rename(staging)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill; it is renamed to ``target`` in one step if the block succeeds, and removed if not.

    Raises OutputError if something is at ``target`` already, or if it cannot be written.
    """
    if target.exists() or target.is_symlink():
        raise OutputError(f"{target} exists: choose another path, or remove it yourself")
    remove_stale(target)
    with staged_directory(target) as staging, writing(target):
        yield staging
        publish(staging, target, replace=False)


@contextlib.contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """A path to write to; it is renamed to ``target`` if the block succeeds, and removed if not."""
    with writing(target):
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
        os.close(descriptor)
        staged = Path(name)
        try:
            yield staged
            _sync(staged)
            staged.chmod(0o666 & ~_umask())
            staged.replace(target)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
