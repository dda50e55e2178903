"""A tiny checkpoint without exits, texts, and what a distillation of them wrote."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from m2d_train.screen import Screen

from tests.support.checkpoints import save_checkpoint
from tests.support.distillations import STEPS, distil, write_texts
from tests.support.in_process import Ended
from tests.support.shared import Once

Distil = Callable[..., Ended]  # into the folder ``out`` of a test


@pytest.fixture(scope="session")
def plain(once: Once) -> Path:
    """A tiny BERT with prompts and nothing for its exits. Never alter it."""
    prompts = {"query": "a cat: ", "passage": "the dog: "}

    def make(folder: Path) -> None:
        made = save_checkpoint(folder / "plain", prompts=prompts)
        (made / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A card\n")

    return once("distil-base", make) / "plain"


@pytest.fixture(scope="session")
def texts(once: Once) -> Path:
    """A file of 250 distinct texts. Never alter it."""
    return once("distil-texts", lambda folder: write_texts(folder / "texts.txt", 250)) / "texts.txt"


@pytest.fixture(scope="session")
def distilled(once: Once, plain: Path, texts: Path) -> Path:
    """The checkpoint that a distillation with a table wrote without interruption. Never alter it."""

    def make(folder: Path) -> None:
        ended = distil(plain, "--texts", texts, "-o", folder / "out", "--layers", "0,1,2,3", *STEPS)
        assert ended.code == 0, ended.err
        (folder / "screen.txt").write_text(ended.out)
        assert sorted(path.name for path in folder.iterdir()) == ["out", "screen.txt"]

    return once("distilled", make) / "out"


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
