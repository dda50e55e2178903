"""Made-up pairs to train on, trainings run in this process, and what they leave."""

import csv
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.support.checkpoints import WIDTH, WORDS
from tests.support.in_process import Ended, run_here
from train.__main__ import main

Row = tuple[str, str, float]
TRAIN, DEV, TEST = 26, 12, 10  # pairs of each split: train is three batches of eight, and two more pairs

INTERRUPTED, FAILED, USAGE = 130, 1, 2  # exit codes
DIMS = (WIDTH, 16)
GRID = ("--dims", f"{WIDTH},16", "--batch-size", 8, "--epochs", 2, "--eval-steps", 4)
SEED = ("--recipe", "seed", *GRID)
RECIPES = {"grid": GRID, "seed": SEED}
STEPS = {"grid": 2 * (TRAIN // 8), "seed": 2 * -(-TRAIN // 8)}  # the grid recipe leaves out a batch that is not full


def made_up(count: int, seed: int) -> list[Row]:
    """Pairs of made-up sentences, scored by the share of words that they have in common."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        left = chance.sample(WORDS, chance.randint(2, 9))
        common = number % 5  # words in both sentences; scores must differ
        right = left[:common] + chance.sample(WORDS, 3)
        rows.append((" ".join(left), " ".join(right), common / 4))
    return rows


def write(path: Path, rows: Iterable[Row], header: str = "sentence1,sentence2,score") -> Path:
    """Write pairs as CSV, or as TSV if the path ends in .tsv."""
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header.split(","), *rows])
    return path


def write_data(folder: Path, names: Iterable[str] = ("train", "dev", "test")) -> Path:
    """Write a data set of three splits."""
    folder.mkdir()
    for seed, (name, count) in enumerate(zip(names, (TRAIN, DEV, TEST), strict=True)):
        write(folder / f"{name}.csv", made_up(count, seed))
    return folder


def train(*arguments: object) -> Ended:
    """Run ``python -m train`` with ``arguments``, in this process."""
    return run_here(main, "train", *arguments)


Start = Callable[..., Ended]  # trains into the folder ``out`` of a test, or into the folder named ``into``
Signalled = Callable[..., None]


def names(folder: Path) -> list[str]:
    """The names of the files and folders in ``folder``."""
    return sorted(path.name for path in folder.iterdir())


def weights(folder: Path) -> dict[str, bytes]:
    """The bytes of every weights file of a checkpoint."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


def settings(folder: Path) -> dict[str, Any]:
    """The contents of ``m2d.json``."""
    return json.loads((folder / "m2d.json").read_text(encoding="utf-8"))


def log(folder: Path) -> list[dict[str, Any]]:
    """The log of a published training."""
    return settings(folder)["log"]
