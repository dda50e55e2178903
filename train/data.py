"""The splits of a data set of graded sentence pairs, from a folder or the Hub; scores are scaled to 0..1."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2d_export.bench.sts import COLUMNS, Pairs, load_pairs, pairs_of
from m2d_export.errors import DataError, first_line
from m2d_export.host.extras import require
from m2d_export.host.files import expanded
from m2d_export.text.files import read_texts

TRAIN, DEV, TEST = "train", "dev", "test"
NAMES: Mapping[str, tuple[str, ...]] = {TRAIN: (TRAIN,), DEV: (DEV, "validation"), TEST: (TEST,)}
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
SCALES = ((0.0, 1.0), (0.0, 5.0))  # recognised without --scale


@dataclass(frozen=True)
class Data:
    """The splits to train on, to choose by and to report.

    Scores of every split are in 0..1; ``scale`` is their published range. ``test`` is None if the data set has none.
    ``unlabelled`` are sentences without scores.
    """

    source: str
    scale: tuple[float, float]
    train: Pairs
    dev: Pairs
    test: Pairs | None
    unlabelled: tuple[str, ...] = ()

    def held_out(self) -> dict[str, Pairs]:
        """The splits that a model is evaluated on, by name."""
        return {DEV: self.dev} if self.test is None else {DEV: self.dev, TEST: self.test}

    def splits(self) -> dict[str, Pairs]:
        """All splits, by name."""
        return {TRAIN: self.train, **self.held_out()}

    def overlap(self) -> dict[str, int]:
        """The number of pairs of each held-out split that train has too, in either order of the sentences."""
        known = _sentence_pairs(self.train)
        return {name: len(_sentence_pairs(split) & known) for name, split in self.held_out().items()}


def load_data(
    source: str,
    columns: tuple[str, str, str] | None = None,
    scale: tuple[float, float] | None = None,
    unlabelled: str | Path | None = None,
) -> Data:
    """Load the splits train, dev (or validation) and optionally test from a folder or from a dataset of the Hub.

    Files are .csv, .tsv, .jsonl or .parquet. ``columns`` names the two sentences and the score. The default of
    ``scale`` is 0..1 or 0..5, whichever all scores of train are in. ``unlabelled`` is a file with one sentence in each
    line. Raises DataError if a split is missing or has fewer than two different scores, if a score is not a number or
    is out of scale, and if a sentence is not a string.
    """
    folder = expanded(source)
    if folder.is_dir():
        read = {split: _from_folder(folder, split, columns) for split in NAMES}
        found = {split: pairs for split, pairs in read.items() if pairs is not None}
    elif folder.exists():
        raise DataError(f"{source} is a file: give a folder with {_expected()}")
    else:
        found = _from_hub(source, columns or COLUMNS)
    missing = [split for split in (TRAIN, DEV) if split not in found]
    if missing:
        raise DataError(f"{source} has no {' and no '.join(missing)} split: expected {_expected()}")
    scale = scale or _detect_scale(found[TRAIN])
    texts = () if unlabelled is None else read_texts(Path(unlabelled), "training without scores")
    scaled = {split: _scaled(pairs, scale) for split, pairs in found.items()}
    return Data(source, scale, scaled[TRAIN], scaled[DEV], scaled.get(TEST), texts)


def _expected() -> str:
    kinds = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
    return f"train, dev (or validation) and optionally test, each a {kinds} file"


def _from_folder(folder: Path, split: str, columns: tuple[str, str, str] | None) -> Pairs | None:
    files = [path for name in NAMES[split] for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()]
    if len(files) > 1:
        raise DataError(f"{folder} has {' and '.join(path.name for path in files)}: keep only one of them")
    if not files:
        return None
    if files[0].suffix == ".parquet":
        parquet = require("pyarrow.parquet", "train")
        try:
            rows = parquet.read_table(files[0]).to_pylist()
        except Exception as error:  # pyarrow raises errors of many types
            raise DataError(f"{files[0]} is not a Parquet file: {first_line(error)}") from error
        return pairs_of(files[0].name, rows, columns or COLUMNS, str(files[0]))
    return load_pairs(str(files[0]), columns)


def _from_hub(source: str, columns: tuple[str, str, str]) -> dict[str, Pairs]:
    datasets = require("datasets", "train")
    try:
        splits: Mapping[str, Any] = datasets.load_dataset(source)
    except Exception as error:  # network, authentication and cache errors of several libraries
        raise DataError(
            f"{source} is not a folder here, and loading it from the Hub failed: {first_line(error)}"
        ) from error
    there = {split: [name for name in names if name in splits] for split, names in NAMES.items()}
    for names in there.values():
        if len(names) > 1:
            raise DataError(
                f"{source} has the splits {' and '.join(names)}, which are the same one here: save only one of them"
            )
    return {
        split: pairs_of(split, splits[name], columns, f"{source}, {name}")
        for split, names in there.items()
        for name in names
    }


def _detect_scale(train: Pairs) -> tuple[float, float]:
    lowest, highest = float(train.scores.min()), float(train.scores.max())
    for scale in SCALES:
        if scale[0] <= lowest and highest <= scale[1]:
            return scale
    raise DataError(
        f"the scores of {train.name} are from {lowest:g} to {highest:g}, expected 0 to 1 or 0 to 5: give their range "
        "with --scale LOW,HIGH"
    )


def _scaled(pairs: Pairs, scale: tuple[float, float]) -> Pairs:
    low, high = scale
    outside = np.flatnonzero((pairs.scores < low) | (pairs.scores > high))
    if len(outside):
        raise DataError(
            f"{pairs.name}, pair {outside[0] + 1}: the score {pairs.scores[outside[0]]:g} is not from {low:g} to "
            f"{high:g} ({len(outside)} pairs are outside): give the right range with --scale LOW,HIGH"
        )
    scores: NDArray[np.float64] = (pairs.scores - low) / (high - low)
    return Pairs(pairs.name, pairs.label, pairs.texts, pairs.left, pairs.right, scores)


def fingerprint(data: Data) -> str:
    """A sha256 over all that a training reads: the sentences, pairs and scores of every split, and ``unlabelled``."""
    digest = hashlib.sha256()
    for name, pairs in data.splits().items():
        places, scores = (pairs.left.tolist(), pairs.right.tolist()), pairs.scores.tolist()
        digest.update(json.dumps([name, pairs.texts, places, scores]).encode())
    digest.update(json.dumps(data.unlabelled).encode())
    return digest.hexdigest()


def _sentence_pairs(pairs: Pairs) -> set[frozenset[str]]:
    return {frozenset(pair) for pair in zip(*pairs.sides(), strict=True)}
