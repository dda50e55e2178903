"""The time that one query takes, with a cascade and with the full cell only: everything that its user waits for."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from m2d_export.agreement import IntArray
from m2d_export.bench.records import Record
from m2d_export.bench.retrieval import CASCADE_CUT, NO_DOCUMENT, search_units
from m2d_export.vectors import FloatArray, truncate

TIMED_QUERIES = 10
Seconds = list[float]
Encode = Callable[[Sequence[str]], FloatArray]


@dataclass(frozen=True)
class Encodings:
    """Seconds to encode each timed query; ``cheap`` is None if the cheap vector is a prefix of the deep one."""

    deep: Seconds
    cheap: Seconds | None


@dataclass(frozen=True)
class Searches:
    """Seconds to search for each timed query: with the deep cell only, and with a cascade of each shortlist length."""

    deep: Seconds
    cascade: list[Seconds]


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


def encodings(queries: Sequence[str], deep: Encode, cheap: Encode | None) -> Encodings:
    """Time both cells on one query at a time, in turn; the first query warms up and is not timed."""
    spent: tuple[Seconds, Seconds] = [], []
    for number, row in enumerate([0, *_timed(len(queries))]):
        for encode, seconds in zip((deep, cheap), spent, strict=True):
            if encode is not None:
                seconds.extend([_seconds(encode, [queries[row]])] * (number > 0))
    return Encodings(spent[0], spent[1] if cheap is not None else None)


def searches(cheap: Index, deep: Index, lengths: Sequence[int], own: IntArray) -> Searches:
    """Time a search with the deep cell and with each cascade, one query at a time; the first query warms up."""
    found = Searches([], [[] for _ in lengths])

    def cascade(row: int, length: int) -> object:
        return deep.rerank(row, cheap.search(row, length, own))

    for number, row in enumerate([0, *_timed(len(own))]):
        took = [_seconds(deep.search, row, CASCADE_CUT, own), *(_seconds(cascade, row, length) for length in lengths)]
        if number:
            for seconds, second in zip((found.deep, *found.cascade), took, strict=True):
                seconds.append(second)
    return found


def costs(encoded: Encodings, searched: Searches) -> Record:
    """The fields of a cascade's record: median ms per query for each length and for the deep cell only; raw seconds."""
    deep = np.add(encoded.deep, searched.deep)
    encoding = np.add(encoded.deep, encoded.cheap or 0.0)
    return {
        "cost_ms": [float(np.median(encoding + seconds)) * 1e3 for seconds in searched.cascade],
        "deep_ms": float(np.median(deep)) * 1e3,
        "encode_seconds": asdict(encoded),
        "search_seconds": asdict(searched),
    }


def _timed(queries: int) -> list[int]:
    """The places of the queries to time; if there are fewer than ten, they repeat."""
    return [number % queries for number in range(TIMED_QUERIES)]


def _seconds(call: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started
