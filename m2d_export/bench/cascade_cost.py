"""The time that one query takes, with a cascade and with the full cell only: everything that its user waits for."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    """Normalised documents (n, dim), as an index holds them, and queries (q, width) as the encoder returns them."""

    documents: FloatArray
    queries: FloatArray

    def search(self, row: int, count: int, own: IntArray) -> IntArray:
        """Places of the ``count`` documents nearest to a query, which is normalised here, as every query must be."""
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
    return _in_turn([lambda row, encode=encode: encode([queries[row]]) for encode in encoders], len(queries))


def searches(cheap: Index, deep: Index, lengths: Sequence[int], own: IntArray) -> list[Seconds]:
    """The seconds of searching with each timed query: with the deep cell only, then with a cascade of each length."""
    cascades = [lambda row, length=length: deep.rerank(row, cheap.search(row, length, own)) for length in lengths]
    return _in_turn([lambda row: deep.search(row, CASCADE_CUT, own), *cascades], len(own))


def costs(encoding: Sequence[Seconds], searching: Sequence[Seconds]) -> Record:
    """The fields of a cascade's record: median ms per query for each length and for the deep cell only; raw seconds.

    ``encoding`` is by the deep cell, then by the cheap one unless its vector is a prefix of the deep one.
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
    """The seconds of each call for one query at a time, in turn; the first query warms up and is not timed.

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
