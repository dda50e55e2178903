"""Read files, and write files that appear complete or not at all; ``folders.py`` writes folders."""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from m2d_export.errors import DataError, DiskFullError, M2DError, OutputError, SpecError
from m2d_export.host.staging import remove_stale, staging_path

NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
RUST_OS_ERROR = re.compile(r"\(os error ([0-9]{1,4})\)")
STDOUT = Path("-")
OPEN_FILE = re.compile(r"(/dev|/proc/self(/task/[0-9]+)?)/fd/[0-9]{1,9}")  # an open file of this process
LINKS = 40  # the longest chain of symbolic links, as in Linux
IN_MEMORY = 64 << 20  # bytes; a larger output for a pipe waits on disk until it is complete


def read_text(path: Path, layout: str = "") -> str:
    """The text of a UTF-8 file, with its line ends and without a byte order mark.

    Raises DataError. If the file cannot be read, the message ends with ``layout``, which says what was expected.
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
    """Whether only this user has access to ``folder``; also True if it does not exist yet."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return True
    return found.st_uid == os.getuid() and not found.st_mode & 0o077


def is_only_holder(descriptor: int) -> bool:
    """Hold an open file or folder until it is closed; False if another process holds it. Some disks have no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn a system error in the block into OutputError, or into DiskFullError if the disk is full.

    ``target`` is what the block writes. BrokenPipeError is not changed, because a reader of a pipe may stop early.
    """
    try:
        yield
    except (BrokenPipeError, M2DError):
        raise
    except Exception as error:
        code, reason = _system_error(error)
        if code is None:
            raise
        if target == STDOUT:
            raise OutputError(f"standard output cannot be written: {reason}") from error
        if code in NO_ROOM:
            raise DiskFullError(
                f"no room left to write {target} ({reason}): free some space, or choose another disk. "
                "What was there before is unchanged"
            ) from error
        raise OutputError(f"cannot write {target}: {reason}. Choose a path where you can write") from error


def _system_error(error: Exception) -> tuple[int | None, object]:
    """The number and the reason of a system error; the number is None if ``error`` is another error.

    Libraries in Rust give the number only in the text of their message.
    """
    if isinstance(error, OSError):
        return error.errno or 0, error.strerror or error
    found = RUST_OS_ERROR.search(str(error))
    return (int(found[1]), os.strerror(int(found[1]))) if found else (None, error)


def check_room(target: Path, needed: int) -> None:
    """Raise DiskFullError if ``needed`` bytes do not fit on the disk of ``target``."""
    with writing(target):
        free = shutil.disk_usage(next(folder for folder in target.parents if folder.exists())).free
    if free < needed:
        raise DiskFullError(
            f"{target} needs about {needed / 1e6:.0f} MB while it is built, but {free / 1e6:.0f} MB are free on its "
            "disk: free some space, or choose another disk"
        )


