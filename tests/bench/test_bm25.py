"""BM25 on a collection: ranks by stems, without stop words."""

from dataclasses import replace

import numpy as np
import pytest

from m2d_export.bench.bm25 import Bm25, ranks
from m2d_export.bench.quality import Searched
from m2d_export.bench.retrieval import NO_DOCUMENT, Collection
from m2d_export.errors import SpecError

DOCUMENTS = ("The cats were sleeping", "A dog sleeps, and a cat runs", "Rates of the bank", "the of and")


@pytest.fixture
def collection() -> Collection:
    queries = ("cat", "which of the rates?", "zebra", "the")
    return Collection("little", DOCUMENTS, queries, ({0: 1}, {2: 1}, {1: 1}, {3: 1}), np.full(4, NO_DOCUMENT))


def test_stems_are_found_and_stop_words_are_not(collection: Collection) -> None:
    found = ranks(collection, "english")
    assert found[0].tolist() == [0, 1, -1, -1]  # the shorter document first
    assert found[1].tolist() == [2, -1, -1, -1]
    assert (found[2:] == NO_DOCUMENT).all()  # an unknown word, and no word


def test_the_record_has_the_means_over_all_queries(collection: Collection) -> None:
    (record,) = Bm25(Searched(collection), "english").records()
    assert (record["ndcg_at_10"], record["recall_at_100"]) == (50, 50)
    assert (record["language"], record["documents"], record["queries"]) == ("english", 4, 4)


def test_the_document_with_the_id_of_the_query_is_ignored(collection: Collection) -> None:
    own = replace(collection, own=np.array([0, -1, -1, -1]))
    assert ranks(own, "english")[0].tolist() == [1, -1, -1, -1]


def test_documents_without_any_word_are_never_found(collection: Collection) -> None:
    empty = replace(collection, documents=("", " ", ".", "the"))
    assert (ranks(empty, "english") == NO_DOCUMENT).all()


def test_a_language_without_a_list_of_stop_words_keeps_all_words(collection: Collection) -> None:
    assert ranks(replace(collection, documents=("koirat juoksevat", "x", "x", "x")), "finnish").shape == (4, 4)


@pytest.mark.parametrize("language", ["klingon", "", "English", "porter", "chinese"])
def test_an_unknown_language_is_refused_with_the_known_ones(collection: Collection, language: str) -> None:
    with pytest.raises(SpecError, match=r"off or one of .*english.*german"):
        Bm25(Searched(collection), language)
