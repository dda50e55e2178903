"""A tiny checkpoint and a made-up data set to train on, and trainings that are interrupted."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import save_checkpoint
from tests.support.shared import Once
from tests.support.trainings import Signalled, Start, train, write_data
from train import publish
from train.live import Screen


@pytest.fixture(scope="session")
def distilbert(once: Once) -> Path:
    """A tiny DistilBERT to train. Never alter it."""
    return once("distilbert", lambda folder: save_checkpoint(folder / "tiny", "distilbert")) / "tiny"


@pytest.fixture(scope="session")
def graded(once: Once) -> Path:
    """The folder of a made-up data set to train on. Never alter it."""
    return once("graded", lambda folder: write_data(folder / "pairs")) / "pairs"


@pytest.fixture
def start(distilbert: Path, graded: Path, tmp_path: Path) -> Start:
    """Train into a folder of this test's."""
    return lambda *options, into="out": train(distilbert, graded, "-o", tmp_path / into, *options)


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> Signalled:
    """Send this process a signal after a step, as Ctrl-C does, so many times."""
    shown = Screen.step

    def at(step: int, number: int = signal.SIGINT, times: int = 1) -> None:
        def stepped(self: Screen, taken: int, *rest: Any) -> None:
            shown(self, taken, *rest)
            for _ in range(times if taken == step else 0):
                signal.raise_signal(number)

        monkeypatch.setattr(Screen, "step", stepped)

    return at


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """No picture: it takes as long as all the rest of these trainings, and is looked at elsewhere."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(publish, "draw", lambda log, path: None)
        yield