def expanded(path: str | Path) -> Path:
    """``path`` with the home folder in place of ``~``.

    Raises SpecError if ``path`` is not a path, or if there is no home folder.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise SpecError(f"{path!r} is no path: give a string or a pathlib.Path, not empty and without NUL characters")
    found = os.path.expanduser(text)
    if text.partition("/")[0] == "~" and (found == text or os.environ.get("HOME") == ""):
        raise SpecError(f"{text} stands for your home folder, and this user has none: write the path in full")
    plain = Path(found)  # Path turns "./~" into "~", which the next call must not expand
    return plain.absolute() if str(plain).startswith("~") else plain


def utf8_path(path: Path) -> str:
    """``path`` for a library that opens only UTF-8 paths; raises SpecError if it is not UTF-8."""
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        message = f"{path} has a byte that is not UTF-8, and libraries cannot open such a path: rename it"
        raise SpecError(message) from None
    return text


def followed(target: str | Path) -> Path:
    """The absolute path of an output; if ``target`` is a link, the path that it leads to: the link is not replaced."""
    path = expanded(target)
    with writing(path):
        path = path.absolute()  # fails if the working folder was removed
        if not path.is_symlink():
            return path
        real = Path(os.path.realpath(path))
        if real.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if not real.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, f"it is a link to {real}, and there is no folder {real.parent}")
        return real


def descriptor_of(path: Path) -> int | None:
    """The number of the open file that ``path`` stands for, such as 1 for /dev/stdout; None for other paths."""
    with contextlib.suppress(OSError):  # a link on the way may be unreadable for this user
        for _ in range(LINKS):
            folder = os.path.realpath(path.parent)
            if OPEN_FILE.fullmatch(f"{folder}/{path.name}".replace(f"/{os.getpid()}/", "/self/", 1)):
                return int(path.name)
            if not path.is_symlink():
                break
            path = Path(folder, os.readlink(path))
    return None


def check_parent(target: Path) -> None:
    """Raise OSError if this user cannot create ``target`` or its missing parent folders."""
    folder = next((folder for folder in target.parents if folder.exists()), target)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, f"{folder} is read-only for you")


def check_output(target: Path) -> None:
    """Raise OutputError if ``output_file`` cannot write ``target``; call this before the work."""
    with writing(target):
        if target == STDOUT:
            if sys.stdout is None:
                raise OutputError("standard output is closed: leave it open, or name a file with -o")
            return
        if (descriptor := descriptor_of(target)) is not None:
            if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                raise OSError(errno.EBADF, "it is open for reading only")
            return
        is_stream = _is_stream(target)
        path = target if is_stream else followed(target)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not (is_stream or path.is_file()):
            raise OutputError(f"{target} is no file, pipe or character device: choose a path where you can write")
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if not path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, f"there is no folder {path.parent}")
        if not is_stream:
            check_parent(path)


def _is_stream(path: Path) -> bool:
    return path == STDOUT or descriptor_of(path) is not None or path.is_char_device() or path.is_fifo()


@contextlib.contextmanager
def output_file(target: Path, replace: bool = True) -> Iterator[IO[bytes]]:
    """A file to fill. If the block succeeds, its bytes appear at ``target``; if it fails, nothing changes there.

    A regular file is replaced in one step and keeps its mode. Symbolic links stay. Other hard links to the old file
    keep the old bytes. Without ``replace``, a file that appears at ``target`` meanwhile is not changed. Pipes,
    character devices, open files of this process such as /dev/fd/3, and standard output (``-``) get the bytes at the
    end. Raises OutputError.
    """
    target = expanded(target)
    check_output(target)
    with writing(target), _stream(target) if _is_stream(target) else _replacement(followed(target), replace) as file:
        yield file


@contextlib.contextmanager
def _stream(target: Path) -> Iterator[IO[bytes]]:
    """A file for the bytes of a pipe. The pipe is opened first, so its reader sees an end also if the block fails."""
    with contextlib.ExitStack() as stack:
        if target == STDOUT:
            out = sys.stdout.buffer
        elif (descriptor := descriptor_of(target)) is not None:  # dup continues, open would start at the beginning
            out = stack.enter_context(open(os.dup(descriptor), "wb"))
        else:
            out = stack.enter_context(open(os.open(target, os.O_WRONLY | os.O_NOCTTY), "wb"))
        filled = stack.enter_context(tempfile.SpooledTemporaryFile(IN_MEMORY))
        yield filled
        filled.seek(0)
        shutil.copyfileobj(filled, out)
        out.flush()


@contextlib.contextmanager
def _replacement(target: Path, replace: bool) -> Iterator[IO[bytes]]:
    remove_stale(target)
    staged = staging_path(target)
    try:
        with staged.open("x+b") as file:
            if target.exists():  # now, while the file is empty: others must not read the bytes of a private file
                _take_owner_and_mode(file.fileno(), target.stat())
            yield file
            file.flush()
            os.fsync(file.fileno())
            if target.is_symlink() or (target.exists() and not (replace and target.is_file())):
                raise OutputError(f"{target} appeared meanwhile and was not changed: choose another path")
        staged.replace(target)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


def _take_owner_and_mode(descriptor: int, old: os.stat_result) -> None:
    with contextlib.suppress(PermissionError):  # only root can give a file to somebody else
        os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
