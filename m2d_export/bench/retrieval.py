"""Retrieval on a collection in BEIR's layout: nDCG@10, recall@100, and what a cheap cell's shortlist loses."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2d_export.agreement import IntArray, blocks, top
from m2d_export.errors import DataError, SpecError
from m2d_export.host.files import read_text
from m2d_export.vectors import FloatArray, truncate

CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels/test.tsv"
NDCG_CUT, RECALL_CUT, CASCADE_CUT = 10, 100, 10
NO_DOCUMENT = -1
Grades = Mapping[int, int]  # place of a document -> how relevant it is
Judgement = tuple[str, str, str, int]  # where it stands, the query's id, the document's, the grade


@dataclass(frozen=True)
class Collection:
    """Documents, the queries that have judgements, and each query's judgements.

    ``own`` (queries,) is the place of the document that bears the query's own id, else -1: it is no answer.
    """

    name: str
    documents: tuple[str, ...]
    queries: tuple[str, ...]
    grades: tuple[Grades, ...]
    own: IntArray


@dataclass(frozen=True)
class Retrieval:
    """nDCG@10 and recall@100, x 100, averaged over queries as trec_eval and BEIR do."""

    ndcg_at_10: float
    recall_at_100: float


def load_collection(folder: Path) -> Collection:
    """Read corpus.jsonl, queries.jsonl and qrels/test.tsv of ``folder``.

    A document is its title, a space and its text, stripped. Queries without judgements are left out, as BEIR does.
    Raises DataError naming the file and line that cannot be used, or that names an id which does not exist.
    """
    corpus = {
        identity: f"{_string(record, 'title', where, '')} {_string(record, 'text', where)}".strip()
        for identity, record, where in _records(folder / CORPUS)
    }
    texts = {identity: _string(record, "text", where) for identity, record, where in _records(folder / QUERIES)}
    judgements = list(_judgements(folder / QRELS))
    _check_known(judgements, texts, corpus)
    judged = _by_query(judgements)
    # Of documents with equal scores trec_eval ranks the greater id first, and ``top`` the one that comes first.
    place = {identity: row for row, identity in enumerate(sorted(corpus, reverse=True))}
    return Collection(
        name=folder.resolve().name,
        documents=tuple(corpus[identity] for identity in place),
        queries=tuple(texts[query] for query in judged),
        grades=tuple({place[document]: grade for document, grade in grades.items()} for grades in judged.values()),
        own=np.array([place.get(query, NO_DOCUMENT) for query in judged]),
    )


def evaluate(collection: Collection, queries: NDArray[Any], documents: NDArray[Any]) -> Retrieval:
    """Search by cosine and score what is found: (queries, dim), (documents, dim)."""
    found = search(queries, documents, RECALL_CUT, collection.own)
    return Retrieval(
        ndcg_at_10=_mean(ndcg(ranked, grades) for ranked, grades in zip(found, collection.grades, strict=True)),
        recall_at_100=_mean(recall(ranked, grades) for ranked, grades in zip(found, collection.grades, strict=True)),
    )


def search(queries: NDArray[Any], documents: NDArray[Any], count: int, own: IntArray | None = None) -> IntArray:
    """Places of the ``count`` nearest documents by cosine, nearest first: (q, dim), (n, dim) -> (q, count).

    Equal cosines stand in the documents' order. ``own`` (q,) names a document that is no answer, -1 for none; it is
    left out, and -1 fills rows that have fewer answers.
    """
    return search_units(truncate(queries, queries.shape[1]), truncate(documents, documents.shape[1]), count, own)


def search_units(query_unit: FloatArray, unit: FloatArray, count: int, own: IntArray | None = None) -> IntArray:
    """As ``search``, of vectors that are of unit length already: an index normalises once, not at every query."""
    wanted = min(count, len(unit))
    found = np.empty((len(query_unit), wanted), dtype=np.int64)
    for rows in blocks(len(query_unit), len(unit)):
        cosines = query_unit[rows] @ unit.T
        if own is not None:
            barred = np.flatnonzero(own[rows] != NO_DOCUMENT)
            cosines[barred, own[rows][barred]] = -np.inf
        found[rows] = top(cosines, wanted)
    if own is not None and wanted == len(unit):
        found[found == own[:, None]] = NO_DOCUMENT
    return found


def ndcg(ranked: Sequence[int] | IntArray, grades: Grades, cut: int = NDCG_CUT) -> float:
    """trec_eval's ndcg_cut: the grade itself is the gain, over log2(rank + 1), against the best possible order."""
    gains = [max(grades.get(int(document), 0), 0) for document in ranked[:cut]]
    best = sorted((grade for grade in grades.values() if grade > 0), reverse=True)[:cut]
    return _discounted(gains) / _discounted(best) if best else 0.0


