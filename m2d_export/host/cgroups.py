"""Read from Linux's control groups (versions 1 and 2) how many processors and how much memory a container may use."""

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")  # the folder with proc and sys


def cpu_quota(root: Path = ROOT) -> int | None:
    """The number of processors that this process may use, rounded up. None if no group of the process has a limit."""
    shares = []
    for folder in _groups("cpu", root):
        # Version 2 has both numbers in one file. If there is no limit, version 2 writes "max", and version 1 writes -1.
        numbers = _numbers(folder / "cpu.max") or [
            *_numbers(folder / "cpu.cfs_quota_us"),
            *_numbers(folder / "cpu.cfs_period_us"),
        ]
        if len(numbers) == 2 and min(numbers) > 0:
            shares.append(-(-numbers[0] // numbers[1]))  # rounded up
    return min(shares, default=None)


def memory_limit(root: Path = ROOT) -> int | None:
    """The bytes of memory that this process may use. None if no group of the process has a limit."""
    names = ("memory.max", "memory.limit_in_bytes")
    limits = [limit for folder in _groups("memory", root) for name in names for limit in _numbers(folder / name)]
    return min((limit for limit in limits if limit > 0), default=None)


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's group and of the groups above it, if they are mounted. All limits apply."""
    paths: dict[str, PurePosixPath] = {}  # controller -> path of the group; in version 2 the controller is ""
    for line in _lines(root / "proc/self/cgroup"):
        controllers, _, path = line.partition(":")[2].partition(":")
        paths |= dict.fromkeys(controllers.split(","), PurePosixPath(path))
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, system = line.partition(" - ")
        kind, options = system.partition(" ")[0], system.rpartition(" ")[2].split(",")
        name = {"cgroup": controller, "cgroup2": ""}.get(kind, kind)
        if name not in paths or name not in ("", *options):
            continue
        if len(words := mount.split()) < 5:
            continue
        top, place = words[3:5]
        mounted = root / place.lstrip("/")
        # In a container, the mount often begins at the container's group, but the path begins at the host's root.
        below = paths[name].relative_to(top) if paths[name].is_relative_to(top) else PurePosixPath()
        inner = PurePosixPath() if ".." in below.parts else below
        yield from (mounted / part for part in (inner, *inner.parents))


def _lines(path: Path) -> list[str]:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8").splitlines()
    return []


def _numbers(path: Path) -> list[int]:
    """The whole numbers in a file. Empty if there is no such file, or if the file has a word such as "max"."""
    with contextlib.suppress(ValueError):
        return [int(word) for word in " ".join(_lines(path)).split()]
    return []
