"""Distillations into a folder of a test, and a signal that interrupts them."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from m2d_train.screen import Screen

from tests.support.distillations import distil
from tests.support.in_process import Ended

Distil = Callable[..., Ended]  # into the folder ``out`` of a test


@pytest.fixture
def start(plain: Path, texts: Path, tmp_path: Path) -> Distil:
    """Distil into ``out`` of this test."""
    return lambda *options, base=plain, source=texts: distil(base, "--texts", source, "-o", tmp_path / "out", *options)


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Send a signal to this process after a step, as Ctrl-C does."""
    shown = Screen.step

    def at(step: int, number: int = signal.SIGINT) -> None:
        def stepped(self: Screen, taken: int, *rest: Any) -> None:
            shown(self, taken, *rest)
            if taken == step:
                signal.raise_signal(number)

        monkeypatch.setattr(Screen, "step", stepped)

    return at
