"""Retrieval on a collection in BEIR's layout: nDCG@10, recall@100, and the recall of cascades."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2d_export.agreement import IntArray, blocks, top
from m2d_export.errors import DataError, SpecError
from m2d_export.host.checks import json_lines
from m2d_export.host.files import read_text
from m2d_export.text.tokenizer import check_text
from m2d_export.vectors import FloatArray, truncate

CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels/test.tsv"
NDCG_CUT, RECALL_CUT, CASCADE_CUT = 10, 100, 10
MAX_GRADE = 10**9 - 1  # the largest grade; sums of grades up to this one are exact
NO_DOCUMENT = -1
Grades = Mapping[int, int]  # the place of a document in ``documents`` -> its grade, which says how relevant it is
Judgement = tuple[str, str, str, int]  # file and line, id of the query, id of the document, grade


@dataclass(frozen=True)
class Collection:
    """Documents, the queries that have judgements, and the judgements of each query.

    ``own`` (queries,) is the place of the document with the same id as the query, or -1. BEIR ignores this document.
    """

    name: str
    documents: tuple[str, ...]
    queries: tuple[str, ...]
    grades: tuple[Grades, ...]
    own: IntArray


@dataclass(frozen=True)
class Retrieval:
    """nDCG@10 and recall@100, x 100: means over the queries, computed as trec_eval and BEIR do."""

    ndcg_at_10: float
    recall_at_100: float


def load_collection(folder: Path) -> Collection:
    """Read corpus.jsonl, queries.jsonl and qrels/test.tsv of ``folder``.

    The text of a document is its title, a space and its text, without white space at the ends. Queries without
    judgements are ignored, as in BEIR. Raises DataError that names the file and line, also if a judgement has an
    unknown id.
    """
    corpus = {
        identity: f"{_string(record, 'title', where, '')} {_string(record, 'text', where)}".strip()
        for identity, record, where in _records(folder / CORPUS)
    }
    texts = {identity: _string(record, "text", where) for identity, record, where in _records(folder / QUERIES)}
    judgements = list(_judgements(folder / QRELS))
    _check_known(judgements, texts, corpus)
    judged = _by_query(judgements)
    # Documents with equal scores are ordered by descending id in trec_eval, and by ascending place in ``top``. So the
    # document with the largest id gets place 0.
    place = {identity: row for row, identity in enumerate(sorted(corpus, reverse=True))}
    return Collection(
        name=folder.resolve().name,
        documents=tuple(corpus[identity] for identity in place),
        queries=tuple(texts[query] for query in judged),
        grades=tuple({place[document]: grade for document, grade in grades.items()} for grades in judged.values()),
        own=np.array([place.get(query, NO_DOCUMENT) for query in judged]),
    )


def evaluate(collection: Collection, queries: NDArray[Any], documents: NDArray[Any]) -> Retrieval:
    """Search by cosine and score the results: (queries, dim), (documents, dim)."""
    return evaluate_ranks(collection, search(queries, documents, RECALL_CUT, collection.own))


def evaluate_ranks(collection: Collection, found: IntArray) -> Retrieval:
    """Score the documents that were found for each query.

    ``found`` (queries, 100) has their places, the best first. A row with fewer than 100 documents ends with -1.
    """
    return Retrieval(
        ndcg_at_10=_mean(ndcg(ranked, grades) for ranked, grades in zip(found, collection.grades, strict=True)),
        recall_at_100=_mean(recall(ranked, grades) for ranked, grades in zip(found, collection.grades, strict=True)),
    )


def search(queries: NDArray[Any], documents: NDArray[Any], count: int, own: IntArray | None = None) -> IntArray:
    """Places of the ``count`` nearest documents by cosine, nearest first: (q, dim), (n, dim) -> (q, count).

    Documents with equal cosines keep their order. ``own`` (q,) has for each query the place of one document that is not
    searched, or -1. A row with fewer results than ``count`` ends with -1.
    """
    return search_units(truncate(queries, queries.shape[1]), truncate(documents, documents.shape[1]), count, own)


def search_units(query_unit: FloatArray, unit: FloatArray, count: int, own: IntArray | None = None) -> IntArray:
    """Like ``search``, for vectors that have unit length already: an index normalises its documents only once."""
    wanted = min(count, len(unit))
    found = np.empty((len(query_unit), wanted), dtype=np.int64)
    for rows in blocks(len(query_unit), len(unit)):
        cosines = query_unit[rows] @ unit.T
        if own is not None:
            affected = np.flatnonzero(own[rows] != NO_DOCUMENT)
            cosines[affected, own[rows][affected]] = -np.inf
        found[rows] = top(cosines, wanted)
    if own is not None and wanted == len(unit):
        found[found == own[:, None]] = NO_DOCUMENT
    return found


def ndcg(ranked: Sequence[int] | IntArray, grades: Grades, cut: int = NDCG_CUT) -> float:
    """trec_eval's ndcg_cut: the sum of grade / log2(rank + 1), divided by the same sum for the best order."""
    gains = [max(grades.get(int(document), 0), 0) for document in ranked[:cut]]
    best = sorted((grade for grade in grades.values() if grade > 0), reverse=True)[:cut]
    return _discounted(gains) / _discounted(best) if best else 0.0


