"""The time of one query, from text to results, with a cascade and with the full cell only."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from m2d_export.agreement import IntArray
from m2d_export.bench.records import Record
from m2d_export.bench.retrieval import CASCADE_CUT, NO_DOCUMENT, search_units
from m2d_export.vectors import FloatArray, truncate

TIMED_QUERIES = 10
Seconds = list[float]
Encode = Callable[[Sequence[str]], FloatArray]


@dataclass(frozen=True)
class Index:
    """Normalised documents (n, dim), as an index has them, and queries (q, width), as the encoder returns them."""

    documents: FloatArray
    queries: FloatArray

    def search(self, row: int, count: int, own: IntArray) -> IntArray:
        """Places of the ``count`` documents nearest to a query; the query is normalised, as a user must do."""
        found = search_units(self._query(row), self.documents, count, own[row : row + 1])[0]
        return np.asarray(found[found != NO_DOCUMENT])

    def rerank(self, row: int, shortlist: IntArray) -> IntArray:
        """The ten documents of a shortlist that are nearest to a query, nearest first."""
        found = search_units(self._query(row), self.documents[shortlist], CASCADE_CUT)[0]
        return np.asarray(shortlist[found])

    def _query(self, row: int) -> FloatArray:
        return truncate(self.queries[row : row + 1], self.documents.shape[1])


def encodings(queries: Sequence[str], encoders: Sequence[Encode]) -> list[Seconds]:
    """The seconds in which each encoder encodes each timed query."""

    def encoding(encode: Encode, row: int) -> object:
        return encode([queries[row]])

    return _in_turn([partial(encoding, encode) for encode in encoders], len(queries))


def searches(cheap: Index, deep: Index, lengths: Sequence[int], own: IntArray) -> list[Seconds]:
    """The seconds of searching with each timed query: with the deep cell only, then with a cascade of each length."""

    def cascade(length: int, row: int) -> object:
        return deep.rerank(row, cheap.search(row, length, own))

    only_deep = partial(deep.search, count=CASCADE_CUT, own=own)
    return _in_turn([only_deep, *(partial(cascade, length) for length in lengths)], len(own))


def costs(encoding: Sequence[Seconds], searching: Sequence[Seconds]) -> Record:
    """The fields of a cascade's record: median ms per query for each length and for the deep cell only; raw seconds.

    ``encoding`` has the seconds of the deep cell, then those of the cheap cell. If the cheap vector is the beginning of
    the deep vector, it needs no seconds of its own.
    """
    (deep, *cheap), (deep_search, *cascades) = encoding, searching
    both = np.sum(encoding, axis=0)
    return {
        "cost_ms": [float(np.median(both + seconds)) * 1e3 for seconds in cascades],
        "deep_ms": float(np.median(np.add(deep, deep_search))) * 1e3,
        "encode_seconds": {"deep": deep, "cheap": cheap[0] if cheap else None},
        "search_seconds": {"deep": deep_search, "cascade": cascades},
    }


def _in_turn(calls: Sequence[Callable[[int], object]], queries: int) -> list[Seconds]:
    """The seconds of each call for one query at a time; the calls take turns, and the first query only warms up.

    Queries repeat if there are fewer than ten.
    """
    spent: list[Seconds] = []
    for row in [0, *(number % queries for number in range(TIMED_QUERIES))]:
        times = [time.perf_counter()]
        for call in calls:
            call(row)
            times.append(time.perf_counter())
        spent.append(np.diff(times).tolist())
    return [list(seconds) for seconds in zip(*spent[1:], strict=True)]
