"""Files that must be what they were when they were checked, until a library has opened them."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path

from m2d_export.errors import IntegrityError
from m2d_export.spec import CheckedFile


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read; a link, a FIFO or a device is an OSError and never waits."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    file = open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")  # noqa: SIM115 - the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # it was replaced between the two calls
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def identity(found: os.stat_result) -> tuple[int, ...]:
    """Numbers that change when another file takes a file's place, and when its bytes are written."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@contextlib.contextmanager
def unchanged(files: Sequence[CheckedFile]) -> Iterator[None]:
    """Raise IntegrityError unless ``files`` are the checked ones from the start of the block to its end.

    A file or folder that is moved away and back has another time of its last change (ctime), so that is compared too,
    but only within the block: making a hard link or changing a mode sets it as well.
    """
    before = [_state(file) for file in files]
    try:
        yield
    finally:
        for file, state in zip(files, before, strict=True):
            if _state(file) != state:
                raise _replaced(file)


def _state(file: CheckedFile) -> list[tuple[int, ...]]:
    """The identity of the file, and the times of change of it and its folders; raises IntegrityError if it differs."""
    try:
        found = file.path.lstat()
        folders = [folder.lstat() for folder in file.path.parents if folder.is_relative_to(file.root)]
    except OSError as error:
        raise _replaced(file) from error
    if identity(found) != file.identity:
        raise _replaced(file)
    return [identity(found), *((item.st_dev, item.st_ino, item.st_ctime_ns) for item in (found, *folders))]


def _replaced(file: CheckedFile) -> IntegrityError:
    return IntegrityError(
        f"{file.path} was changed or replaced while it was opened, after its sha256 was checked: open the bundle again"
    )
