"""Records of how good cells are: on graded pairs, on ungraded texts, and in a search."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Protocol

import numpy as np

from m2d_export.agreement import AgreementReference, agreement, agreement_reference
from m2d_export.bench.cascade_cost import Index, costs, encodings, searches
from m2d_export.bench.encoded import DOCUMENT, QUERY, Encoded, TextSet, prompts
from m2d_export.bench.records import Record, digest
from m2d_export.bench.retrieval import Collection, cascade, evaluate
from m2d_export.bench.similarity import correlations, emitted, intervals, spearman
from m2d_export.bench.storage import Storage, stored_spearman
from m2d_export.bench.sts import Pairs
from m2d_export.spec import Cell
from m2d_export.vectors import cosine, truncate

SHORTLISTS = (10, 20, 50, 100, 200, 500, 1000)
Texts = tuple[str, ...]


@dataclass(frozen=True)
class Reference:
    """The full cell: its open exit."""

    cell: Cell
    exit: Encoded
    _agreement: dict[TextSet, AgreementReference] = field(default_factory=dict, repr=False)

    def agreement(self, of: TextSet) -> AgreementReference:
        """The reference for agreement on a set of texts; it is computed once, for all layers."""
        if of not in self._agreement:
            self._agreement[of] = agreement_reference(self.exit.vectors(of))
        return self._agreement[of]


class Measure(Protocol):
    """A measurement of every dim of a layer, on texts that are encoded once."""

    def texts(self) -> tuple[TextSet, ...]:
        """The sets of texts whose vectors it needs."""
        ...

    def plan(self, layer: int, dims: Sequence[int], full: Cell) -> list[Record]:
        """The fields that identify each record that ``records`` will yield."""
        ...

    def records(self, layer: int, dims: Sequence[int], exit_: Encoded, reference: Reference) -> Iterator[Record]:
        """The records of a layer, whose exit is open."""
        ...


@dataclass(frozen=True)
class GradedPairs:
    """Scores with their intervals, and scores of vectors as an index stores them.

    ``normalize`` says whether the checkpoint normalises its vectors.
    """

    pairs: Pairs
    normalize: bool

    @cached_property
    def _identity(self) -> Record:
        pairs = self.pairs
        content = digest(pairs.texts, pairs.left.tolist(), pairs.right.tolist(), pairs.scores.tolist())
        return {"sts": pairs.name, "content": content}

    def texts(self) -> tuple[TextSet, ...]:
        """The pairs' sentences."""
        return (TextSet(self.pairs.texts),)

    def plan(self, layer: int, dims: Sequence[int], full: Cell) -> list[Record]:
        """One score for each dim, and one for each dim and storage."""
        stored = [{"kind": "storage", "dim": dim, "storage": str(kind)} for dim in dims for kind in Storage]
        return [{**record, **self._identity} for record in (*({"kind": "score", "dim": dim} for dim in dims), *stored)]

    def records(self, layer: int, dims: Sequence[int], exit_: Encoded, reference: Reference) -> Iterator[Record]:
        """Score and storage of each dim."""
        vectors, full = (of.vectors(TextSet(self.pairs.texts)) for of in (exit_, reference.exit))
        left, right, gold = self.pairs.left, self.pairs.right, self.pairs.scores
        cosines = [cosine(cell[left], cell[right]) for cell in (full, *(vectors[:, :dim] for dim in dims))]
        full_score, shared = spearman(cosines[0], gold), {**self._identity, "label": self.pairs.label}
        for dim, bounds in zip(dims, intervals(np.stack(cosines), gold, full=0)[1:], strict=True):
            shipped = emitted(vectors, dim, self.normalize)
            found = correlations(shipped[left], shipped[right], gold)
            score = found.spearman["cosine"]
            yield {
                "kind": "score",
                "dim": dim,
                **shared,
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
                    **shared,
                    "storage": str(storage),
                    "bytes_per_vector": storage.bytes_per_vector(dim),
                    "spearman": stored_spearman(unit, left, right, gold, storage),
                }


@dataclass(frozen=True)
class OwnTexts:
    """Agreement with the full cell on texts without grades."""

    name: str
    own: Texts

    @cached_property
    def identity(self) -> Record:
        """The fields that name the texts in a record."""
        return {"kind": "agreement", "texts": self.name, "content": digest(self.own)}

    def texts(self) -> tuple[TextSet, ...]:
        """The texts."""
        return (TextSet(self.own),)

    def plan(self, layer: int, dims: Sequence[int], full: Cell) -> list[Record]:
        """One record for each dim."""
        return [{**self.identity, "dim": dim} for dim in dims]

    def records(self, layer: int, dims: Sequence[int], exit_: Encoded, reference: Reference) -> Iterator[Record]:
        """Agreement of each dim."""
        vectors, full = exit_.vectors(TextSet(self.own)), reference.agreement(TextSet(self.own))
        for dim in dims:
            yield {**self.identity, "dim": dim, **asdict(agreement(vectors[:, :dim], full))}


@dataclass(frozen=True)
class Searched:
    """Retrieval from a collection by each cell, and by cascades of each cell and the full one."""

    collection: Collection

    @cached_property
    def identity(self) -> Record:
        """The fields that name the collection in a record."""
        found = self.collection
        grades = [sorted(grades.items()) for grades in found.grades]
        content = digest(found.documents, found.queries, grades, found.own.tolist())
        return {"collection": found.name, "content": content}

    def texts(self) -> tuple[TextSet, ...]:
        """Queries and documents."""
        return TextSet(self.collection.queries, QUERY), TextSet(self.collection.documents, DOCUMENT)

    def plan(self, layer: int, dims: Sequence[int], full: Cell) -> list[Record]:
        """One retrieval for each dim, and one cascade for each cell except the full one."""
        found = [{"kind": "retrieval", "dim": dim, **self.identity} for dim in dims]
        return found + [self._cascade(layer, dim, full) for dim in dims if Cell(layer, dim) != full]

    def records(self, layer: int, dims: Sequence[int], exit_: Encoded, reference: Reference) -> Iterator[Record]:
        """NDCG and recall of each dim, then recall and cost of each cascade."""
        queries, documents = map(exit_.vectors, self.texts())
        counts = {"documents": len(documents), "queries": len(queries)}
        for dim in dims:
            found = evaluate(self.collection, queries[:, :dim], documents[:, :dim])
            yield {
                "kind": "retrieval",
                "dim": dim,
                **self.identity,
                **counts,
                **prompts(exit_.spec, exit_.spec),
                **asdict(found),
            }
        lengths = sorted({min(length, len(documents)) for length in SHORTLISTS})
        deep_queries, deep_documents = map(reference.exit.vectors, self.texts())
        deep = Index(truncate(deep_documents, reference.cell.dim), deep_queries)
        # At the deepest layer, the cheap cell's vector is the beginning of the full cell's, so it is not encoded again.
        exits = [reference.exit, exit_] if layer < reference.cell.layer else [reference.exit]
        encoded = encodings(self.collection.queries, [partial(opened.encode, role=QUERY) for opened in exits])
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
        return {"kind": "cascade", **self.identity, **cells}