def recall(ranked: Sequence[int] | IntArray, grades: Grades, cut: int = RECALL_CUT) -> float:
    """trec_eval's recall: the share of relevant documents (grade over 0) in the first ``cut``; 0 if there are none."""
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
    """Recall@10 x 100 of a cascade for each length of the shortlist.

    In a cascade, a cheap cell finds the shortlist, and a deep cell ranks the documents of the shortlist. Recall@10 is
    the share of the deep cell's ten nearest documents that are in the shortlist. Their order in the shortlist does not
    matter, because the deep cell ranks the shortlist again, with these documents first. Recall@10 is 0 if the deep cell
    finds no document. Vectors are (queries, dim) and (documents, dim) of each cell; ``own`` is as in ``search``. Raises
    SpecError for a length below 1.
    """
    if not shortlist_lengths or min(shortlist_lengths) < 1:
        raise SpecError(f"expected shortlist lengths of at least 1, got {list(shortlist_lengths)}")
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


def _text(path: Path) -> str:
    content = read_text(path, layout=f"A BEIR folder holds {CORPUS}, {QUERIES} and {QRELS}")
    if not content.strip():
        raise DataError(f"{path} is empty. A BEIR folder holds {CORPUS}, {QUERIES} and {QRELS}")
    return content


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The ``_id`` of each line, its object, and its file and line."""
    seen = set()
    for where, record in json_lines(_text(path), str(path)):
        if not isinstance(record, dict):
            raise DataError(f"{where}: expected a JSON object with _id and text, got {type(record).__name__}")
        identity = _string(record, "_id", where)
        if identity in seen:
            raise DataError(f"{where}: an earlier line has the _id {identity!r} too: remove one of them")
        seen.add(identity)
        yield identity, record, where


def _string(record: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = record.get(key, default)
    if not isinstance(value, str):
        raise DataError(f"{where}: {key}: expected a string, got {value!r}")
    check_text(value, f"{where}: {key}")
    return value


def _judgements(path: Path) -> Iterator[Judgement]:
    """Every line of the judgements except the header."""
    lines = [(number, line.rstrip("\r")) for number, line in enumerate(_text(path).split("\n"), 1) if line.strip()]
    if lines[0][1].rpartition("\t")[2].lstrip("-").isdecimal():
        raise DataError(
            f"{path}, line {lines[0][0]} is a judgement, but BEIR skips the first line: add the header query-id, "
            "corpus-id, score, separated by tabs"
        )
    if len(lines) == 1:
        raise DataError(f"{path} has a header and no judgements: add a line for each relevant document")
    for number, line in lines[1:]:
        where, fields = f"{path}, line {number}", line.split("\t")
        try:
            grade = int(fields[2])
            if abs(grade) > MAX_GRADE:
                raise ValueError
            yield where, fields[0], fields[1], grade
        except (IndexError, ValueError):
            expected = "expected query-id, corpus-id and a whole number of at most 9 digits, separated by tabs"
            raise DataError(f"{where}: {expected}, got {line[:80]!r}") from None


def _by_query(judgements: Sequence[Judgement]) -> dict[str, dict[str, int]]:
    """Query id -> document id -> grade."""
    judged: dict[str, dict[str, int]] = {}
    for where, query, document, grade in judgements:
        if document in judged.setdefault(query, {}):
            pair = f"query {query!r} and document {document!r}"
            raise DataError(f"{where}: an earlier line has {pair} too: remove one of them")
        judged[query][document] = grade
    return judged


def _check_known(judgements: Sequence[Judgement], queries: Mapping[str, str], documents: Mapping[str, str]) -> None:
    """Raise DataError for a judgement with an unknown id: if it were ignored, the scores would be wrong."""
    unknown = [
        *((where, query, "query", QUERIES) for where, query, _, _ in judgements if query not in queries),
        *((where, document, "document", CORPUS) for where, _, document, _ in judgements if document not in documents),
    ]
    if unknown:
        where, identity, kind, file = unknown[0]
        counts = {of: len({name for _, name, kind, _ in unknown if kind == of}) for of in ("query", "document")}
        raise DataError(
            f"{where}: {file} has no {kind} {identity!r}. {QRELS} has {counts['query']} unknown query id(s) and "
            f"{counts['document']} unknown document id(s): add them to {QUERIES} and {CORPUS}, or remove their lines"
        )
