"""Records of the quality of a cell."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from m2d_export import Bundle, Encoder
from m2d_export.agreement import agreement, agreement_reference
from m2d_export.bench.quality import Measure
from m2d_export.bench.retrieval import evaluate
from m2d_export.bench.similarity import emitted, spearman
from m2d_export.bench.sts import Pairs
from m2d_export.bench.sweep import Sweep
from m2d_export.vectors import FloatArray, cosine
from tests.bench.sweeps import CELLS, MATRIX, TEXTS, Record, Recorder, of_kind
from tests.support.checkpoints import WIDTH
from tests.support.fake_runtime import FakeRuntime


def test_scores_are_those_of_the_vectors_that_encode_returns(
    records: list[Record], bundle: Bundle, pairs: Pairs
) -> None:
    for record in of_kind(records, "score"):
        with Encoder(bundle, record["layer"], record["dim"]) as opened:
            vectors = opened.encode(pairs.texts)
        expected = spearman(cosine(vectors[pairs.left], vectors[pairs.right]), pairs.scores)
        assert record["spearman"]["cosine"] == pytest.approx(expected, abs=1e-3)
        assert record["trained_dim"] == (record["dim"] == 64)
        assert record["trained_layer"]
        assert (record["sts"], record["label"]) == (pairs.name, pairs.label)
        assert (record["pairs"], record["texts"]) == (200, len(pairs.texts))


def test_dot_and_distances_use_vectors_as_the_checkpoint_emits_them(
    records: list[Record], bundle: Bundle, pairs: Pairs
) -> None:
    for record in of_kind(records, "score"):
        with Encoder(bundle, record["layer"], normalize=False) as opened:
            vectors = emitted(opened.encode(pairs.texts), record["dim"], normalize=True)
        dot = (vectors[pairs.left] * vectors[pairs.right]).sum(axis=1)
        assert record["spearman"]["dot"] == pytest.approx(spearman(dot, pairs.scores), abs=1e-3)
        assert set(record["spearman"]) == set(record["pearson"]) == {"cosine", "manhattan", "euclidean", "dot"}


def test_scores_and_differences_are_inside_their_intervals(records: list[Record]) -> None:
    full = of_kind(records, "score")[0]["spearman"]["cosine"]
    for record in of_kind(records, "score"):
        low, high = record["interval"]
        assert low < record["spearman"]["cosine"] < high
        assert record["difference"] == pytest.approx(record["spearman"]["cosine"] - full)
        assert record["retention"] == pytest.approx(record["spearman"]["cosine"] / full)
        low, high = record["difference_interval"]
        assert low <= record["difference"] <= high


def test_the_full_cell_does_not_differ_from_itself(records: list[Record]) -> None:
    record = of_kind(records, "score")[0]
    assert (record["layer"], record["dim"]) == (3, 64)
    assert (record["difference"], record["retention"]) == (0, 1)
    assert tuple(record["difference_interval"]) == (0, 0)
    agreed = of_kind(records, "agreement")[0]
    assert (agreed["spearman"], agreed["overlap_at_10"]) == (pytest.approx(100), 100)


def test_float32_storage_keeps_the_score_and_the_others_need_fewer_bytes(records: list[Record]) -> None:
    scores = {(r["layer"], r["dim"]): r["spearman"]["cosine"] for r in of_kind(records, "score")}
    sizes: dict[tuple[int, int], list[float]] = {}
    for record in of_kind(records, "storage"):
        cell = record["layer"], record["dim"]
        sizes.setdefault(cell, []).append(record["bytes_per_vector"])
        if record["storage"] == "fp32":
            assert record["spearman"] == pytest.approx(scores[cell], abs=1e-3)
        if record["storage"] != "binary":  # the few signs of a narrow cell may all be equal
            assert -100 <= record["spearman"] <= 100
    assert sizes == {(layer, dim): [4 * dim, 2 * dim, dim, -(-dim // 8)] for layer, dim in CELLS}


def test_agreement_and_retrieval_are_those_of_the_vectors_that_encode_returns(
    records: list[Record], bundle: Bundle, measures: tuple[Measure, ...]
) -> None:
    collection = measures[2].collection  # type: ignore[attr-defined]
    with Encoder(bundle) as deep, Encoder(bundle, 1) as shallow:
        stick = agreement_reference(deep.encode(TEXTS))
        agreed = agreement(shallow.encode(TEXTS), stick)
        found = evaluate(collection, shallow.encode(collection.queries), shallow.encode(collection.documents))
    (record,) = [r for r in of_kind(records, "agreement") if (r["layer"], r["dim"]) == (1, 64)]
    assert (record["texts"], record["count"]) == ("own.txt", len(TEXTS))
    assert record["spearman"] == pytest.approx(agreed.spearman, abs=1e-2)
    assert record["overlap_at_10"] == pytest.approx(agreed.overlap_at_10, abs=1)
    (record,) = [r for r in of_kind(records, "retrieval") if (r["layer"], r["dim"]) == (1, 64)]
    assert (record["collection"], record["documents"], record["queries"]) == ("little", 25, 5)
    assert record["ndcg_at_10"] == pytest.approx(found.ndcg_at_10, abs=1e-2)
    assert record["recall_at_100"] == found.recall_at_100 == 100


def test_a_cascade_with_the_whole_collection_as_its_shortlist_finds_everything(records: list[Record]) -> None:
    for record in of_kind(records, "cascade"):
        assert record["shortlist"] == [10, 20, 25]
        assert record["recall_at_10"] == sorted(record["recall_at_10"])
        assert record["recall_at_10"][-1] == 100


def test_the_costs_of_a_cascade_and_of_the_deep_cell_are_medians_of_raw_seconds(
    records: list[Record],
) -> None:
    for record in of_kind(records, "cascade"):
        encoding, searching = record["encode_seconds"], record["search_seconds"]
        assert (encoding["cheap"] is None) == (record["layer"] == 3)  # its vector is a prefix of the deep cell's
        both = np.add(encoding["deep"], encoding["cheap"] or 0)
        expected = [1e3 * np.median(both + seconds) for seconds in searching["cascade"]]
        assert len(both) == 10
        assert min(record["cost_ms"]) > 0
        assert record["cost_ms"] == pytest.approx(expected)
        assert len(expected) == len(record["shortlist"]) == 3
        assert record["deep_ms"] == pytest.approx(1e3 * np.median(np.add(encoding["deep"], searching["deep"])))


def test_both_cells_of_a_cascade_are_timed_on_the_queries_only(
    sweep: Sweep, measures: tuple[Measure, ...], recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[int, list[str]] = {1: [], 3: []}
    plain = Encoder.encode

    def encode(self: Encoder, texts: Sequence[str], **prompt: Any) -> FloatArray:
        if len(texts) == 1:  # only timed queries are encoded one by one
            asked[self.cell.layer].extend(texts)
        return plain(self, texts, **prompt)

    monkeypatch.setattr(Encoder, "encode", encode)
    list(replace(sweep, matrix=replace(MATRIX, batch_sizes=(2,))).records())
    queries = measures[2].collection.queries  # type: ignore[attr-defined]
    turn = [queries[0], *queries, *queries]  # one warms up, ten count
    assert asked == {1: turn, 3: turn * 2}  # the deep cell in turn with layer 1, and by itself


def test_an_undefined_score_is_null_in_the_record(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    ones = np.ones((1, WIDTH), dtype=np.float32)
    monkeypatch.setattr(FakeRuntime, "_vectors", lambda self, batch: ones.repeat(len(batch.rows), 0))
    found = list(sweep.records())
    nulls = ("interval", "difference", "difference_interval", "retention")
    for record in of_kind(found, "score"):
        assert set(record["spearman"].values()) == set(record["pearson"].values()) == {None}
        assert [record[name] for name in nulls] == [None] * 4
    assert {record["spearman"] for kind in ("agreement", "storage") for record in of_kind(found, kind)} == {None}
    assert '"spearman": null' in json.dumps(found, allow_nan=False)
