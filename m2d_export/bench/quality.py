"""Records of how good cells are: on graded pairs, on the user's own texts, on a collection to search."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from m2d_export.agreement import Yardstick, agreement, yardstick
from m2d_export.bench.cascade_cost import Encode, Index, costs, encodings, searches
from m2d_export.bench.records import Record, digest
from m2d_export.bench.retrieval import Collection, cascade, evaluate
from m2d_export.bench.similarity import correlations, emitted, intervals, spearman
from m2d_export.bench.storage import Storage, stored_spearman
from m2d_export.bench.sts import Pairs
from m2d_export.spec import Cell
from m2d_export.vectors import FloatArray, cosine, truncate

SHORTLISTS = (10, 20, 50, 100, 200, 500, 1000)
Texts = tuple[str, ...]


@dataclass(frozen=True)
class Reference:
    """The full cell: its vectors (n, width) of each set of texts, not normalised, and what makes more of them."""

    cell: Cell
    vectors: Mapping[Texts, FloatArray]
    encode: Encode
    _sticks: dict[Texts, Yardstick] = field(default_factory=dict, repr=False)

    def stick(self, texts: Texts) -> Yardstick:
        """What agreement on ``texts`` is measured by: neighbours are searched once, not for every layer."""
        if texts not in self._sticks:
            self._sticks[texts] = yardstick(self.vectors[texts])
        return self._sticks[texts]


class Measure(Protocol):
    """A measurement of every dim of a layer, on texts that are encoded once."""

    def texts(self) -> tuple[Texts, ...]:
        """The sets of texts it needs vectors of."""
        ...

    def skeletons(self, layer: int, dims: Sequence[int], full: Cell) -> list[Record]:
        """What tells each record that ``records`` will yield from all others."""
        ...

    def records(self, layer: int, dims: Sequence[int], encode: Encode, reference: Reference) -> Iterator[Record]:
        """The records of a layer; ``encode`` gives its vectors, full width, not normalised."""
        ...


@dataclass(frozen=True)
class GradedPairs:
    """Scores, their intervals, and what storage keeps of them; ``normalize`` as the checkpoint closes."""

    pairs: Pairs
    normalize: bool

    @cached_property
    def _named(self) -> Record:
        pairs = self.pairs
        content = digest(pairs.texts, pairs.left.tolist(), pairs.right.tolist(), pairs.scores.tolist())
        return {"sts": pairs.name, "content": content}

    def texts(self) -> tuple[Texts, ...]:
        """The pairs' sentences."""
        return (self.pairs.texts,)

    def skeletons(self, layer: int, dims: Sequence[int], full: Cell) -> list[Record]:
        """One score for each dim, and one for each dim and storage."""
        grid = [{"kind": "storage", "dim": dim, "storage": str(kind)} for dim in dims for kind in Storage]
        return [{**record, **self._named} for record in (*({"kind": "score", "dim": dim} for dim in dims), *grid)]

    def records(self, layer: int, dims: Sequence[int], encode: Encode, reference: Reference) -> Iterator[Record]:
        """Score and storage of each dim."""
        vectors = encode(self.pairs.texts)
        whole = reference.vectors[self.pairs.texts]
        left, right, gold = self.pairs.left, self.pairs.right, self.pairs.scores
        cosines = [cosine(cell[left], cell[right]) for cell in (whole, *(vectors[:, :dim] for dim in dims))]
        full_score, named = spearman(cosines[0], gold), {**self._named, "label": self.pairs.label}
        for dim, bounds in zip(dims, intervals(np.stack(cosines), gold, full=0)[1:], strict=True):
            shipped = emitted(vectors, dim, self.normalize)
            found = correlations(shipped[left], shipped[right], gold)
            score = found.spearman["cosine"]
            yield {
                "kind": "score",
                "dim": dim,
                **named,
                "pairs": len(gold),
                "texts": len(self.pairs.texts),
                **asdict(found),
                "interval": bounds.score,
                "difference": None if score is None or full_score is None else score - full_score,
                "difference_interval": bounds.difference,
                "retention": None if score is None or not full_score else score / full_score,
            }
        for dim in dims:
            unit = truncate(vectors, dim)
            for storage in Storage:
                yield {
                    "kind": "storage",
                    "dim": dim,
                    **named,
                    "storage": str(storage),
                    "bytes_per_vector": storage.bytes_per_vector(dim),
                    "spearman": stored_spearman(unit, left, right, gold, storage),
                }


