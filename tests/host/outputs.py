"""What the tests of outputs share: folders with a content, failures of the system, and processes that are dead."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from m2d_export.host.staging import STAGING, staging_path


def failing(code: int = errno.EIO) -> Callable[..., None]:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def folder(path: Path, content: str) -> Path:
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "file").write_text(content)
    return path


def content(path: Path) -> str:
    return (path / "inner" / "file").read_text()


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def living_process() -> str:
    """How a staging name says that this process makes it."""
    return staging_path(Path("x")).name.removeprefix(f"{STAGING}x-")


def dead_process() -> str:
    """The same of a process of this machine that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return f"{process.pid}-1-{living_process().split('-', 2)[2]}"
