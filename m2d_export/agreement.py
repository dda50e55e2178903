"""How far two encoders agree on texts that nobody has graded: on the order of pairs, and on nearest neighbours."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2d_export.errors import DataError
from m2d_export.host.extras import require
from m2d_export.vectors import FloatArray, cosine, truncate

LEAST_TEXTS = 20  # fewer have too few neighbours that are not simply all the others
NEIGHBOURS = 10
QUERIES = 4096  # texts whose neighbours are searched, at most: time grows with the texts, not with their square
PAIRS = 20_000
BLOCK = 1 << 20  # similarities held at a time: 4 MB, and a few times that while they are searched

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Agreement:
    """A cell against the full cell on ``count`` texts, all x 100; None where a constant cell leaves it undefined.

    Spearman of the two cells' cosines over all sampled pairs, over the random half and over the half made of a text
    and one of the full cell's nearest neighbours; and the mean share of ten neighbours that both have.
    """

    count: int
    spearman: float | None
    random_spearman: float | None
    nearest_spearman: float | None
    overlap_at_10: float


@dataclass(frozen=True)
class Yardstick:
    """What every cell is compared with: the full cell's neighbours, and its cosines of the sampled pairs.

    ``left`` and ``right`` are (pairs,) places in the texts: random pairs, then as many of nearest neighbours.
    ``queries`` are the texts whose ``neighbours`` (queries, 10) were searched.
    """

    count: int
    queries: IntArray
    neighbours: IntArray
    left: IntArray
    right: IntArray
    cosines: NDArray[np.float64]


def yardstick(full: NDArray[Any], *, pairs: int = PAIRS, seed: int = 0) -> Yardstick:
    """Sample pairs of texts and search neighbours with the full cell's vectors (texts, width).

    Neighbours of up to 4,096 sampled texts are searched among all texts. Raises DataError for fewer than 20 texts.
    """
    count = len(full)
    check_count(count, "the texts")
    rng = np.random.default_rng(seed)
    queries = np.sort(rng.permutation(count)[:QUERIES])
    neighbours = nearest(full, queries)
    half = pairs // 2
    left = rng.integers(count, size=half)
    right = (left + rng.integers(1, count, size=half)) % count  # any other text
    near = rng.integers(len(queries), size=half)
    left = np.concatenate([left, queries[near]])
    right = np.concatenate([right, neighbours[near, rng.integers(NEIGHBOURS, size=half)]])
    return Yardstick(count, queries, neighbours, left, right, cosine(full[left], full[right]))


def agreement(vectors: NDArray[Any], stick: Yardstick) -> Agreement:
    """How far a cell's ``vectors`` (texts, dim) agree with the full cell that ``stick`` was made of.

    Raises RuntimeUnavailable without scipy, DataError where these are not the vectors of as many texts.
    """
    if len(vectors) != stick.count:
        raise DataError(f"{len(vectors)} vectors, but the full cell has {stick.count}: encode the same texts with both")
    cosines, half = cosine(vectors[stick.left], vectors[stick.right]), len(stick.left) // 2
    found = nearest(vectors, stick.queries)
    shared = (found[:, :, None] == stick.neighbours[:, None, :]).sum(axis=(1, 2))
    return Agreement(
        count=stick.count,
        spearman=_spearman(cosines, stick.cosines),
        random_spearman=_spearman(cosines[:half], stick.cosines[:half]),
        nearest_spearman=_spearman(cosines[half:], stick.cosines[half:]),
        overlap_at_10=float(shared.mean() / NEIGHBOURS * 100),
    )


def nearest(vectors: NDArray[Any], queries: IntArray, count: int = NEIGHBOURS) -> IntArray:
    """The ``count`` nearest other texts of each query by cosine, nearest first: (texts, dim), (q,) -> (q, count)."""
    unit = truncate(vectors, vectors.shape[1])
    found = np.empty((len(queries), count), dtype=np.int64)
    for rows in blocks(len(queries), len(unit)):
        similarities = unit[queries[rows]] @ unit.T
        similarities[np.arange(len(similarities)), queries[rows]] = -np.inf
        found[rows] = top(similarities, count)
    return found


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of ``rows`` so that rows x ``columns`` of one stay within some megabytes."""
    step = max(1, BLOCK // columns)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def top(scores: FloatArray, count: int) -> IntArray:
    """Places of the ``count`` highest scores of each row, highest first: (rows, n) float32 -> (rows, count).

    Equal scores stand in the order of their places, whatever the machine: each score and its place become one integer.
    """
    bits = (scores + np.float32(0)).view(np.int32)  # the sum makes -0.0 the 0.0 it equals
    ascending = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int64)
    last = scores.shape[1] - 1
    keys = (ascending << 32) | np.arange(last, -1, -1)
    if count <= last:
        keys = np.partition(keys, last - count, axis=1)[:, -count:]
    return np.asarray(last - (np.sort(keys, axis=1)[:, ::-1] & 0xFFFFFFFF))


def _spearman(left: NDArray[np.float64], right: NDArray[np.float64]) -> float | None:
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return None
    return float(require("scipy.stats", "bench").spearmanr(left, right).statistic * 100)


def check_count(count: int, what: str, purpose: str = "agreement") -> None:
    """Raise DataError where ``what`` has fewer than 20 distinct texts."""
    if count < LEAST_TEXTS:
        raise DataError(f"{count} distinct texts in {what}: {purpose} needs at least {LEAST_TEXTS}")
