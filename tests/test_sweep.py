"""Walking the grid: which records are made, of what, how, and what is left out of a second walk."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2d_export import Bundle, Encoder, encoder
from m2d_export.agreement import agreement, yardstick
from m2d_export.batching import Batch
from m2d_export.bench import cost, peak, timing
from m2d_export.bench.cost import SCOPES, full_batch, full_texts
from m2d_export.bench.figures import candidates
from m2d_export.bench.quality import GradedPairs, Measure, OwnTexts, Searched
from m2d_export.bench.records import OWN_KEY, append, done, key_of, read_records
from m2d_export.bench.retrieval import evaluate, load_collection
from m2d_export.bench.similarity import emitted, spearman
from m2d_export.bench.storage import Storage
from m2d_export.bench.sts import Pairs, load_pairs
from m2d_export.bench.sweep import Matrix, Sweep
from m2d_export.errors import RuntimeUnavailable, SpecError
from m2d_export.machine import machine
from m2d_export.runtimes.fake import FakeRuntime
from m2d_export.spec import Variant
from m2d_export.vectors import FloatArray, cosine
from tests.conftest import WIDTH

Record = dict[str, Any]
DOCUMENT = Path(__file__).parent.parent / "docs" / "results-format.md"
MATRIX = Matrix(layers=(1, 3), dims=(64, 7), batch_sizes=(1, 5), tokens=(3, 16))
CELLS = [(3, 64), (3, 7), (1, 64), (1, 7)]  # the deepest layer first
SUBJECTS = ("a cat", "the dog", "a man", "the woman", "an old parrot")
DOINGS = ("is playing", "was sitting on the mat", "is not on stage", "rose", "sings a song")
TEXTS = tuple(f"{subject} {doing}" for subject in SUBJECTS for doing in DOINGS)


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return load_pairs("toy")


@pytest.fixture(autouse=True, scope="module")
def _hurry() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(cost, "SECONDS_PER_SHAPE", 0.0)
        yield


@pytest.fixture(scope="module")
def measures(bundle: Bundle, pairs: Pairs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Measure, ...]:
    """Pairs, texts of one's own, and a collection of as many documents with five queries."""
    folder = tmp_path_factory.mktemp("beir") / "little"
    (folder / "qrels").mkdir(parents=True)
    documents = [json.dumps({"_id": f"d{place}", "title": "", "text": text}) for place, text in enumerate(TEXTS)]
    (folder / "corpus.jsonl").write_text("\n".join(documents))
    queries = [json.dumps({"_id": f"q{place}", "text": text}) for place, text in enumerate(SUBJECTS)]
    (folder / "queries.jsonl").write_text("\n".join(queries))
    judged = [f"q{query}\td{5 * query + place}\t{place + 1}" for query in range(5) for place in range(2)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
    graded = GradedPairs(pairs, bundle.manifest.normalize)
    return graded, OwnTexts("own.txt", TEXTS), Searched(load_collection(folder))


@pytest.fixture(scope="module")
def records(bundle: Bundle, measures: tuple[Measure, ...]) -> list[Record]:
    """The records of the real thing, as JSON knows them."""
    made = list(Sweep(bundle, MATRIX, measures, TEXTS, command="m2d-export bench tiny.m2d").records())
    return [json.loads(json.dumps(record, allow_nan=False)) for record in made]


def of_kind(records: Sequence[Record], kind: str) -> list[Record]:
    return [record for record in records if record["kind"] == kind]


class Recorder:
    """Fake runtimes in the place of real ones; keeps what they are asked, and which are open."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, tuple[int, ...]]] = []  # layer, shape of the batch
        self.ran: list[str] = []  # the runtime of each of them
        self.open: list[int] = []
        self.broken: set[tuple[str, int]] = set()  # runtime, layer: what cannot be opened
        self.seconds: Callable[[int], float] = lambda layer: 0.0
        self.before: Callable[[int], object] = lambda layer: None

    def open_runtime(
        self, name: str, variant: Variant, threads: int | None = None, compute: str = "fp32", cache: object = None
    ) -> FakeRuntime:
        recorder, layer = self, variant.layer
        if (name, layer) in self.broken:
            raise RuntimeUnavailable(f"{name} cannot load layer {layer}")

        class Recorded(FakeRuntime):
            def vectors(self, batch: Batch) -> FloatArray:
                recorder.calls.append((layer, batch.input_ids.shape))
                recorder.ran.append(name)
                recorder.before(layer)
                return super().vectors(batch)

            def close(self) -> None:
                recorder.open.remove(layer)
                super().close()

        self.open.append(layer)
        return Recorded(width=variant.width, seconds=self.seconds(layer), vocabulary=256)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Fake runtimes, and no process to measure memory: it would open real ones."""
    recorder = Recorder()
    monkeypatch.setattr(encoder, "open_runtime", recorder.open_runtime)

    def memory(bundle: Bundle, layer: int, texts: Sequence[str], options: Record) -> Iterator[Record]:
        recorder.before(layer)
        yield {"kind": "memory", "layer": layer, "peak_mb": 100.0, "provider": "fake"}

    monkeypatch.setattr(cost, "memory", memory)
    return recorder


@pytest.fixture
def sweep(recorder: Recorder, bundle: Bundle, measures: tuple[Measure, ...]) -> Sweep:
    """A walk over fake runtimes."""
    return Sweep(bundle, MATRIX, measures, TEXTS)


# --- which records


def test_there_is_a_record_for_every_cell_shape_scope_and_layer(records: list[Record]) -> None:
    cells = {kind: [(r["layer"], r["dim"]) for r in of_kind(records, kind)] for kind in ("score", "agreement")}
    assert cells == {"score": CELLS, "agreement": CELLS}
    assert [(r["layer"], r["dim"]) for r in of_kind(records, "retrieval")] == CELLS
    assert [(r["cheap"], r["deep"]) for r in of_kind(records, "cascade")] == [([k, d], [3, 64]) for k, d in CELLS[1:]]
    assert [(r["layer"], r["dim"], r["storage"]) for r in of_kind(records, "storage")] == [
        (layer, dim, storage) for layer, dim in CELLS for storage in Storage
    ]
    latencies = [(r["batch_size"], r["tokens"], r["scope"], r["layer"]) for r in of_kind(records, "latency")]
    assert latencies == [(b, t, scope, k) for b in (1, 5) for t in (3, 16) for scope in SCOPES for k in (1, 3)]
    assert [r["layer"] for r in of_kind(records, "memory")] == [1, 3]
    assert len(records) == len({key_of(record) for record in records}) == 4 + 4 + 4 + 3 + 16 + 16 + 2


def documented() -> tuple[set[str], dict[str, set[str]]]:
    """The fields of every record, and those of each kind, that the page names."""
    text = DOCUMENT.read_text(encoding="utf-8")
    common, own = text.partition("## By kind")[0], text.partition("## By kind")[2].partition("\n## ")[0]
    everywhere = {
        name for row in re.findall(r"^\| (`[^|]+)\|", common, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", own, re.MULTILINE)
    # Words in brackets explain the field before them.
    fields = {
        kind: set(re.findall(r"`(\w+)`", re.sub(r"\([^()]*(\([^()]*\)[^()]*)*\)", "", row))) for kind, row in rows
    }
    return everywhere, fields


def test_records_have_the_fields_that_the_page_names_and_no_others(records: list[Record]) -> None:
    everywhere, fields = documented()
    assert set(fields) == set(OWN_KEY) == {record["kind"] for record in records}
    for record in records:
        assert set(record) == everywhere - {"error"} | fields[record["kind"]], record["kind"]
        assert set(OWN_KEY[record["kind"]]) <= fields[record["kind"]]
        assert record["status"] == "ok"


def test_every_record_survives_the_file_unchanged(records: list[Record], tmp_path: Path) -> None:
    for record in records:
        append(tmp_path / "results.jsonl", record)
    assert read_records(tmp_path / "results.jsonl") == records
    assert done(records) == {key_of(record) for record in records}


def test_every_record_says_what_was_run_where_and_with_which_versions(
    records: list[Record], bundle: Bundle, checkpoint: Path
) -> None:
    import onnxruntime

    for record in records:
        assert record["bundle"] == bundle.id
        assert record["architecture"] == "BertModel"
        assert record["fingerprint"] == bundle.manifest.origin.fingerprint
        assert str(checkpoint) not in json.dumps(record)  # a local path is nobody else's business
        assert (record["runtime"], record["precision"], record["compute"]) == ("onnxrt", "fp32", "fp32")
        assert (record["depth"], record["width"]) == (3, 64)
        assert record["provider"] == "CPUExecutionProvider"
        assert record["threads"] == record["machine"]["cores"] >= 1
        assert record["machine"]["cpu"]
        assert record["machine"]["versions"]["onnxruntime"] == onnxruntime.__version__
        assert record["machine"]["versions"]["numpy"] == np.__version__
        assert record["command"] == "m2d-export bench tiny.m2d"
        assert record["time"].endswith("Z")


# --- how good


def test_scores_are_those_of_the_vectors_that_users_get(records: list[Record], bundle: Bundle, pairs: Pairs) -> None:
    for record in of_kind(records, "score"):
        with Encoder(bundle, record["layer"], record["dim"]) as opened:
            vectors = opened.encode(pairs.texts)
        expected = spearman(cosine(vectors[pairs.left], vectors[pairs.right]), pairs.scores)
        assert record["spearman"]["cosine"] == pytest.approx(expected, abs=1e-3)
        assert record["trained_dim"] == (record["dim"] == 64)
        assert record["trained_layer"]
        assert (record["sts"], record["label"]) == (pairs.name, pairs.label)
        assert (record["pairs"], record["texts"]) == (200, len(pairs.texts))


def test_dot_and_distances_are_of_vectors_as_the_checkpoint_emits_them(
    records: list[Record], bundle: Bundle, pairs: Pairs
) -> None:
    for record in of_kind(records, "score"):
        with Encoder(bundle, record["layer"], normalize=False) as opened:
            vectors = emitted(opened.encode(pairs.texts), record["dim"], normalize=True)
        dot = (vectors[pairs.left] * vectors[pairs.right]).sum(axis=1)
        assert record["spearman"]["dot"] == pytest.approx(spearman(dot, pairs.scores), abs=1e-3)
        assert set(record["spearman"]) == set(record["pearson"]) == {"cosine", "manhattan", "euclidean", "dot"}


def test_an_interval_holds_its_score_and_a_difference_holds_its_own(records: list[Record]) -> None:
    full = of_kind(records, "score")[0]["spearman"]["cosine"]
    for record in of_kind(records, "score"):
        low, high = record["interval"]
        assert low < record["spearman"]["cosine"] < high
        assert record["difference"] == pytest.approx(record["spearman"]["cosine"] - full)
        assert record["retention"] == pytest.approx(record["spearman"]["cosine"] / full)
        low, high = record["difference_interval"]
        assert low <= record["difference"] <= high


def test_the_full_cell_differs_in_nothing_from_itself(records: list[Record]) -> None:
    record = of_kind(records, "score")[0]
    assert (record["layer"], record["dim"]) == (3, 64)
    assert (record["difference"], record["retention"]) == (0, 1)
    assert tuple(record["difference_interval"]) == (0, 0)
    agreed = of_kind(records, "agreement")[0]
    assert (agreed["spearman"], agreed["overlap_at_10"]) == (pytest.approx(100), 100)


def test_storing_float32_keeps_the_score_and_less_takes_fewer_bytes(records: list[Record]) -> None:
    scores = {(r["layer"], r["dim"]): r["spearman"]["cosine"] for r in of_kind(records, "score")}
    sizes: dict[tuple[int, int], list[float]] = {}
    for record in of_kind(records, "storage"):
        cell = record["layer"], record["dim"]
        sizes.setdefault(cell, []).append(record["bytes_per_vector"])
        if record["storage"] == "fp32":
            assert record["spearman"] == pytest.approx(scores[cell], abs=1e-3)
        if record["storage"] != "binary":  # the few signs of a narrow cell may all be the same
            assert -100 <= record["spearman"] <= 100
    assert sizes == {(layer, dim): [4 * dim, 2 * dim, dim, -(-dim // 8)] for layer, dim in CELLS}


def test_agreement_and_retrieval_are_those_of_the_vectors(
    records: list[Record], bundle: Bundle, measures: tuple[Measure, ...]
) -> None:
    collection = measures[2].collection  # type: ignore[attr-defined]
    with Encoder(bundle) as deep, Encoder(bundle, 1) as shallow:
        stick = yardstick(deep.encode(TEXTS))
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


def test_a_cascade_finds_all_once_its_shortlist_is_the_collection(records: list[Record]) -> None:
    for record in of_kind(records, "cascade"):
        assert record["shortlist"] == [10, 20, 25]
        assert record["recall_at_10"] == sorted(record["recall_at_10"])
        assert record["recall_at_10"][-1] == 100


def test_the_cost_of_a_cascade_is_the_median_of_its_raw_seconds_beside_that_of_the_deep_cell(
    records: list[Record],
) -> None:
    for record in of_kind(records, "cascade"):
        encoding, searching = record["encode_seconds"], record["search_seconds"]
        assert (encoding["cheap"] is None) == (record["layer"] == 3)  # its vector is a prefix of the deep one
        both = np.add(encoding["deep"], encoding["cheap"] or 0)
        expected = [1e3 * np.median(both + seconds) for seconds in searching["cascade"]]
        assert len(both) == 10
        assert min(record["cost_ms"]) > 0
        assert record["cost_ms"] == pytest.approx(expected)
        assert len(expected) == len(record["shortlist"]) == 3
        assert record["deep_ms"] == pytest.approx(1e3 * np.median(np.add(encoding["deep"], searching["deep"])))


def test_both_cells_of_a_cascade_are_timed_on_the_queries_alone(
    sweep: Sweep, measures: tuple[Measure, ...], recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[int, list[str]] = {1: [], 3: []}
    plain = Encoder.encode

    def encode(self: Encoder, texts: Sequence[str]) -> FloatArray:
        if len(texts) == 1:  # a text by itself is one that is timed
            asked[self.cell.layer].extend(texts)
        return plain(self, texts)

    monkeypatch.setattr(Encoder, "encode", encode)
    list(replace(sweep, matrix=replace(MATRIX, batch_sizes=(2,))).records())
    queries = measures[2].collection.queries  # type: ignore[attr-defined]
    turn = [queries[0], *queries, *queries]  # one warms up, ten count
    assert asked == {1: turn, 3: turn * 2}  # the deep cell beside layer 1, and for itself


def test_a_score_that_does_not_exist_is_null_in_the_record(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    ones = np.ones((1, WIDTH), dtype=np.float32)
    monkeypatch.setattr(FakeRuntime, "vectors", lambda self, batch: ones.repeat(len(batch.rows), 0))
    found = list(sweep.records())
    nulls = ("interval", "difference", "difference_interval", "retention")
    for record in of_kind(found, "score"):
        assert set(record["spearman"].values()) == set(record["pearson"].values()) == {None}
        assert [record[name] for name in nulls] == [None] * 4
    assert {record["spearman"] for kind in ("agreement", "storage") for record in of_kind(found, kind)} == {None}
    assert '"spearman": null' in json.dumps(found, allow_nan=False)


# --- what it costs


def test_latencies_keep_their_raw_seconds_and_derive_the_rest_from_them(records: list[Record]) -> None:
    for record in of_kind(records, "latency"):
        seconds = np.array(record["seconds"])
        assert len(seconds) == timing.LEAST_ROUNDS
        assert (seconds > 0).all()
        for name, percent in (("p50_ms", 50), ("p95_ms", 95), ("p99_ms", 99)):
            assert record[name] == pytest.approx(np.percentile(seconds, percent) * 1e3)
        assert record["sentences_per_second"] == pytest.approx(record["batch_size"] / np.median(seconds))
        quartiles = np.percentile(seconds, [25, 75])
        assert record["spread"] == pytest.approx((quartiles[1] - quartiles[0]) / np.median(seconds))
        assert record["noisy"] == (record["spread"] > 0.2)


def test_layers_and_scopes_are_timed_in_turn(sweep: Sweep, recorder: Recorder) -> None:
    only = replace(sweep, measures=())
    assert len(of_kind(list(only.records()), "latency")) == 16
    rounds = [(size, tokens) for size in (1, 5) for tokens in (3, 16) for _ in range(7)]  # 2 to warm up, 5 that count
    timed = [recorder.calls[start : start + 4] for start in range(0, len(recorder.calls), 4)]
    for shape, calls in zip(rounds, timed, strict=True):
        assert [layer for layer, _ in calls] == [1, 3, 1, 3]
        assert [asked for _, asked in calls[:2]] == [shape, shape]  # the graph alone: full, without padding
        assert [asked[0] for _, asked in calls[2:]] == [shape[0]] * 2
        assert all(asked[1] <= shape[1] for _, asked in calls[2:])


def test_the_latency_of_a_known_sleep_is_that_sleep(sweep: Sweep, recorder: Recorder) -> None:
    slept = {1: 20.0, 3: 50.0}
    recorder.seconds = lambda layer: slept[layer] / 1e3
    walk = replace(sweep, matrix=replace(MATRIX, batch_sizes=(5,), tokens=(16,)), measures=())
    # The machine is shared: the best of three says what is due to the bench.
    runs = [of_kind(list(walk.records()), "latency") for _ in range(3)]
    for latencies in zip(*runs, strict=True):
        best = min(latencies, key=lambda record: record["p50_ms"])
        assert best["provider"] == "fake"
        assert best["p50_ms"] >= slept[best["layer"]]
        if best["scope"] == "graph":
            assert best["p50_ms"] == pytest.approx(slept[best["layer"]], rel=0.05)
            assert best["sentences_per_second"] == pytest.approx(5e3 / slept[best["layer"]], rel=0.05)


def test_timing_adds_at_most_3_percent_to_the_bare_loop(sweep: Sweep, recorder: Recorder, bundle: Bundle) -> None:
    """A shared machine only ever adds time: the least of many short stretches of either kind is what is due to it.

    The least of many ratios would be no such thing: there a slow bare loop hides what the timing adds.
    """
    recorder.seconds = lambda layer: 0.004
    batch = full_batch(bundle, TEXTS, 1, 16)
    timed, bare = [], []
    with Encoder(bundle, 1) as opened:
        calls = [lambda: opened.runtime.vectors(batch)] * 2
        for _ in range(30):  # in turn, so that a busy minute falls on both
            started = time.perf_counter()
            timing.measure(calls, budget=0)
            timed.append(time.perf_counter() - started)
            started = time.perf_counter()
            for call in calls * (timing.WARM_UP + timing.LEAST_ROUNDS):
                call()
            bare.append(time.perf_counter() - started)
    assert min(timed) <= 1.03 * min(bare)


def test_runtimes_are_closed_when_a_sweep_ends_and_when_it_is_abandoned(sweep: Sweep, recorder: Recorder) -> None:
    started = (record for record in sweep.records() if record["kind"] == "latency")
    next(started)
    assert recorder.open == [1, 3]
    started.close()
    del started
    assert recorder.open == []
    list(sweep.records())
    assert recorder.open == []


@pytest.mark.parametrize(("batch_size", "tokens"), [(1, 3), (4, 16), (40, 48)])
def test_a_full_batch_has_no_padding_and_begins_and_ends_as_texts_do(
    bundle: Bundle, pairs: Pairs, batch_size: int, tokens: int
) -> None:
    batch = full_batch(bundle, pairs.texts, batch_size, tokens)
    assert batch.input_ids.shape == batch.attention_mask.shape == (batch_size, tokens)
    assert batch.attention_mask.all()
    own = bundle.tokenizer.encode(["the cat"])[0].ids
    assert set(batch.input_ids[:, 0]) == {own[0]}
    assert set(batch.input_ids[:, -1]) == {own[-1]}
    inner = batch.input_ids[:, 1:-1]
    assert not np.isin(inner, [own[0], own[-1], bundle.manifest.text.pad_id]).any()


@pytest.mark.parametrize(("batch_size", "tokens"), [(1, 3), (4, 16), (40, 47), (2, 48)])
@pytest.mark.parametrize("texts", [TEXTS, ("a cat",)], ids=["many", "one"])
def test_full_texts_nearly_fill_the_tokens_and_never_pass_them(
    bundle: Bundle, texts: Sequence[str], batch_size: int, tokens: int
) -> None:
    found = full_texts(bundle, texts, batch_size, tokens)
    assert len(found) == batch_size
    for item in bundle.tokenizer.encode(found):
        assert tokens / 2 <= len(item.ids) <= tokens


def test_full_texts_leave_room_for_the_prompt_that_encode_adds(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(bundle.tokenizer.spec, prompts={"query": "the cat is: "}, default_prompt_name="query")
    monkeypatch.setattr(bundle.tokenizer, "spec", spec)
    for item in bundle.tokenizer.encode(full_texts(bundle, TEXTS, 4, 16), "the cat is: "):
        assert 8 <= len(item.ids) <= 16


def test_memory_is_that_of_a_process_of_its_own(records: list[Record], bundle: Bundle) -> None:
    for record in of_kind(records, "memory"):
        assert 20 < record["peak_mb"] < 1000
    ballast = np.ones(200_000_000, dtype=np.uint8)  # what this process holds is not what the exit takes
    options = {"runtime": "onnxrt", "precision": "fp32", "threads": 1}
    (record,) = cost.memory(bundle, 1, TEXTS, options)
    assert record["peak_mb"] < 1.2 * max(r["peak_mb"] for r in of_kind(records, "memory"))
    assert record["provider"] == "CPUExecutionProvider"
    assert ballast.any()


def test_the_peak_of_this_process_is_read_where_there_is_no_proc_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak.peak_bytes() > 20e6
    monkeypatch.setattr(peak, "STATUS", Path("/nowhere"))
    assert peak.peak_bytes() > 0


def test_memory_stands_beside_the_cell_in_the_figures(records: list[Record]) -> None:
    peaks = {record["layer"]: record["peak_mb"] for record in of_kind(records, "memory")}
    assert {cell.cell.layer: cell.peak_mb for cell in candidates(records)} == peaks


def test_a_process_that_cannot_measure_memory_says_why(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"runtime": "onnxrt", "precision": "fp32", "threads": None}
    with pytest.raises(RuntimeUnavailable, match=r"measures memory has failed: .*no exit at layer 9"):
        next(cost.memory(bundle, 9, TEXTS, options))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeUnavailable, match="measures memory has failed: exit status 1"):
        next(cost.memory(bundle, 1, TEXTS, options))


# --- again, and when something goes wrong


def test_a_second_run_measures_nothing_and_a_fresh_one_all_again(sweep: Sweep, recorder: Recorder) -> None:
    first = list(sweep.records())
    recorder.calls.clear()
    assert list(replace(sweep, done=done(first)).records()) == []
    assert recorder.calls == []
    again = list(sweep.records())  # nothing done: as --fresh
    assert [key_of(record) for record in again] == [key_of(record) for record in first]


def test_only_what_is_missing_is_added(sweep: Sweep) -> None:
    whole = list(sweep.records())
    for kept in (whole[::2], whole[1::3], of_kind(whole, "score")):
        missing = {key_of(record) for record in whole} - done(kept)
        added = list(replace(sweep, done=done(kept)).records())
        assert {key_of(record) for record in added} == missing
        assert len(added) == len(missing)


EDITS: dict[str, tuple[set[str], Callable[[Measure], Measure]]] = {
    "pairs": (
        {"score", "storage"},
        lambda part: replace(part, pairs=replace(part.pairs, scores=part.pairs.scores[::-1])),  # type: ignore[attr-defined]
    ),
    "texts": ({"agreement"}, lambda part: replace(part, own=(*TEXTS[1:], "another text"))),
    "collection": (
        {"retrieval", "cascade"},
        lambda part: replace(part, collection=replace(part.collection, grades=part.collection.grades[::-1])),  # type: ignore[attr-defined]
    ),
}


@pytest.mark.parametrize("edited", EDITS)
def test_an_edited_file_is_measured_anew_and_its_old_figures_no_longer_count(
    sweep: Sweep, tmp_path: Path, edited: str
) -> None:
    path = tmp_path / "results.jsonl"
    kinds, edit = EDITS[edited]
    before = list(sweep.records())
    parts = list(sweep.measures)
    parts[list(EDITS).index(edited)] = edit(parts[list(EDITS).index(edited)])
    after = list(replace(sweep, measures=tuple(parts), done=done(before)).records())
    assert {record["kind"] for record in after} == kinds
    assert len(after) == sum(record["kind"] in kinds for record in before)
    for record in [*before, after[0]]:
        append(path, record)
    kept = [key_of(record) for record in read_records(path) if kinds & {record["kind"]}]
    assert kept == [key_of(after[0])]  # of the old ones none, though no other cell was measured again


def test_what_was_trained_is_what_show_says(sweep: Sweep, bundle: Bundle) -> None:
    plain = replace(bundle, manifest=replace(bundle.manifest, trained_layers=(3,)))
    for record in replace(sweep, bundle=plain).records():
        if "dim" in record:
            assert record["trained_layer"] == (record["layer"] == 3)


def test_a_wider_walk_adds_only_its_new_cells(sweep: Sweep) -> None:
    before = done(list(sweep.records()))
    added = list(replace(sweep, matrix=replace(MATRIX, dims=(64, 32, 7)), done=before).records())
    assert {record["kind"] for record in added} == {"score", "storage", "agreement", "retrieval", "cascade"}
    assert {record["dim"] for record in added if "dim" in record} == {32}


@pytest.mark.parametrize("share", [0.3, 0.5, 0.75, 0.99])
def test_a_run_that_is_stopped_says_so_and_is_completed_by_the_next(
    sweep: Sweep, recorder: Recorder, tmp_path: Path, share: float
) -> None:
    path = tmp_path / "results.jsonl"
    whole = {key_of(record) for record in sweep.records()}
    last = int(len(recorder.calls) * share)
    recorder.calls.clear()

    def stop(layer: int) -> None:
        if len(recorder.calls) == last:
            raise KeyboardInterrupt

    recorder.before = stop

    def walk(sweep: Sweep) -> None:
        for record in sweep.records():
            append(path, record)

    with pytest.raises(KeyboardInterrupt):
        walk(sweep)
    assert recorder.open == []
    stopped = read_records(path)
    cut = [record for record in stopped if record["status"] == "interrupted"]
    assert cut
    assert all(record["error"] == "interrupted" and record["provider"] is None for record in cut)
    assert 0 < len(done(stopped)) < len(whole)

    recorder.before = lambda layer: None
    lines = path.read_text()
    walk(replace(sweep, done=done(stopped)))
    assert path.read_text().startswith(lines)
    completed = read_records(path)
    assert {record["status"] for record in completed} == {"ok"}
    assert {key_of(record) for record in completed} == whole
    assert len(path.read_text().splitlines()) == len(whole) + len(cut)


@pytest.mark.parametrize("error", [RuntimeUnavailable("no room on the device"), MemoryError()])
def test_what_fails_is_recorded_and_the_rest_goes_on(sweep: Sweep, recorder: Recorder, error: Exception) -> None:
    def fail(layer: int) -> None:
        if layer == 1:
            raise error

    whole = {key_of(record) for record in sweep.records()}
    recorder.before = fail
    found = list(sweep.records())
    assert {key_of(record) for record in found} == whole
    for record in found:
        # Calls of one shape take turns: without one of them there is no figure of the others either.
        failed = record["layer"] == 1 or record["kind"] == "latency"
        assert record["status"] == ("failed" if failed else "ok")
        if failed:
            assert record["error"] == (str(error) or "MemoryError")
            assert not {"spearman", "seconds", "peak_mb", "ndcg_at_10"} & set(record)
            assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert recorder.open == []


def cells_of(records: Sequence[Record], status: str) -> set[tuple[str, int, str]]:
    return {(r["runtime"], r["layer"], r["kind"]) for r in records if r["status"] == status}


def test_an_exit_that_cannot_be_opened_fails_alone(sweep: Sweep, recorder: Recorder) -> None:
    whole = {key_of(record) for record in sweep.records()}
    recorder.broken = {("onnxrt", 1)}
    found = list(sweep.records())
    assert {key_of(record) for record in found} == whole
    assert len(found) == len(whole)
    opened = {"score", "storage", "agreement", "retrieval", "cascade", "latency"}
    assert cells_of(found, "failed") == {("onnxrt", 1, kind) for kind in opened}
    assert cells_of(found, "ok") == {("onnxrt", 3, kind) for kind in opened | {"memory"}} | {("onnxrt", 1, "memory")}
    for record in found:
        if record["status"] == "failed":
            assert (record["error"], record["provider"]) == ("onnxrt cannot load layer 1", None)
    recorder.broken = set()
    again = list(replace(sweep, done=done(found)).records())
    assert {key_of(record) for record in again} == whole - done(found)


def test_without_its_full_cell_a_combination_has_no_quality_and_the_rest_goes_on(
    sweep: Sweep, recorder: Recorder
) -> None:
    walk = replace(sweep, matrix=TWO_WAYS)
    whole = {key_of(record) for record in walk.records()}
    recorder.broken = {("pytorch", 3)}
    found = list(walk.records())
    assert {key_of(record) for record in found} == whole
    assert {cell for cell in cells_of(found, "failed") if cell[1] == 1} == {
        ("pytorch", 1, kind) for kind in ("score", "storage", "agreement", "retrieval", "cascade")
    }
    assert not {cell for cell in cells_of(found, "failed") if cell[0] == "onnxrt"}
    assert ("pytorch", 1, "latency") in cells_of(found, "ok")
    assert recorder.open == []


def test_an_error_of_our_own_making_is_not_taken_for_a_result(sweep: Sweep, recorder: Recorder) -> None:
    def fail(layer: int) -> None:
        raise AssertionError

    recorder.before = fail
    with pytest.raises(AssertionError):
        list(sweep.records())


def test_a_missing_scipy_is_said_at_once_and_not_for_every_layer(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(RuntimeUnavailable, match=r"m2d-export\[bench\]"):
        next(sweep.records())


# --- the file


@pytest.mark.parametrize("rest", ['{"kind": "score", "sta', "{", '{"kind": "score"}'[:-1], "\x00\x00"])
def test_a_half_written_last_line_is_replaced_and_what_was_before_stays(
    records: list[Record], tmp_path: Path, caplog: pytest.LogCaptureFixture, rest: str
) -> None:
    path = tmp_path / "results.jsonl"
    for record in records[:3]:
        append(path, record)
    intact = path.read_text()
    path.write_text(intact + rest)
    assert read_records(path) == records[:3]
    assert "line 4 is half-written and was ignored" in caplog.text
    append(path, records[3])
    assert path.read_text() == intact + json.dumps(records[3]) + "\n"
    assert read_records(path) == records[:4]


def test_a_last_line_that_only_lacks_its_end_is_kept(records: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records[:2]))
    assert read_records(path) == records[:2]
    append(path, records[2])
    assert read_records(path) == records[:3]


# --- the matrix

TWO_WAYS = replace(MATRIX, runtimes=("onnxrt", "pytorch"))


def test_one_run_measures_every_combination_and_tells_them_apart(sweep: Sweep, bundle: Bundle) -> None:
    alone = list(sweep.records())
    both = list(replace(sweep, matrix=TWO_WAYS).records())
    assert len({key_of(record) for record in both}) == len(both) == 2 * len(alone)
    for runtime in TWO_WAYS.runtimes:
        assert sum(record["runtime"] == runtime for record in both) == len(alone)
    assert list(replace(sweep, matrix=TWO_WAYS, done=done(both)).records()) == []
    added = list(replace(sweep, matrix=TWO_WAYS, done=done(alone)).records())
    assert {record["runtime"] for record in added} == {"pytorch"}
    assert len(added) == len(alone)


def test_the_calls_of_all_combinations_take_turns(sweep: Sweep, recorder: Recorder) -> None:
    walk = replace(sweep, measures=(), matrix=replace(TWO_WAYS, batch_sizes=(1,), tokens=(8,)))
    latencies = of_kind(list(walk.records()), "latency")
    assert [(r["runtime"], r["layer"]) for r in latencies[:4]] == [
        (runtime, layer) for runtime in TWO_WAYS.runtimes for layer in (1, 3)
    ]
    rounds = [recorder.ran[start : start + 4] for start in range(0, len(recorder.ran), 4)]
    assert set(map(tuple, rounds)) == {("onnxrt", "onnxrt", "pytorch", "pytorch")}


def test_one_runtime_comes_to_rest_before_another_is_timed(sweep: Sweep, recorder: Recorder) -> None:
    begun: list[float] = []
    recorder.before = lambda layer: begun.append(time.perf_counter())
    walk = replace(sweep, measures=(), matrix=replace(TWO_WAYS, batch_sizes=(1,), tokens=(8,)))
    latencies = of_kind(list(walk.records()), "latency")
    counted = begun[timing.WARM_UP * len(latencies) : len(recorder.ran)]
    ran = recorder.ran[timing.WARM_UP * len(latencies) :]
    changes = [place for place in range(1, len(counted)) if ran[place] != ran[place - 1]]
    assert len(changes) == 4 * timing.LEAST_ROUNDS - 1
    assert all(counted[place] - counted[place - 1] >= timing.REST for place in changes)
    assert all(min(record["seconds"]) < timing.REST for record in latencies)  # which no figure has in it
    begun.clear()
    list(replace(walk, matrix=replace(walk.matrix, runtimes=("onnxrt",))).records())
    assert min(second - first for first, second in pairwise(begun)) < timing.REST


def test_each_combination_is_compared_with_its_own_full_cell(sweep: Sweep) -> None:
    for record in of_kind(list(replace(sweep, matrix=TWO_WAYS).records()), "score"):
        if (record["layer"], record["dim"]) == (3, 64):
            assert (record["difference"], record["retention"]) == (0, 1)


def test_a_combination_that_is_not_there_is_named_before_any_work(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(message: str, error: type[Exception] = SpecError, bundle: Bundle = bundle, **changed: Any) -> None:
        with pytest.raises(error, match=message):
            replace(MATRIX, **changed).checked(bundle)

    check("no int8 variant of layer 1 .*built with fp32", precisions=("fp32", "int8"))
    check("no runtime 'tensorrt': there are onnxrt, openvino, pytorch", runtimes=("onnxrt", "tensorrt"))
    check("pytorch does not compute in 'bf16': it computes in fp32", runtimes=("pytorch",), computes=("fp32", "bf16"))
    partly = replace(bundle.manifest, variants=bundle.manifest.variants[:2])
    check("no fp32 variant of layer 3", bundle=replace(bundle, manifest=partly))
    monkeypatch.setitem(sys.modules, "torch", None)
    check(r"m2d-export\[build\]", RuntimeUnavailable, runtimes=("onnxrt", "pytorch"))


def test_threads_are_recorded_as_asked_for(sweep: Sweep) -> None:
    assert next(replace(sweep, matrix=replace(MATRIX, threads=3)).records())["threads"] == 3


def test_progress_is_told_for_every_layer_and_shape(sweep: Sweep) -> None:
    steps: list[str] = []
    for _ in replace(sweep, report=steps.append).records():
        pass
    assert steps == [
        *("vectors of the full cell, 3x64", "quality of layer 3", "quality of layer 1"),
        *(f"latency of {size} x {tokens} tokens" for size in (1, 5) for tokens in (3, 16)),
        *("memory of layer 1", "memory of layer 3"),
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layers": (1, 4)}, "no exit at layer 4: this grid has layers 1, 2, 3"),
        ({"dims": (65,)}, "dim 65 is out of range"),
        ({"dims": (0,)}, "dim 0 is out of range"),
        ({"tokens": (49,)}, "tokens 49: this checkpoint reads 3 to 48"),
        ({"tokens": (2,)}, "tokens 2: this checkpoint reads 3 to 48"),
        ({"batch_sizes": (0, 1)}, "batch size 0: at least 1"),
    ],
)
def test_what_the_bundle_lacks_is_refused_before_any_work(
    bundle: Bundle, changed: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        replace(MATRIX, **changed).checked(bundle)


def test_a_matrix_that_fits_is_itself(bundle: Bundle) -> None:
    assert MATRIX.checked(bundle) is MATRIX


def test_the_machine_is_described_without_what_is_not_installed() -> None:
    described = machine()
    assert set(described) == {"cpu", "cores", "memory_gb", "system", "python", "versions"}
    assert described["memory_gb"] > 0
    assert "onnxruntime-gpu" not in described["versions"]
    assert all(described["versions"].values())
