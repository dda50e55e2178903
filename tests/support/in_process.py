"""Commands that are run in this process, and what they leave."""

import contextlib
import io
import signal
import sys
from dataclasses import dataclass
from unittest import mock

import click

from m2d_export.cli import STOPPING, run


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


def run_here(command: click.Command, *arguments: object) -> Ended:
    """Run ``command`` with ``arguments``, the first of which is the name of the program."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, *STOPPING)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore SIGINT
    code: object = None
    try:
        with (
            mock.patch.object(sys, "argv", [*map(str, arguments)]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            run(command)
    except SystemExit as ended:
        code = ended.code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert isinstance(code, int), err.getvalue()
    return Ended(code, out.getvalue(), err.getvalue())
