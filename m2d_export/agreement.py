"""Measure how far two encoders agree on texts without labels: on the order of pairs, and on nearest neighbours."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2d_export.errors import DataError
from m2d_export.host.extras import require
from m2d_export.vectors import FloatArray, cosine, truncate

MIN_TEXTS = 20  # with fewer texts, most other texts would be among the ten nearest neighbours
NEIGHBOURS = 10
QUERIES = 4096  # at most this number of texts get neighbours, so that time grows linearly with the number of texts
PAIRS = 20_000
BLOCK = 1 << 20  # numbers in a block of similarities: they take 4 MB, and sorting takes a few times as much

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Agreement:
    """The agreement of a cell with the full cell on ``count`` texts; all values are x 100.

    ``spearman`` is the correlation between the cosines of both cells for all sampled pairs of texts. Half of the pairs
    are random: ``random_spearman`` is the correlation for this half. The other pairs are a text and one of its nearest
    neighbours in the full cell: ``nearest_spearman`` is the correlation for this half. A correlation is None if a cell
    gives the same cosine to all these pairs. ``overlap_at_10`` is the share of a text's ten nearest neighbours that
    both cells find, as a mean over the texts.
    """

    count: int
    spearman: float | None
    random_spearman: float | None
    nearest_spearman: float | None
    overlap_at_10: float


@dataclass(frozen=True)
class AgreementReference:
    """The full cell's nearest neighbours, and its cosines of sampled pairs of texts.

    ``left`` and ``right`` (pairs,) are the places of the two texts of each pair. The first half of the pairs are
    random, and the other half are neighbours. ``queries`` (q,) are the places of the texts that have ``neighbours``
    (q, 10).
    """

    count: int
    queries: IntArray
    neighbours: IntArray
    left: IntArray
    right: IntArray
    cosines: NDArray[np.float64]


def agreement_reference(full: NDArray[Any], *, pairs: int = PAIRS, seed: int = 0) -> AgreementReference:
    """Sample pairs of texts, and search nearest neighbours with the full cell's vectors (texts, width).

    At most 4,096 sampled texts are queries. Their neighbours are searched among all texts. Raises DataError if there
    are fewer than 20 texts.
    """
    count = len(full)
    check_count(count, "the texts")
    rng = np.random.default_rng(seed)
    queries = np.sort(rng.permutation(count)[:QUERIES])
    neighbours = nearest(full, queries)
    half = pairs // 2
    left = rng.integers(count, size=half)
    right = (left + rng.integers(1, count, size=half)) % count  # never the text itself
    sampled = rng.integers(len(queries), size=half)
    left = np.concatenate([left, queries[sampled]])
    right = np.concatenate([right, neighbours[sampled, rng.integers(NEIGHBOURS, size=half)]])
    return AgreementReference(count, queries, neighbours, left, right, cosine(full[left], full[right]))


def agreement(vectors: NDArray[Any], reference: AgreementReference) -> Agreement:
    """Compare a cell's ``vectors`` (texts, dim) with the full cell's ``reference`` on the same texts.

    Raises DataError if the numbers of texts differ, and RuntimeUnavailable if scipy is missing.
    """
    if len(vectors) != reference.count:
        raise DataError(
            f"{len(vectors)} vectors cannot be compared with {reference.count} of the full cell: "
            "encode the same texts with both"
        )
    cosines, half = cosine(vectors[reference.left], vectors[reference.right]), len(reference.left) // 2
    found = nearest(vectors, reference.queries)
    shared = (found[:, :, None] == reference.neighbours[:, None, :]).sum(axis=(1, 2))
    return Agreement(
        count=reference.count,
        spearman=correlation("spearmanr", cosines, reference.cosines),
        random_spearman=correlation("spearmanr", cosines[:half], reference.cosines[:half]),
        nearest_spearman=correlation("spearmanr", cosines[half:], reference.cosines[half:]),
        overlap_at_10=float(shared.mean() / NEIGHBOURS * 100),
    )


def nearest(vectors: NDArray[Any], queries: IntArray, count: int = NEIGHBOURS) -> IntArray:
    """The places of the ``count`` other texts with the largest cosines to each query (q, count), largest first."""
    unit = truncate(vectors, vectors.shape[1])
    found = np.empty((len(queries), count), dtype=np.int64)
    for rows in blocks(len(queries), len(unit)):
        similarities = unit[queries[rows]] @ unit.T
        similarities[np.arange(len(similarities)), queries[rows]] = -np.inf
        found[rows] = top(similarities, count)
    return found


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Cut ``rows`` rows into slices. The rows of a slice, with ``columns`` numbers each, take a few megabytes."""
    step = max(1, BLOCK // columns)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def top(scores: FloatArray, count: int) -> IntArray:
    """The places of the ``count`` highest scores of each row, highest first: (rows, n) float32 -> (rows, count).

    A score and its place become one integer. So equal scores are in the order of their places on every machine.
    """
    bits = (scores + np.float32(0)).view(np.int32)  # the sum turns -0.0 into 0.0: they are equal, but their bits differ
    ascending = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int64)
    last = scores.shape[1] - 1
    keys = (ascending << 32) | np.arange(last, -1, -1)
    if count <= last:
        keys = np.partition(keys, last - count, axis=1)[:, -count:]
    return np.asarray(last - (np.sort(keys, axis=1)[:, ::-1] & 0xFFFFFFFF))


def correlation(name: str, left: NDArray[Any], right: NDArray[Any]) -> float | None:
    """A correlation of scipy.stats, such as spearmanr, x 100; None if a side is constant, or has NaN or infinity."""
    stats = require("scipy.stats", "bench")
    for side in (left, right):
        if not np.isfinite(side).all() or np.ptp(side) == 0:
            return None
    return float(getattr(stats, name)(left, right).statistic * 100)


def check_count(count: int, source: str, purpose: str = "agreement") -> None:
    """Raise DataError if ``source`` has fewer than 20 distinct texts."""
    if count < MIN_TEXTS:
        raise DataError(f"{source}: {count} distinct texts, but {purpose} needs at least {MIN_TEXTS}: add more texts")
