"""Stop between two steps on Ctrl-C, SIGTERM or SIGHUP, so that a saved state is that of a whole step."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from m2d_export.cli import STOPPING


@contextlib.contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that the first of these signals sets; a second signal acts as it does outside the block."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *STOPPING)}

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number, handler in before.items():
        if number != signal.SIGHUP or handler is not signal.SIG_IGN:  # nohup: the terminal may close
            signal.signal(number, handle)
    try:
        yield stop
    finally:
        restore()
