"""Made-up texts to distil from, and distillations run in this process."""

import contextlib
import io
import random
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from m2d_export.cli import STOPPING, cli, run
from tests.support.checkpoints import WORDS

SMALL = ("--max-texts", 300, "--mix", "none", "--dims", "64,16")
STEPS = ("--steps", 4, *SMALL)


@dataclass(frozen=True)
class Ended:
    """The exit code of a command, and what it wrote to its standard streams."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The error that the command ended with: the only one, and the last line."""
        *before, last = self.err.splitlines()
        assert last.startswith("Error: "), self.err
        assert not [line for line in before if line.startswith(("Error", "Traceback"))]
        return last.removeprefix("Error: ")


def made_up_texts(count: int, seed: int = 0) -> list[str]:
    """Distinct made-up sentences."""
    chance = random.Random(seed)
    return [f"{' '.join(chance.choices(WORDS, k=chance.randint(2, 9)))} {number}" for number in range(count)]


def write_texts(path: Path, count: int, seed: int = 0) -> Path:
    """Write made-up sentences, one in each line."""
    path.write_text("".join(f"{text}\n" for text in made_up_texts(count, seed)))
    return path


def distil(*arguments: object) -> Ended:
    """Run ``m2d-export distil`` with ``arguments``, in this process."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, *STOPPING)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore SIGINT
    code: object = None
    try:
        with (
            mock.patch.object(sys, "argv", ["m2d-export", "distil", *map(str, arguments)]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            run(cli)
    except SystemExit as ended:
        code = ended.code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert isinstance(code, int), err.getvalue()
    return Ended(code, out.getvalue(), err.getvalue())
