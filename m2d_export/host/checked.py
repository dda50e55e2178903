"""Files that must be what they were when they were checked, until a library has opened them."""

import contextlib
import errno
import hashlib
import mmap
import os
import stat
import weakref
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path

from m2d_export.errors import IntegrityError
from m2d_export.spec import CheckedFile


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read; a link, a FIFO or a device is an OSError, and this never waits."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    file = open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")  # noqa: SIM115 - the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # it was replaced between the two calls
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def identity(found: os.stat_result) -> tuple[int, ...]:
    """Numbers that change if another file takes the place of this one, or if its bytes are written."""
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


class MappedFile:
    """A file that a library has mapped and reads from until ``close``: nobody may write into it.

    It may be replaced or removed, because the library and this object keep the old one. Raises IntegrityError if the
    file is no longer the checked one.
    """

    def __init__(self, file: CheckedFile) -> None:
        with unchanged([file]):
            self._open = os.open(file.path, os.O_RDONLY)
        self._path, self._sha256 = file.path, file.sha256
        *_, self._size, self._written = file.identity
        self.close = weakref.finalize(self, os.close, self._open)

    def check(self) -> None:
        """Raise IntegrityError if somebody wrote into the file. If only its times changed, its bytes are checked."""
        found = os.fstat(self._open)  # of the open file: the cost of this call is a part of the time of a single text
        if found.st_mtime_ns != self._written or found.st_size != self._size:
            self._check_bytes(found)

    def _check_bytes(self, found: os.stat_result) -> None:
        if found.st_size == self._size:
            with mmap.mmap(self._open, 0, access=mmap.ACCESS_READ) as data:
                is_same = hashlib.sha256(data).hexdigest() == self._sha256
            if is_same:
                self._written = found.st_mtime_ns
                return
        raise IntegrityError(
            f"{self._path} was overwritten while it was in use, so vectors may be wrong: build the bundle again, or "
            "copy it again to another path, and open it again. Never write into a bundle"
        )


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
