"""Splits of graded sentence pairs, from a folder or the Hub, with scores brought to 0..1."""

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
from m2d_export.text.files import read_texts

TRAIN, DEV, TEST = "train", "dev", "test"
NAMES: Mapping[str, tuple[str, ...]] = {TRAIN: (TRAIN,), DEV: (DEV, "validation"), TEST: (TEST,)}
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
SCALES = ((0.0, 1.0), (0.0, 5.0))  # those that are recognised; another one is given


@dataclass(frozen=True)
class Data:
    """The splits to train on, choose by and report; ``scale`` is the scores' range as published.

    Scores of every split lie in 0..1. ``test`` is None where there is none; ``unlabelled`` are sentences
    without a score.
    """

    source: str
    scale: tuple[float, float]
    train: Pairs
    dev: Pairs
    test: Pairs | None
    unlabelled: tuple[str, ...] = ()

    def judged(self) -> dict[str, Pairs]:
        """The splits that a model is judged on, by name."""
        return {DEV: self.dev} if self.test is None else {DEV: self.dev, TEST: self.test}

    def splits(self) -> dict[str, Pairs]:
        """All splits, by name."""
        return {TRAIN: self.train, **self.judged()}

    def overlap(self) -> dict[str, int]:
        """Pairs of dev and test that train holds too, in either order."""
        known = _sentence_pairs(self.train)
        return {name: len(_sentence_pairs(split) & known) for name, split in self.judged().items()}


def load_data(
    source: str,
    columns: tuple[str, str, str] | None = None,
    scale: tuple[float, float] | None = None,
    unlabelled: str | Path | None = None,
) -> Data:
    """Splits named train, dev (or validation) and, where there is one, test: files of a folder, or of a Hub dataset.

    Files are .csv, .tsv, .jsonl or .parquet; ``columns`` names both sentences and the score. Without ``scale``, it is
    0..1 or 0..5, whichever all of train's scores lie in. ``unlabelled`` is a file of sentences, one a line. Raises
    DataError for splits that are missing, empty, of one score only, or hold a score that is out of scale or no
    number, and for sentences that are not strings.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        read = {split: _from_folder(folder, split, columns) for split in NAMES}
        found = {split: pairs for split, pairs in read.items() if pairs is not None}
    elif folder.exists():
        raise DataError(f"{source} is a file: give the folder that holds {_wanted()}")
    else:
        found = _from_hub(source, columns or COLUMNS)
    missing = [split for split in (TRAIN, DEV) if split not in found]
    if missing:
        raise DataError(f"{source} has no {' and no '.join(missing)} split: expected {_wanted()}")
    scale = scale or _detect(found[TRAIN])
    texts = () if unlabelled is None else read_texts(Path(unlabelled), "learning without scores")
    scaled = {split: _scaled(pairs, scale) for split, pairs in found.items()}
    return Data(source, scale, scaled[TRAIN], scaled[DEV], scaled.get(TEST), texts)


def _wanted() -> str:
    return (
        "train, dev (or validation) and perhaps test, each a " + ", ".join(SUFFIXES[:-1]) + f" or {SUFFIXES[-1]} file"
    )


def _from_folder(folder: Path, split: str, columns: tuple[str, str, str] | None) -> Pairs | None:
    files = [path for name in NAMES[split] for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()]
    if len(files) > 1:
        raise DataError(f"{folder} holds {' and '.join(path.name for path in files)}: keep the one to take")
    if not files:
        return None
    if files[0].suffix == ".parquet":
        parquet = require("pyarrow.parquet", "train")
        try:
            rows = parquet.read_table(files[0]).to_pylist()
        except Exception as error:  # of several libraries
            raise DataError(f"{files[0]} cannot be read as Parquet: {first_line(error)}") from error
        return pairs_of(files[0].name, rows, columns or COLUMNS, str(files[0]))
    return load_pairs(str(files[0]), columns)


def _from_hub(source: str, columns: tuple[str, str, str]) -> dict[str, Pairs]:
    datasets = require("datasets", "train")
    try:
        splits: Mapping[str, Any] = datasets.load_dataset(source)
    except Exception as error:  # network, authentication and cache errors of several libraries
        raise DataError(f"no folder {source} here, and the Hub has not given it: {first_line(error)}") from error
    there = {split: [name for name in names if name in splits] for split, names in NAMES.items()}
    for names in there.values():
        if len(names) > 1:
            raise DataError(f"{source} has the splits {' and '.join(names)}, which mean the same: save the one to take")
    return {
        split: pairs_of(split, splits[name], columns, f"{source}, {name}")
        for split, names in there.items()
        for name in names
    }


def _detect(train: Pairs) -> tuple[float, float]:
    lowest, highest = float(train.scores.min()), float(train.scores.max())
    for scale in SCALES:
        if scale[0] <= lowest and highest <= scale[1]:
            return scale
    raise DataError(f"scores of {train.name} run from {lowest:g} to {highest:g}: say their range with --scale LOW,HIGH")


def _scaled(pairs: Pairs, scale: tuple[float, float]) -> Pairs:
    low, high = scale
    outside = np.flatnonzero((pairs.scores < low) | (pairs.scores > high))
    if len(outside):
        raise DataError(
            f"{pairs.name}, pair {outside[0] + 1}: score {pairs.scores[outside[0]]:g} is not within {low:g}..{high:g} "
            f"({len(outside)} such): say the right range with --scale LOW,HIGH"
        )
    scores: NDArray[np.float64] = (pairs.scores - low) / (high - low)
    return Pairs(pairs.name, pairs.label, pairs.texts, pairs.left, pairs.right, scores)


def fingerprint(data: Data) -> str:
    """The sha256 of everything that is learnt from or judged by: sentences, their pairing and scores."""
    digest = hashlib.sha256()
    for name, pairs in data.splits().items():
        places, scores = (pairs.left.tolist(), pairs.right.tolist()), pairs.scores.tolist()
        digest.update(json.dumps([name, pairs.texts, places, scores]).encode())
    digest.update(json.dumps(data.unlabelled).encode())
    return digest.hexdigest()


def _sentence_pairs(pairs: Pairs) -> set[frozenset[str]]:
    return {frozenset(pair) for pair in zip(*pairs.sides(), strict=True)}
