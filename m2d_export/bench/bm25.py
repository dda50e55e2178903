"""BM25 on the collections of retrieval: what a search without any model finds (bm25s, with PyStemmer's stemmers)."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from m2d_export.agreement import IntArray, top
from m2d_export.bench.quality import Searched
from m2d_export.bench.records import Record
from m2d_export.bench.retrieval import NO_DOCUMENT, RECALL_CUT, Collection, evaluate_ranks
from m2d_export.errors import SpecError
from m2d_export.host.extras import require

OFF = "off"
DIALECTS = ("porter", "dutch_porter")  # other stemmers of a language, by the name of their author


@dataclass(frozen=True)
class Bm25:
    """Retrieval by BM25 from a collection, with stems of ``language`` and without its stop words.

    Parameters are those of Lucene (k1 1.5, b 0.75). A language without a list of stop words keeps all words. Raises
    SpecError for an unknown language, RuntimeUnavailable without the extra ``bench``.
    """

    searched: Searched
    language: str

    def __post_init__(self) -> None:
        known = [name for name in require("Stemmer", "bench").algorithms() if name not in DIALECTS]
        require("bm25s", "bench")
        if self.language not in known:
            raise SpecError(f"--bm25 {self.language}: there is no stemmer, choose {OFF} or one of {', '.join(known)}")

    def plan(self) -> list[Record]:
        """The only record. BM25 uses no layer and no model."""
        setup = {"layer": 0, "precision": "fp32", "runtime": "bm25s", "compute": "fp32", "threads": 1}
        own = {"provider": "bm25s", "language": self.language}
        return [{"kind": "bm25", **setup, **own, **self.searched.identity}]

    def records(self) -> Iterator[Record]:
        """NDCG and recall."""
        collection = self.searched.collection
        counts = {"documents": len(collection.documents), "queries": len(collection.queries)}
        yield {**self.plan()[0], **counts, **asdict(evaluate_ranks(collection, ranks(collection, self.language)))}


def ranks(collection: Collection, language: str | None) -> IntArray:
    """Places of the best 100 documents for each query, the best first; without a ``language``, by plain words.

    If fewer documents have a word of the query, the row ends with -1.
    """
    bm25s = require("bm25s", "bench")
    stop_words, stemmer = None, None
    if language is not None:
        stop_words, stemmer = _stop_words(language), require("Stemmer", "bench").Stemmer(language)

    def words(texts: tuple[str, ...]) -> list[list[str]]:
        options = {"stopwords": stop_words, "stemmer": stemmer, "return_ids": False, "show_progress": False}
        found: list[list[str]] = bm25s.tokenize(list(texts), **options)
        return found

    count = len(collection.documents)
    found = np.full((len(collection.queries), min(RECALL_CUT, count)), NO_DOCUMENT, dtype=np.int64)
    documents = words(collection.documents)
    if not any(documents):
        return found
    index = bm25s.BM25()
    index.index(documents, show_progress=False)
    for row, (asked, own) in enumerate(zip(words(collection.queries), collection.own, strict=True)):
        known = [word for word in asked if word in index.vocab_dict]
        scores = np.asarray(index.get_scores(known) if known else np.zeros(count), dtype=np.float32)
        if own != NO_DOCUMENT:
            scores[own] = 0
        best = top(scores[None], found.shape[1])[0]
        found[row] = np.where(scores[best] > 0, best, NO_DOCUMENT)
    return found


def _stop_words(language: str) -> str | None:
    lists = {name.removeprefix("STOPWORDS_").lower() for name in dir(require("bm25s.stopwords", "bench"))}
    return language if language in lists | {"english"} else None
