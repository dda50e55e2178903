"""The standard streams of the program: closed ones harm no file, and a full standard output is an error in one line."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from m2d_export.host.files import writing

STANDARD_OUTPUT = Path("standard output")  # as error messages name it


class _Output:
    """Standard output whose failures are OutputErrors; a closed pipe still raises BrokenPipeError."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with writing(STANDARD_OUTPUT), self._dropped_after_a_failure():
            return self._stream.write(text)

    def flush(self) -> None:
        with writing(STANDARD_OUTPUT), self._dropped_after_a_failure():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropped_after_a_failure(self) -> Iterator[None]:
        """Python writes what is left in the buffer when it ends: after a failure, that goes nowhere."""
        try:
            yield
        except OSError:
            _to_nowhere(self._stream.fileno())
            raise


class _Errors(_Output):
    """Standard error that fails in silence: there is no other place for a message, and the work goes on."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError), self._dropped_after_a_failure():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError), self._dropped_after_a_failure():
            self._stream.flush()


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Guard the standard streams while a command runs.

    A closed stream would give its number to the next file that is opened, and what a library prints would go into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    with contextlib.ExitStack() as stack:
        if sys.stdout is not None:
            stack.enter_context(contextlib.redirect_stdout(_Output(sys.stdout)))
        errors = sys.stderr or stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stderr(_Errors(errors)))
        yield


def _to_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
