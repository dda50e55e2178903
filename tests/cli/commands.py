"""Helpers of the command line's tests: the outcome of a command, its files, and the tables it prints."""

import io
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2d_export import Bundle
from m2d_export.bench import cost
from m2d_export.cli import main

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "m2d_export"]
GATE, USAGE, INTERNAL, HUNG_UP, INTERRUPTED, TERMINATED = 1, 2, 70, 129, 130, 143


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


class Stdin(io.BytesIO):
    """Bytes with the name that standard input has."""

    name = "<stdin>"


def call(*arguments: object, stdin: bytes = b"") -> int:
    """Run the command line in this process, with ``stdin`` as its standard input; returns its exit code."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(signal, "signal", lambda number, handler: None)  # the handlers of pytest stay
        patched.setattr(sys, "argv", ["m2d-export", *map(str, arguments)])
        patched.setattr(sys, "stdin", io.TextIOWrapper(Stdin(stdin)))
        with pytest.raises(SystemExit) as ended:
            main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def run_in(folder: Path, command: Callable[[], int]) -> Outcome:
    """Run a command in this process, with ``folder`` as the working folder."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
        patched.chdir(folder)
        code = command()
    return Outcome(code, out.getvalue(), err.getvalue())


def memory(bundle: Bundle, layer: int, texts: Sequence[str], options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Stands in for the process that measures memory, which takes a second per layer."""
    yield {"kind": "memory", "layer": layer, "peak_mb": 100.0, "provider": "CPUExecutionProvider"}


def shorten_bench(patched: pytest.MonkeyPatch) -> None:
    """Have bench take the fewest rounds, and measure no memory."""
    patched.setattr(cost, "SECONDS_PER_SHAPE", 0.0)
    patched.setattr(cost, "memory", memory)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder: a file with its bytes, a folder with None."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refuse(run: Run, folder: Path, arguments: str, message: str, code: int = USAGE, stdin: bytes = b"") -> Outcome:
    """Run a command that must fail with ``code``, one line on standard error that has ``message``, and no output."""
    before = contents(folder)
    outcome = run(*arguments.split(), stdin=stdin)
    assert outcome.code == code
    assert outcome.out == ""
    assert outcome.err.endswith("\n")
    (line,) = outcome.err.splitlines()
    assert line.startswith("Error: ")
    assert message in line
    assert contents(folder) == before
    return outcome


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def encoded(folder: Path, name: str = "o.npy") -> np.ndarray[Any, np.dtype[np.float32]]:
    vectors = np.load(folder / name, allow_pickle=False)
    assert vectors.dtype == np.float32
    return np.asarray(vectors)


QUICK = "--sts pairs.csv --layers 1,3 --dims 64,7 --batch-size 1,2 --tokens 8"
KINDS = [*["score"] * 2, *["storage"] * 8] * 2 + ["latency"] * 8 + ["memory"] * 2


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def altered(path: Path, **fields: Any) -> None:
    """Change fields of every record in a file; ``cpu`` and ``cores`` are fields of its machine."""
    machine = {name: fields.pop(name) for name in ("cpu", "cores") if name in fields}
    changed = [record | fields | {"machine": record["machine"] | machine} for record in lines_of(path)]
    path.write_text("".join(json.dumps(record) + "\n" for record in changed))


def rows_of(out: str) -> list[list[str]]:
    """The cells of every row of every printed table, without the parts in brackets."""
    found = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    return [[cell.partition(" (")[0] for cell in row] for row in found if row[0]]