def recall(ranked: Sequence[int] | IntArray, grades: Grades, cut: int = RECALL_CUT) -> float:
    """trec_eval's recall: the share of the relevant documents (grade over 0) among the first ``cut``; 0 of none."""
    relevant = {document for document, grade in grades.items() if grade > 0}
    return len(relevant.intersection(map(int, ranked[:cut]))) / len(relevant) if relevant else 0.0


def cascade(
    query_cheap: NDArray[Any],
    document_cheap: NDArray[Any],
    query_deep: NDArray[Any],
    document_deep: NDArray[Any],
    shortlist_lengths: Sequence[int],
    own: IntArray | None = None,
) -> tuple[float, ...]:
    """Recall@10 x 100 against the deep cell's own ten, for each length of the cheap cell's shortlist it reranks.

    Vectors are (queries, dim) and (documents, dim) of either cell, ``own`` as for ``search``. The deep cell ranks its
    own ten first within any shortlist, so recall is the share of them that the shortlist holds, 0 where there is no
    answer at all. Raises SpecError for a length below 1.
    """
    if not shortlist_lengths or min(shortlist_lengths) < 1:
        raise SpecError(f"shortlist lengths are whole numbers from 1, got {', '.join(map(str, shortlist_lengths))}")
    deep = search(query_deep, document_deep, CASCADE_CUT, own)
    shortlist = search(query_cheap, document_cheap, max(shortlist_lengths), own)
    held = np.zeros(shortlist.shape[1])
    for answers, ranked in zip(deep, shortlist, strict=True):
        held += np.isin(ranked, answers) & (ranked != NO_DOCUMENT)
    recalls = np.cumsum(held) / max(int(np.count_nonzero(deep != NO_DOCUMENT)), 1) * 100
    return tuple(float(recalls[min(length, len(recalls)) - 1]) for length in shortlist_lengths)


def _discounted(gains: Sequence[int]) -> float:
    return float(np.sum(np.array(gains) / np.log2(np.arange(2, len(gains) + 2))))


def _mean(values: Iterator[float]) -> float:
    return float(np.mean(list(values)) * 100)


def _lines(path: Path) -> list[tuple[str, str]]:
    """Lines that are not blank, each with where it stands."""
    content = read_text(path, layout=f"A BEIR folder holds {CORPUS}, {QUERIES} and {QRELS}")
    lines = [(f"{path}, line {number}", line) for number, line in enumerate(content.split("\n"), 1) if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty")
    return lines


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Each line's ``_id``, its object and where it stands."""
    seen = set()
    for where, line in _lines(path):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise DataError(f"{where} is not a JSON object")
        identity = _string(record, "_id", where)
        if identity in seen:
            raise DataError(f"{where}: the _id {identity!r} stands on an earlier line too")
        seen.add(identity)
        yield identity, record, where


def _string(record: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = record.get(key, default)
    if not isinstance(value, str):
        raise DataError(f"{where}: {key} must be a string, got {value!r}")
    return value


def _judgements(path: Path) -> Iterator[Judgement]:
    """Every line of the judgements."""
    (heading, header), *lines = _lines(path)
    if header.rstrip("\r").rpartition("\t")[2].lstrip("-").isdecimal():
        raise DataError(f"{heading} is a judgement, expected the header query-id, corpus-id, score: BEIR skips it")
    if not lines:
        raise DataError(f"{path} has a header and no judgements")
    for where, line in lines:
        fields = line.rstrip("\r").split("\t")
        try:
            query, document, grade = fields[0], fields[1], int(fields[2])
        except (IndexError, ValueError):
            message = f"{where}: expected query-id, corpus-id and a whole number, with tabs between, got {line[:80]!r}"
            raise DataError(message) from None
        yield where, query, document, grade


def _by_query(judgements: Sequence[Judgement]) -> dict[str, dict[str, int]]:
    """Query id -> document id -> grade."""
    judged: dict[str, dict[str, int]] = {}
    for where, query, document, grade in judgements:
        if document in judged.setdefault(query, {}):
            raise DataError(f"{where}: query {query!r} and document {document!r} stand on an earlier line too")
        judged[query][document] = grade
    return judged


def _check_known(judgements: Sequence[Judgement], queries: Mapping[str, str], documents: Mapping[str, str]) -> None:
    """Refuse ids that no file has: a figure over the rest would be of another collection."""
    dangling = [
        *((where, query, "query", QUERIES) for where, query, _, _ in judgements if query not in queries),
        *((where, document, "document", CORPUS) for where, _, document, _ in judgements if document not in documents),
    ]
    if dangling:
        where, first, what, file = dangling[0]
        queries_lost, documents_lost = (
            len({name for _, name, kind, _ in dangling if kind == of}) for of in ("query", "document")
        )
        raise DataError(
            f"{where}: {first!r} is no {what} in {file}. {QRELS} names {queries_lost} unknown query id(s) and "
            f"{documents_lost} unknown document id(s): add them to {QUERIES} and {CORPUS}, or remove their lines"
        )
