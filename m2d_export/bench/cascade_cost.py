"""Measure the time of one query, from text to results, with a cascade and with the deep cell only.

In a cascade, the cheap cell finds a shortlist, and the deep cell ranks it.
"""

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
    """Vectors to search: ``documents`` (n, dim) are normalised, ``queries`` (q, width) are not."""

    documents: FloatArray
    queries: FloatArray

    def search(self, row: int, count: int, own: IntArray) -> IntArray:
        """Normalise a query, and return the places of the ``count`` documents that are nearest to it.

        A query can itself be a document. ``own`` has the place of this document, and the search leaves it out.
        """
        found = search_units(self._query(row), self.documents, count, own[row : row + 1])[0]
        return np.asarray(found[found != NO_DOCUMENT])

    def rerank(self, row: int, shortlist: IntArray) -> IntArray:
        """Return the ten documents of a shortlist that are nearest to a query. The nearest one is first."""
        found = search_units(self._query(row), self.documents[shortlist], CASCADE_CUT)[0]
        return np.asarray(shortlist[found])

    def _query(self, row: int) -> FloatArray:
        return truncate(self.queries[row : row + 1], self.documents.shape[1])


def encodings(queries: Sequence[str], encoders: Sequence[Encode]) -> list[Seconds]:
    """Measure how many seconds each encoder needs for each timed query."""

    def encoding(encode: Encode, row: int) -> object:
        return encode([queries[row]])

    return _in_turn([partial(encoding, encode) for encode in encoders], len(queries))


def searches(cheap: Index, deep: Index, lengths: Sequence[int], own: IntArray) -> list[Seconds]:
    """Measure the seconds of a search for each timed query.

    The first list is for the deep cell only. The other lists are for cascades: one for each length of the shortlist.
    """

    def cascade(length: int, row: int) -> object:
        return deep.rerank(row, cheap.search(row, length, own))

    only_deep = partial(deep.search, count=CASCADE_CUT, own=own)
    return _in_turn([only_deep, *(partial(cascade, length) for length in lengths)], len(own))


def costs(encoding: Sequence[Seconds], searching: Sequence[Seconds]) -> Record:
    """The fields of a cascade's record: the median ms of a query, and the seconds as they were measured.

    ``encoding`` has the seconds of the deep cell, then the seconds of the cheap cell. It has no seconds of the cheap
    cell if the cheap vector is the beginning of the deep vector.
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
    """Measure the seconds of each call for one query at a time. The calls take turns.

    Before that, each call runs once to warm up. Queries repeat if there are fewer than ten.
    """
    spent: list[Seconds] = []
    for row in [0, *(number % queries for number in range(TIMED_QUERIES))]:
        times = [time.perf_counter()]
        for call in calls:
            call(row)
            times.append(time.perf_counter())
        spent.append(np.diff(times).tolist())
    return [list(seconds) for seconds in zip(*spent[1:], strict=True)]
