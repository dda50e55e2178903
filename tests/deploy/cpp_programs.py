"""C++ programs of the tests: compiled once per run, with texts on standard input and numbers on standard output."""

import csv
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import pytest

from tests.support.shared import Once

PROGRAMS = Path(__file__).parent / "cpp"
STRICT = ("-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")
SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # cmake may be a package of this environment


def require_programs(*names: str) -> None:
    """Skip the test if a program is not installed."""
    for name in names:
        if not shutil.which(name, path=PATH):
            pytest.skip(f"{name} is not installed")


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a reader of the README would, with the programs of this environment."""
    environment = {**os.environ, "PATH": PATH, "CMAKE_BUILD_PARALLEL_LEVEL": "2"}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)


def compiled(once: Once, name: str, *options: str | Path, label: str = "") -> Path:
    """A program from the folder ``cpp``, compiled with warnings as errors."""
    require_programs("c++")

    def compile_(folder: Path) -> None:
        command = ["c++", *STRICT, *options, PROGRAMS / f"{name}.cpp", "-o", folder / name]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    return once(f"cpp-{label or name}", compile_) / name


def message(texts: Sequence[bytes]) -> bytes:
    """Texts as the programs read them (cpp/messages.hpp)."""
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def sentences(*files: Path) -> list[str]:
    """The distinct sentences of STS-B's files."""
    rows = chain.from_iterable(csv.reader(io.StringIO(file.read_text(encoding="utf-8"), newline="")) for file in files)
    return list(dict.fromkeys(text for row in rows for text in row[:2]))
