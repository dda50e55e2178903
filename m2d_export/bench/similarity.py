"""Correlate the similarities of pairs with their grades, as sentence-transformers does, and compute intervals."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2d_export.agreement import correlation
from m2d_export.vectors import FloatArray, cosine, truncate

Floats = NDArray[np.float64]
Bounds = tuple[float, float]
PERCENTILES = (2.5, 97.5)
BLOCK = 1 << 16  # numbers in a block of resamples; a block fits in the processor's cache


# (pairs, dim), (pairs, dim) -> (pairs,). Distances are negated, so that a larger number always means more similar.
SIMILARITIES: Mapping[str, Callable[[NDArray[Any], NDArray[Any]], Floats]] = {
    "cosine": cosine,
    "manhattan": lambda left, right: np.asarray(-np.abs(np.subtract(left, right, dtype=np.float64)).sum(axis=1)),
    "euclidean": lambda left, right: np.asarray(-np.linalg.norm(np.subtract(left, right, dtype=np.float64), axis=1)),
    "dot": lambda left, right: np.asarray(np.multiply(left, right, dtype=np.float64).sum(axis=1)),
}


@dataclass(frozen=True)
class Correlations:
    """Pearson's and Spearman's correlation x 100 of each similarity with the grades. It is None if undefined."""

    pearson: Mapping[str, float | None]
    spearman: Mapping[str, float | None]


@dataclass(frozen=True)
class Interval:
    """95 % bootstrap intervals: of a score, and of the score minus the full cell's score on the same resamples."""

    score: Bounds | None
    difference: Bounds | None


def emitted(vectors: NDArray[Any], dim: int, normalize: bool) -> FloatArray:
    """Cut vectors as sentence-transformers does with ``truncate_dim``: (n, width), not normalised -> (n, dim).

    If ``normalize`` is True, the checkpoint has a Normalize module. It normalises the full vector, before the cut. The
    cut vector is not normalised again. This changes dot products and distances.
    """
    return truncate(vectors, vectors.shape[1], normalize)[:, :dim]


def correlations(left: NDArray[Any], right: NDArray[Any], gold: NDArray[Any]) -> Correlations:
    """Correlate the similarities of ``left`` and ``right`` (pairs, dim) with the grades ``gold`` (pairs,).

    Raises RuntimeUnavailable if scipy is not installed.
    """
    similarities = {name: similarity(left, right) for name, similarity in SIMILARITIES.items()}
    return Correlations(
        pearson={name: pearson(values, gold) for name, values in similarities.items()},
        spearman={name: spearman(values, gold) for name, values in similarities.items()},
    )


def pearson(values: NDArray[Any], gold: NDArray[Any]) -> float | None:
    """Pearson's correlation x 100. None if a side is constant or not finite."""
    return correlation("pearsonr", values, gold)


def spearman(values: NDArray[Any], gold: NDArray[Any]) -> float | None:
    """Spearman's rank correlation x 100. Equal values share a rank. None if a side is constant or not finite."""
    return correlation("spearmanr", values, gold)


def intervals(
    similarities: NDArray[Any], gold: NDArray[Any], *, full: int, resamples: int = 1000, seed: int = 0
) -> list[Interval]:
    """95 % bootstrap intervals of each cell's Spearman x 100, and of its difference to the cell in row ``full``.

    ``similarities`` is (cells, pairs) and ``gold`` is (pairs,). A resample draws as many pairs as there are, with
    replacement. All cells get the same resamples. The ranks are computed again in each resample. An interval is None
    if the score is undefined.
    """
    rng, pairs = np.random.default_rng(seed), len(gold)
    sides = [Ranking.of(values) for values in (gold, *similarities)]
    scores = np.empty((len(similarities), resamples))
    rows = max(1, BLOCK // pairs)
    for start in range(0, resamples, rows):
        block = scores[:, start : start + rows]
        block[:] = resampled(sides, _draws(rng, block.shape[1], pairs))
    defined = np.isfinite(scores) & np.isfinite(similarities).all(axis=1)[:, None]
    differences = scores - scores[full]
    return [
        Interval(
            _bounds(row[known]) if known.any() else None,
            _bounds(difference[known & defined[full]]) if (known & defined[full]).any() else None,
        )
        for row, difference, known in zip(scores, differences, defined, strict=True)
    ]


@dataclass(frozen=True)
class Ranking:
    """The order of some values. With it, the ranks in a resample are computed without a new sort."""

    order: NDArray[np.int64]  # places of the values, from the smallest value to the largest
    ends: NDArray[np.int64]  # for each group of equal values, its last place in the order
    group: NDArray[np.int64]  # the group of each value

    @classmethod
    def of(cls, values: NDArray[Any]) -> "Ranking":
        """Sort ``values`` (pairs,) once."""
        _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
        return cls(np.argsort(values), np.cumsum(sizes) - 1, group)

    def ranks(self, draws: Floats) -> Floats:
        """Ranks minus their mean, (resamples, pairs). Pair p is drawn ``draws[:, p]`` times, and ties share a rank."""
        through = np.cumsum(draws[:, self.order], axis=1)[:, self.ends]
        before = np.concatenate([np.zeros((len(draws), 1)), through[:, :-1]], axis=1)
        return np.asarray(((through + before - draws.shape[1]) / 2)[:, self.group])


def resampled(sides: list[Ranking], draws: Floats) -> Floats:
    """Spearman x 100 of ``sides[0]`` with each other side, if pair p is drawn ``draws[:, p]`` times.

    (resamples, pairs) -> (sides - 1, resamples). A score is NaN if all values of a resample are equal.
    """
    gold, *cells = (side.ranks(draws) for side in sides)
    weighted = gold * draws
    gold_spread = np.einsum("rp,rp->r", weighted, gold)
    scores = np.empty((len(cells), len(draws)))
    for row, ranks in enumerate(cells):
        spread = np.einsum("rp,rp->r", ranks * draws, ranks)
        with np.errstate(invalid="ignore"):
            scores[row] = np.einsum("rp,rp->r", weighted, ranks) / np.sqrt(spread * gold_spread) * 100
    return scores


def _draws(rng: np.random.Generator, resamples: int, pairs: int) -> Floats:
    """Draw pairs with replacement, and count how often each resample has each pair: (resamples, pairs)."""
    drawn = rng.integers(pairs, size=(resamples, pairs)) + np.arange(resamples)[:, None] * pairs
    return np.bincount(drawn.ravel(), minlength=resamples * pairs).reshape(resamples, pairs).astype(np.float64)


def _bounds(scores: Floats) -> Bounds:
    low, high = np.percentile(scores, PERCENTILES)
    return float(low), float(high)
