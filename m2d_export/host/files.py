"""Texts read, and outputs that appear whole or not at all: staging beside the target, fsync, one atomic rename."""

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
    """The text of a UTF-8 file, line ends as they are, a byte order mark dropped.

    Raises DataError; ``layout`` says there what else was expected beside a file that cannot be read.
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
    """Whether only this user can write to ``folder``, or it does not exist yet."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return True
    return found.st_uid == os.getuid() and not found.st_mode & 0o077


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn an operating-system error while writing ``target`` into OutputError, or DiskFullError."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFullError(
                f"no room left to write {target} ({error.strerror}): free some space, or choose another disk. "
                "What was there before is untouched"
            ) from error
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error


def check_room(target: Path, needed: int) -> None:
    """Raise DiskFullError before any work where ``needed`` bytes do not fit on the disk of ``target``."""
    with writing(target):
        free = shutil.disk_usage(next(folder for folder in target.parents if folder.exists())).free
    if free < needed:
        raise DiskFullError(
            f"{target} needs about {needed / 1e6:.0f} MB while it is built, and {free / 1e6:.0f} MB are free there"
        )


@contextlib.contextmanager
def staged_directory(target: Path) -> Iterator[Path]:
    """A private directory beside ``target``, removed on the way out unless ``publish`` has renamed it.

    It is locked while its process lives, so that ``remove_stale`` of another one leaves it alone.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f"{STAGING}{target.name}-", dir=target.parent))
        lock = os.open(staging, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # where a file system has no locks, nothing counts as stale either
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield staging
    finally:
        os.close(lock)
        shutil.rmtree(staging, ignore_errors=True)


def remove_stale(target: Path) -> int:
    """Remove what killed builds of ``target`` have left beside it; returns how many directories."""
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
    """Put the finished ``staging`` directory at ``target`` in one rename, after all of it is on the disk.

    Raises OutputError if ``target`` has appeared meanwhile and ``replace`` is False. What is replaced is
    moved into the staging directory's place, and removed with it.
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
                    message = f"{target} was made by someone else meanwhile: it is left as it is"
                    raise OutputError(message) from error
                raise
        try:
            _sync(target.parent)
        except OSError:  # not known to be on the disk: take it back, so that an error means nothing has changed
            if replaced:
                _exchange(staging, target)
            else:
                target.rename(staging)
            raise


def _umask() -> int:
    """What the user's files are not to be opened to; it can only be read by setting it."""
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
    """Swap two directories: atomically where Linux can, else through a moment without any target."""
    if sys.platform == "linux":
        renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if renameat2 is not None:
            paths = os.fsencode(staging), os.fsencode(target)
            if renameat2(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE) == 0:
                return
            code = ctypes.get_errno()
            if code not in (errno.EINVAL, errno.ENOSYS):  # a file system or kernel without it
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
def atomic_file(target: Path) -> Iterator[Path]:
    """A path to write to, renamed to ``target`` if the block succeeds and removed if it does not."""
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
