"""Files that must be what they were when they were checked, until a library has opened them."""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
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


def still_checked(files: tuple[CheckedFile, ...]) -> tuple[CheckedFile, ...]:
    """The same files, which a library has mapped, unless somebody wrote into one: then IntegrityError.

    A file that was replaced or removed is left alone, because the library keeps the old one. If only the times of one
    changed, its bytes are checked again, and the times are the new ones from then on.
    """
    if all(_is_untouched(file) for file in files):
        return files
    return tuple(file if _is_untouched(file) else _checked_again(file) for file in files)


def _is_untouched(file: CheckedFile) -> bool:
    try:
        found = identity(os.lstat(file.path))
    except OSError:
        return True
    return found == file.identity or found[:2] != file.identity[:2]


def _checked_again(file: CheckedFile) -> CheckedFile:
    try:
        with open_regular(file.path) as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
            found = identity(os.fstat(opened.fileno()))
    except OSError:
        return file
    if digest != file.sha256:
        raise IntegrityError(
            f"{file.path} was overwritten while it was in use, so vectors may be wrong: build the bundle again, or "
            "copy it again to another path, and open it again. Never write into a bundle"
        )
    return replace(file, identity=found)


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
