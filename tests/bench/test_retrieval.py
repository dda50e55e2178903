"""Retrieval equals that of BEIR and trec_eval, on folders in BEIR's layout."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from m2d_export.bench import cascade_cost, retrieval
from m2d_export.bench.cascade_cost import TIMED_QUERIES, Index, costs, searches
from m2d_export.bench.retrieval import cascade, evaluate, load_collection, ndcg, recall, search
from m2d_export.errors import DataError, InputError, SpecError
from m2d_export.vectors import cosine, truncate

CORPUS = [
    {"_id": "d1", "title": "Cats", "text": "sit on mats.", "metadata": {}},
    {"_id": "d2", "title": "", "text": "  Rates rose. "},
    {"_id": "d3", "text": "No title at all"},
    {"_id": "q2", "title": "Own", "text": "id of a query"},
]
ASKED = [{"_id": "q1", "text": "cats?"}, {"_id": "q2", "text": "rates?"}, {"_id": "q3", "text": "never judged"}]
JUDGED = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td3\t1\nq2\td2\t1\nq2\td1\t0\n"


@pytest.fixture
def beir(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder in BEIR's layout from the records or the text of each file."""

    def write(corpus=CORPUS, queries=ASKED, qrels: str | None = JUDGED) -> Path:
        folder = tmp_path / "tiny-beir"
        (folder / "qrels").mkdir(parents=True)
        for name, records in (("corpus", corpus), ("queries", queries)):
            text = records if isinstance(records, str) else "".join(json.dumps(record) + "\n" for record in records)
            (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        if qrels is not None:
            (folder / "qrels" / "test.tsv").write_text(qrels, encoding="utf-8")
        return folder

    return write


def test_a_folder_is_read_as_by_beir(beir: Callable[..., Path]) -> None:
    collection = load_collection(beir())
    assert collection.name == "tiny-beir"
    assert set(collection.documents) == {"Cats sit on mats.", "Rates rose.", "No title at all", "Own id of a query"}
    assert collection.queries == ("cats?", "rates?")
    place = {text: row for row, text in enumerate(collection.documents)}
    assert collection.grades[0] == {place["Cats sit on mats."]: 2, place["No title at all"]: 1}
    assert collection.grades[1] == {place["Rates rose."]: 1, place["Cats sit on mats."]: 0}
    assert collection.own.tolist() == [-1, place["Own id of a query"]]


@pytest.mark.parametrize(
    ("files", "value"),
    [
        ({"corpus": ""}, "corpus.jsonl is empty"),
        ({"queries": "\n"}, "queries.jsonl is empty"),
        ({"qrels": ""}, "test.tsv is empty"),
        ({"qrels": None}, "test.tsv cannot be read"),
        ({"qrels": "query-id\tcorpus-id\tscore\n"}, "test.tsv has a header and no judgements"),
        ({"qrels": "q1\td1\t1\n"}, "test.tsv, line 1 .*header"),
        ({"qrels": JUDGED + "q1\td2\thigh\n"}, "test.tsv, line 6: expected .*high"),
        ({"qrels": JUDGED + "q1\td2\t1.5\n"}, r"test.tsv, line 6: expected .*1\.5"),
        ({"qrels": JUDGED + "q1\td2\t" + "9" * 400 + "\n"}, "test.tsv, line 6: expected .*9 digits"),
        ({"qrels": JUDGED + "q1 d2 1\n"}, "line 6: expected"),
        ({"qrels": JUDGED + "q1\td1\t2\n"}, "line 6: .*'q1' .*'d1'"),
        (
            {"qrels": JUDGED + "q1\td9\t1\nq2\td9\t1\nq2\td8\t1\n"},
            "test.tsv, line 6: corpus.jsonl .*'d9'.* 0 unknown query .* 2 unknown document id",
        ),
        (
            {"qrels": JUDGED + "q1\td9\t1\nq8\td1\t1\nq8\td7\t1\n"},
            "line 7: queries.jsonl .*'q8'.* 1 unknown query id.* 2 unknown document",
        ),
        ({"corpus": '{"_id": "d1", "text": "x"}\n{"_id": \n'}, "corpus.jsonl, line 2 is not JSON"),
        ({"corpus": '{"_id": "d1", "text": "x"}\n' + "[" * 100_000}, "corpus.jsonl, line 2 is not JSON"),
        ({"corpus": "[1]\n"}, "line 1: expected a JSON object"),
        ({"corpus": '{"_id": 1, "text": "x"}\n'}, "line 1: _id: .*got 1"),
        ({"corpus": [*CORPUS, CORPUS[0]]}, "line 5: .*'d1'"),
        ({"queries": [{"_id": "q1"}]}, "queries.jsonl, line 1: text: .*got None"),
    ],
)
def test_the_error_names_the_file_and_line_that_cannot_be_used(
    beir: Callable[..., Path], files: dict, value: str
) -> None:
    with pytest.raises(DataError, match=value):
        load_collection(beir(**files))


def test_the_gains_of_ndcg_are_the_grades() -> None:
    grades = {0: 3, 1: 2, 2: 1, 3: 0, 4: -1}
    found = 2 / math.log2(2) + 0 + 0 + 3 / math.log2(5)  # grades at ranks 1 to 4: 2, unjudged, -1, 3
    best = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    assert ndcg([1, 9, 4, 0], grades) == pytest.approx(found / best)
    assert ndcg([0, 1, 2, 3], grades) == 1
    assert ndcg([9] * 10 + [0], grades) == 0  # eleventh
    assert ndcg([3, 4], {3: 0, 4: -1}) == 0
    many = dict.fromkeys(range(20), 1)
    assert ndcg(list(range(10)), many) == 1  # ten places hold the best ten


def test_recall_is_the_share_of_relevant_documents_found() -> None:
    assert recall([5, 1, 7], {1: 1, 2: 2, 5: 0, 6: -1}) == 0.5
    assert recall([0] * 100 + [1], {1: 1}) == 0
    assert recall([1], {1: 0}) == 0


def random_collection(ties: bool, seed: int = 4, documents: int = 150, queries: int = 12):
    """Random vectors, graded judgements and a document with a query's id; ``ties`` makes some documents equal."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(documents, 6)).astype(np.float32)
    if ties:
        vectors = vectors.round()
    asked = rng.integers(-2, 3, size=(queries, 6)).astype(np.float32) + np.float32(0.25)
    asked[0] = vectors[-1]
    ids = [f"d{number}" for number in range(documents - 1)] + ["q0"]
    qrels = {
        f"q{query}": {ids[place]: int(rng.integers(-1, 4)) for place in rng.choice(documents, 25, replace=False)}
        for query in range(queries)
    }
    qrels["q1"] = dict.fromkeys(qrels["q1"], 0)  # judged, nothing relevant
    return ids, vectors, asked, qrels


def loaded(beir: Callable[..., Path], ids: list[str], qrels: dict):
    rows = "".join(f"{query}\t{d}\t{grade}\n" for query, grades in qrels.items() for d, grade in grades.items())
    corpus = [{"_id": identity, "text": identity} for identity in ids]
    queries = [{"_id": query, "text": query} for query in qrels]
    return load_collection(beir(corpus, queries, "query-id\tcorpus-id\tscore\n" + rows))


def test_ndcg_and_recall_equal_those_of_a_plain_loop(beir: Callable[..., Path]) -> None:
    ids, vectors, asked, qrels = random_collection(ties=False)
    collection = loaded(beir, ids, qrels)
    by_id = dict(zip(ids, vectors, strict=True))
    gains, recalls = [], []
    for query, (name, grades) in zip(asked, qrels.items(), strict=True):
        scores = {d: float(cosine(query[None], vector[None])[0]) for d, vector in by_id.items()}
        order = sorted((d for d in scores if d != name), key=lambda d, scores=scores: -scores[d])
        best = sorted((max(grade, 0) for grade in grades.values()), reverse=True)[:10]
        ideal = sum(grade / math.log2(rank + 2) for rank, grade in enumerate(best))
        found = sum(max(grades.get(d, 0), 0) / math.log2(rank + 2) for rank, d in enumerate(order[:10]))
        relevant = {d for d, grade in grades.items() if grade > 0}
        gains.append(found / ideal if ideal else 0)
        recalls.append(len(relevant & set(order[:100])) / len(relevant) if relevant else 0)
    documents = np.stack([by_id[text] for text in collection.documents])
    result = evaluate(collection, asked, documents)
    assert result.ndcg_at_10 == pytest.approx(100 * np.mean(gains), abs=1e-9)
    assert result.recall_at_100 == pytest.approx(100 * np.mean(recalls), abs=1e-9)


def test_ndcg_and_recall_equal_those_of_pytrec_eval_with_ties(beir: Callable[..., Path]) -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval", reason="pytrec-eval-terrier is not installed")
    ids, vectors, asked, qrels = random_collection(ties=True)
    collection = loaded(beir, ids, qrels)
    by_id = dict(zip(ids, vectors, strict=True))
    documents = np.stack([by_id[text] for text in collection.documents])
    unit = documents / np.maximum(np.linalg.norm(documents, axis=1, keepdims=True), 1e-12)
    unit_asked = asked / np.linalg.norm(asked, axis=1, keepdims=True)
    scores = dict(zip(qrels, unit_asked @ unit.T, strict=True))
    run = {
        name: {
            d: float(s) for d, s in zip(collection.documents, row, strict=True) if d != name
        }  # as BEIR leaves it out
        for name, row in scores.items()
    }
    peer = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.100"}).evaluate(run)
    result = evaluate(collection, asked, documents)
    assert result.ndcg_at_10 == pytest.approx(100 * np.mean([row["ndcg_cut_10"] for row in peer.values()]), abs=1e-9)
    assert result.recall_at_100 == pytest.approx(100 * np.mean([row["recall_100"] for row in peer.values()]), abs=1e-9)


def test_search_ignores_the_document_with_the_querys_id() -> None:
    documents = np.eye(3, dtype=np.float32) + np.float32(0.1)
    assert search(documents[:1], documents, 1).tolist() == [[0]]
    assert search(documents[:2], documents, 2, np.array([0, -1])).tolist() == [[1, 2], [1, 0]]
    assert search(documents[:1], documents, 9, np.array([0])).tolist() == [[1, 2, -1]]


def test_equal_documents_are_ranked_by_descending_id_as_in_trec_eval(beir: Callable[..., Path]) -> None:
    corpus = [{"_id": identity, "text": identity} for identity in ("d10", "d2", "d1")]
    collection = load_collection(beir(corpus, ASKED[:1], "query-id\tcorpus-id\tscore\nq1\td2\t1\n"))
    vectors = np.ones((3, 4), dtype=np.float32)
    assert evaluate(collection, vectors[:1], vectors).ndcg_at_10 == 100
    assert collection.documents == ("d2", "d10", "d1")


def test_the_recall_of_a_cascade_is_that_of_its_shortlist() -> None:
    rng = np.random.default_rng(2)
    deep_documents, deep_queries = rng.normal(size=(400, 16)), rng.normal(size=(20, 16))
    cheap_documents, cheap_queries = deep_documents[:, :4], deep_queries[:, :4]
    lengths = (10, 20, 100, 400, 1000)
    found = cascade(cheap_queries, cheap_documents, deep_queries, deep_documents, lengths)
    for length, recalled in zip(lengths[:4], found, strict=False):
        shared = []
        for query in range(20):
            cheap = np.argsort(-cosine(np.tile(cheap_queries[query], (400, 1)), cheap_documents))[:length]
            by_deep = -cosine(np.tile(deep_queries[query], (400, 1)), deep_documents)
            reranked = sorted(cheap, key=lambda place, by_deep=by_deep: by_deep[place])[:10]
            shared.append(len({*reranked} & {*np.argsort(by_deep)[:10]}) / 10)
        assert recalled == pytest.approx(100 * np.mean(shared)), length
    assert list(found) == sorted(found)
    assert found[0] < 60 < 99 < found[-1] == found[-2] == 100


def test_a_cascade_ignores_the_document_with_the_querys_id() -> None:
    rng = np.random.default_rng(3)
    documents = rng.normal(size=(30, 16))
    queries, own = documents[:4], np.array([0, 1, 2, -1])
    alone = [np.delete(np.arange(30), place) if place >= 0 else np.arange(30) for place in own]
    for length in (5, 10, 29, 30):
        found = cascade(queries[:, :3], documents[:, :3], queries, documents, (length,), own)
        expected = [
            cascade(queries[[row], :3], documents[kept][:, :3], queries[[row]], documents[kept], (length,))[0]
            for row, kept in enumerate(alone)
        ]
        assert found == (pytest.approx(np.mean(expected)),)
    few = documents[:3]  # two answers to each query but the last
    assert cascade(queries, few, queries, few, (1, 2, 3), own) == (pytest.approx(400 / 9), pytest.approx(800 / 9), 100)
    assert cascade(queries[:1], documents[:1], queries[:1], documents[:1], (1,), own[:1]) == (0,)


def test_a_cascade_whose_cells_are_equal_loses_nothing() -> None:
    rng = np.random.default_rng(2)
    documents, queries = rng.normal(size=(50, 8)), rng.normal(size=(5, 8))
    assert cascade(queries, documents, queries, documents, (5, 10, 50)) == (50, 100, 100)
    assert cascade(queries, documents[:4], queries, documents[:4], (4,)) == (100,)  # fewer documents than ten


@pytest.mark.parametrize("lengths", [(), (0, 10), (-1,)])
def test_shortlists_of_length_below_1_are_refused(lengths: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match="at least 1"):
        cascade(np.eye(2), np.eye(2), np.eye(2), np.eye(2), lengths)


def index(documents: int = 60, dim: int = 8) -> Index:
    rng = np.random.default_rng(5)
    return Index(truncate(rng.normal(size=(documents, dim)), dim), rng.normal(size=(4, 16)).astype(np.float32))


def test_timed_searches_normalise_the_query_and_never_the_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap, deep = index(dim=4), index()
    normalised: list[int] = []

    def counted(vectors, dim):
        normalised.append(len(vectors))
        return truncate(vectors, dim)

    for module in (cascade_cost, retrieval):
        monkeypatch.setattr(module, "truncate", counted)
    searches(cheap, deep, (5, 60), np.full(4, -1))
    assert normalised == [1] * 5 * (TIMED_QUERIES + 1)  # one by the deep cell, and two for each length


def test_timed_searches_find_the_same_as_scored_ones() -> None:
    deep, own = index(), np.array([3, -1, -1, 7])
    for row in range(4):
        expected = search(deep.queries[row : row + 1, :8], deep.documents, 60, own[row : row + 1])[0]
        found = deep.search(row, 60, own)
        assert found.tolist() == [place for place in expected if place >= 0]
        assert deep.rerank(row, found[::-1]).tolist() == found[:10].tolist()


def test_the_cost_of_a_query_is_that_of_encoding_and_searching() -> None:
    searched = [[0.004, 0.005, 0.009], [0.001, 0.001, 0.001], [0.002, 0.003, 0.002]]
    found = costs([[0.010, 0.020, 0.030], [0.005, 0.001, 0.002]], searched)
    assert found["cost_ms"] == pytest.approx([22, 24])
    assert found["deep_ms"] == pytest.approx(25)
    assert found["search_seconds"] == {"deep": searched[0], "cascade": searched[1:]}
    prefix = costs([[0.010]], [[0.004], [0.001]])
    assert prefix["cost_ms"] == pytest.approx([11])
    assert prefix["encode_seconds"] == {"deep": [0.010], "cheap": None}


@pytest.mark.parametrize("name", ["corpus", "queries"])
def test_a_lone_surrogate_is_refused_with_its_line(beir: Callable[..., Path], name: str) -> None:
    with pytest.raises(InputError, match=f"{name}.jsonl, line 1.*surrogate"):
        load_collection(beir(**{name: '{"_id": "d1", "text": "\\ud800"}\n'}))
