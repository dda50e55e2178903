"""Signals in programs that tests start."""

import signal


def heed_signals() -> None:
    """Let SIGINT interrupt this child: a shell that runs the tests in the background has it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