@dataclass(frozen=True)
class OwnTexts:
    """Agreement with the full cell on texts that nobody has graded."""

    name: str
    own: Texts

    @cached_property
    def _named(self) -> Record:
        return {"kind": "agreement", "texts": self.name, "content": digest(self.own)}

    def texts(self) -> tuple[Texts, ...]:
        """The texts."""
        return (self.own,)

    def skeletons(self, layer: int, dims: Sequence[int], full: Cell) -> list[Record]:
        """One for each dim."""
        return [{**self._named, "dim": dim} for dim in dims]

    def records(self, layer: int, dims: Sequence[int], encode: Encode, reference: Reference) -> Iterator[Record]:
        """Agreement of each dim."""
        vectors, stick = encode(self.own), reference.stick(self.own)
        for dim in dims:
            yield {**self._named, "dim": dim, **asdict(agreement(vectors[:, :dim], stick))}


@dataclass(frozen=True)
class Searched:
    """Retrieval from a collection, and the cascade from each cell to the full one."""

    collection: Collection

    @cached_property
    def _named(self) -> Record:
        found = self.collection
        grades = [sorted(grades.items()) for grades in found.grades]
        content = digest(found.documents, found.queries, grades, found.own.tolist())
        return {"collection": found.name, "content": content}

    def texts(self) -> tuple[Texts, ...]:
        """Queries and documents."""
        return (self.collection.queries, self.collection.documents)

    def skeletons(self, layer: int, dims: Sequence[int], full: Cell) -> list[Record]:
        """One retrieval for each dim, and one cascade for each cell but the full one."""
        found = [{"kind": "retrieval", "dim": dim, **self._named} for dim in dims]
        return found + [self._cascade(layer, dim, full) for dim in dims if Cell(layer, dim) != full]

    def records(self, layer: int, dims: Sequence[int], encode: Encode, reference: Reference) -> Iterator[Record]:
        """NDCG and recall of each dim, then recall and cost of each cascade."""
        queries, documents = encode(self.collection.queries), encode(self.collection.documents)
        counts = {"documents": len(documents), "queries": len(queries)}
        for dim in dims:
            found = evaluate(self.collection, queries[:, :dim], documents[:, :dim])
            yield {"kind": "retrieval", "dim": dim, **self._named, **counts, **asdict(found)}
        lengths = sorted({min(length, len(documents)) for length in SHORTLISTS})
        deep_queries, deep_documents = (reference.vectors[texts] for texts in self.texts())
        deep = Index(truncate(deep_documents, reference.cell.dim), deep_queries)
        # A shortlist of the deepest layer takes a prefix of the very vector that ranks it again.
        cheap_encode = encode if layer < reference.cell.layer else None
        encoded = encodings(self.collection.queries, reference.encode, cheap_encode)
        for dim in dims:
            if Cell(layer, dim) != reference.cell:
                vectors = queries[:, :dim], documents[:, :dim], deep_queries, deep_documents
                cheap = Index(truncate(documents, dim), queries)
                yield {
                    **self._cascade(layer, dim, reference.cell),
                    **counts,
                    "shortlist": lengths,
                    "recall_at_10": cascade(*vectors, lengths, self.collection.own),
                    **costs(encoded, searches(cheap, deep, lengths, self.collection.own)),
                }

    def _cascade(self, layer: int, dim: int, full: Cell) -> Record:
        cells = {"cheap": [layer, dim], "deep": [full.layer, full.dim]}
        return {"kind": "cascade", **self._named, **cells}
