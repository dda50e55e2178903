"""Notice if a checked file is changed before a library has opened it, or while a library reads from it."""

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
    """Open a regular file for reading, without waiting. Raises OSError for a link, a FIFO or a device."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    file = open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")  # noqa: SIM115 - the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # the path was replaced between the two calls
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def identity(found: os.stat_result) -> tuple[int, ...]:
    """Numbers that change if the file is replaced or written."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@contextlib.contextmanager
def unchanged(files: Sequence[CheckedFile]) -> Iterator[None]:
    """Raise IntegrityError unless ``files`` are the checked files from the start of the block to its end.

    The time of the last change (ctime) is compared too: it shows that a file or folder was moved away and back. It is
    compared only within the block, because a new hard link or a new mode changes it as well.
    """
    before = [_state(file) for file in files]
    try:
        yield
    finally:
        for file, state in zip(files, before, strict=True):
            if _state(file) != state:
                raise _replaced(file)


class MappedFile:
    """A file that a library has mapped into memory. Nobody may write into it before ``close``.

    Its path may be replaced or removed, because the library and this object keep the old file open. Raises
    IntegrityError if the path no longer has the checked file.
    """

    def __init__(self, file: CheckedFile) -> None:
        with unchanged([file]):
            self._open = os.open(file.path, os.O_RDONLY)
        self._path, self._sha256 = file.path, file.sha256
        *_, self._size, self._written = file.identity
        self.close = weakref.finalize(self, os.close, self._open)

    def check(self) -> None:
        """Raise IntegrityError if the file was overwritten.

        If only the time of writing has changed, the sha256 is checked.
        """
        found = os.fstat(self._open)  # the cheapest call, because a single text waits for it too
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
            "copy it again to another path, and open the new bundle. Never write into a bundle"
        )


def _state(file: CheckedFile) -> list[tuple[int, ...]]:
    """The identity of the file, and the times of the last change (ctime) of the file and its folders.

    Raises IntegrityError if the identity differs from the checked one.
    """
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
