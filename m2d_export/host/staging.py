"""Name unfinished outputs after the process that writes them, and remove the outputs of dead processes.

An unfinished output lies next to its target. Its name shows whether the process still runs, so no file is locked.
"""

import contextlib
import functools
import hashlib
import os
import re
import secrets
import shutil
import time
from pathlib import Path

STAGING = ".m2d-staging-"
NAME_BYTES = 180  # how many bytes of the target's name are used, so that the whole name has at most 255
# The number, the start time and the place of a process, and random digits.
PROCESS = re.compile(r"(\d{1,9})-(\d*)-([0-9a-f]{8})-[0-9a-f]{8}(-old)?")
ELSEWHERE = 24 * 3600  # seconds without a change until a process on another machine counts as dead


def staging_path(target: Path) -> Path:
    """A new path next to ``target``, for an output of this process."""
    own = f"{os.getpid()}-{_start_of(os.getpid())}-{_place()}-{secrets.token_hex(4)}"
    return target.with_name(_prefix(target) + own)


def remove_stale(target: Path) -> int:
    """Remove the unfinished outputs of dead processes for ``target``, and return how many were removed."""
    removed, prefix = 0, _prefix(target)
    with contextlib.suppress(OSError):
        for path in list(target.parent.iterdir()):
            process = PROCESS.fullmatch(path.name.removeprefix(prefix)) if path.name.startswith(prefix) else None
            if process is None or path.is_symlink() or not _is_left(path, process):
                continue
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed += 1
    return removed


def _prefix(target: Path) -> str:
    return f"{STAGING}{os.fsencode(target.name)[:NAME_BYTES].decode('utf-8', 'ignore')}-"


def _is_left(path: Path, process: re.Match[str]) -> bool:
    """Whether the process that made ``path`` is dead.

    If the process ran on another machine, in another container or before a restart, it counts as dead after a day
    without a change.
    """
    number, start, place = process.group(1, 2, 3)
    if place != _place():
        changed = max(found.lstat().st_mtime for found in (path, *path.rglob("*")))
        return time.time() - changed > ELSEWHERE
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:  # the process runs as another user
        pass
    return _start_of(int(number)) not in (start, "")  # a new process may have the same number


def _start_of(process: int) -> str:
    """The start time of a process in the kernel's ticks. It is "" if it is unknown, and "dead" for a zombie."""
    try:
        status = Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return ""
    fields = status.rpartition(b")")[2].split()  # the fields after the program's name; the name may have spaces
    return "dead" if fields[0] in (b"Z", b"X") else fields[19].decode()


@functools.cache
def _place() -> str:
    """A digest of the machine, its last start and the container. Processes with the same digest see each other."""
    parts = [os.uname().nodename]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]
