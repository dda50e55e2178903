"""Made-up texts to distil from, and distillations run in this process."""

import random
from pathlib import Path

from m2d_export.cli import cli
from tests.support.checkpoints import WORDS
from tests.support.in_process import Ended, run_here

SMALL = ("--max-texts", 300, "--mix", "none", "--dims", "64,16")
STEPS = ("--steps", 4, *SMALL)


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
    return run_here(cli, "m2d-export", "distil", *arguments)
