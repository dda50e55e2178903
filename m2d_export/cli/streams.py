"""Guard the standard streams: a closed stream damages no file, and a failed write becomes an error of one line."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from m2d_export.host.files import STDOUT, writing

Around = Callable[[], contextlib.AbstractContextManager[None]]


class _Guarded:
    """A stream of text; ``around`` makes a context that handles the errors of each write."""

    def __init__(self, stream: TextIO, around: Around) -> None:
        self._stream, self._around = stream, around

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._around():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._around():
            self._stream.flush()

    def settle(self) -> None:
        """Drop text that cannot be written; otherwise Python would try again at its end, and print an error."""
        try:
            self._stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Guard the standard streams while a command runs.

    If a stream is closed, the next file that is opened would get its number. Then text that a library prints would go
    into that file. If standard output cannot be written, OutputError is raised. If the reader of a pipe has closed it,
    BrokenPipeError is raised. If standard error cannot be written, the error is ignored, because there is no other
    place for messages.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # ``open`` takes the lowest free number, which is this one
    with contextlib.ExitStack() as stack:
        if sys.stdout is not None:
            if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
                sys.stdout.reconfigure(errors="backslashreplace")  # like standard error: names can be invalid UTF-8
            output = _Guarded(sys.stdout, lambda: writing(STDOUT))
            stack.callback(output.settle)
            stack.enter_context(contextlib.redirect_stdout(output))
        errors = _Guarded(
            sys.stderr or stack.enter_context(open(os.devnull, "w", encoding="utf-8")),
            lambda: contextlib.suppress(OSError),
        )
        stack.callback(errors.settle)
        stack.enter_context(contextlib.redirect_stderr(errors))
        yield
