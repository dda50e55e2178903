"""Tiny checkpoints and made-up data, one training with each recipe, and trainings that a signal interrupts."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import save_checkpoint
from tests.support.distillations import STEPS, distil, write_texts
from tests.support.in_process import Ended
from tests.support.shared import Once
from tests.support.trainings import RECIPES, Signalled, Start, names, train, write_data
from train import picture, publish
from train.screen import Screen

Trained = Callable[[str], tuple[Path, Ended]]


@pytest.fixture(scope="session")
def distilbert(once: Once) -> Path:
    """A tiny DistilBERT to train. Never alter it."""
    return once("distilbert", lambda folder: save_checkpoint(folder / "tiny", "distilbert")) / "tiny"


@pytest.fixture(scope="session")
def graded(once: Once) -> Path:
    """The folder of a made-up data set to train on. Never alter it."""
    return once("graded", lambda folder: write_data(folder / "pairs")) / "pairs"


@pytest.fixture(scope="session")
def trained(once: Once, distilbert: Path, graded: Path) -> Trained:
    """The checkpoint that a recipe wrote without interruption, and the outcome of its command. Never alter it."""

    def make(folder: Path) -> None:
        outcomes = {}
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(publish, "draw", picture.draw)  # ``undrawn`` may be active
            for recipe, options in RECIPES.items():
                outcomes[recipe] = vars(train(distilbert, graded, "-o", folder / recipe, *options))
        assert names(folder) == sorted(RECIPES)  # no work folder and no staging folder stays
        (folder / "outcomes.json").write_text(json.dumps(outcomes))

    folder = once("trained", make)
    outcomes = json.loads((folder / "outcomes.json").read_text())
    return lambda recipe: (folder / recipe, Ended(**outcomes[recipe]))


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
def start(distilbert: Path, graded: Path, tmp_path: Path) -> Start:
    """Train into a folder of this test."""
    return lambda *options, into="out": train(distilbert, graded, "-o", tmp_path / into, *options)


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> Signalled:
    """Send a signal to this process after a step, as Ctrl-C does, once or more."""
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
    """No picture, because drawing takes as long as the rest of a training; test_train.py and test_screen.py test it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(publish, "draw", lambda log, path: None)
        yield
