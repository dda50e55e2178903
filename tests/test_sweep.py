"""Walking the grid: which records are made, of what, and how."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2d_export import Bundle, Encoder, encoder
from m2d_export.batching import Batch
from m2d_export.bench import sweep as module
from m2d_export.bench.sts import Pairs, load_pairs
from m2d_export.bench.sweep import Matrix, full_batch, sweep
from m2d_export.errors import SpecError
from m2d_export.machine import machine
from m2d_export.runtimes.fake import FakeRuntime
from m2d_export.spec import Variant
from m2d_export.vectors import FloatArray
from tests.conftest import WIDTH

MATRIX = Matrix(layers=(1, 3), dims=(64, 7), batch_sizes=(1, 5), tokens=(3, 16))


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """Six pairs of the toy set."""
    toy = load_pairs("toy")
    return replace(toy, left=toy.left[:6], right=toy.right[:6], scores=toy.scores[:6], texts=toy.texts[:12])


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_PER_SHAPE", 0.0)


@pytest.fixture(scope="module")
def records(bundle: Bundle, pairs: Pairs) -> list[dict[str, Any]]:
    """The records of the real thing."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(module, "SECONDS_PER_SHAPE", 0.0)
        return list(sweep(bundle, MATRIX, pairs))


class Recorder:
    """Fake runtimes in the place of real ones; keeps what they are asked, and which are open."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, tuple[int, ...]]] = []  # layer, shape of the batch
        self.open: list[int] = []
        self.asked: set[tuple[str, int | None]] = set()  # runtime, threads
        self.seconds: Callable[[int], float] = lambda layer: 0.0

    def open_runtime(self, name: str, variant: Variant, threads: int | None = None) -> FakeRuntime:
        recorder, layer = self, variant.layer

        class Recorded(FakeRuntime):
            def vectors(self, batch: Batch) -> FloatArray:
                recorder.calls.append((layer, batch.input_ids.shape))
                return super().vectors(batch)

            def close(self) -> None:
                recorder.open.remove(layer)
                super().close()

        self.open.append(layer)
        self.asked.add((name, threads))
        return Recorded(width=variant.width, seconds=self.seconds(layer))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(encoder, "open_runtime", recorder.open_runtime)
    monkeypatch.setattr(module, "open_runtime", recorder.open_runtime)
    return recorder


def test_there_is_a_score_for_every_cell_and_a_latency_for_every_layer_and_shape(records: list[dict[str, Any]]) -> None:
    scores = [(record["layer"], record["dim"]) for record in records if record["kind"] == "score"]
    assert scores == [(1, 64), (1, 7), (3, 64), (3, 7)]
    latencies = [(r["layer"], r["batch_size"], r["tokens"]) for r in records if r["kind"] == "latency"]
    assert latencies == [(layer, size, tokens) for size in (1, 5) for tokens in (3, 16) for layer in (1, 3)]
    assert len(records) == len(scores) + len(latencies)


def test_every_record_says_what_was_run_where_and_with_which_versions(
    records: list[dict[str, Any]], bundle: Bundle, checkpoint: Path
) -> None:
    import onnxruntime

    for record in records:
        assert record["bundle"] == bundle.id
        assert record["architecture"] == "BertModel"
        assert record["fingerprint"] == bundle.manifest.origin.fingerprint
        assert str(checkpoint) not in json.dumps(record)  # a local path is nobody else's business
        assert (record["runtime"], record["precision"]) == ("onnxrt", "fp32")
        assert record["provider"] == "CPUExecutionProvider"
        assert record["threads"] == record["machine"]["cores"] >= 1
        assert record["machine"]["cpu"]
        assert record["machine"]["versions"]["onnxruntime"] == onnxruntime.__version__
        assert record["machine"]["versions"]["numpy"] == np.__version__
        assert record["time"].endswith("Z")
        assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_latencies_keep_their_raw_seconds_and_derive_the_rest_from_them(records: list[dict[str, Any]]) -> None:
    for record in (record for record in records if record["kind"] == "latency"):
        seconds = np.array(record["seconds"])
        assert len(seconds) == 5
        assert (seconds > 0).all()
        for name, percent in (("p50_ms", 50), ("p95_ms", 95), ("p99_ms", 99)):
            assert record[name] == pytest.approx(np.percentile(seconds, percent) * 1e3)
        assert record["sentences_per_second"] == pytest.approx(record["batch_size"] / np.median(seconds))


def test_scores_are_those_of_the_vectors_that_users_get(
    records: list[dict[str, Any]], bundle: Bundle, pairs: Pairs
) -> None:
    for record in (record for record in records if record["kind"] == "score"):
        with Encoder(bundle, record["layer"], record["dim"]) as opened:
            assert record["spearman"] == pytest.approx(pairs.spearman(opened.encode(pairs.texts), record["dim"]))
        assert record["trained_dim"] == (record["dim"] == 64)
        assert (record["sts"], record["pairs"], record["texts"]) == ("toy", 6, 12)
        assert record["encode_seconds"] > 0


def test_a_score_that_does_not_exist_is_null_in_the_record(
    recorder: Recorder, bundle: Bundle, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    ones = np.ones((1, WIDTH), dtype=np.float32)
    monkeypatch.setattr(FakeRuntime, "vectors", lambda self, batch: ones.repeat(len(batch.rows), 0))
    record = next(sweep(bundle, MATRIX, pairs))
    assert record["spearman"] is None
    assert '"spearman": null' in json.dumps(record, allow_nan=False)


def test_layers_are_timed_in_turn_on_full_batches(recorder: Recorder, bundle: Bundle, pairs: Pairs) -> None:
    made = [record for record in sweep(bundle, MATRIX, pairs) if record["kind"] == "latency"]
    timed = recorder.calls[-len(made) * 7 :]  # 2 rounds to warm up and 5 that count
    rounds = [(size, tokens) for size in (1, 5) for tokens in (3, 16) for _ in range(7)]
    assert timed == [(layer, shape) for shape in rounds for layer in (1, 3)]


def test_the_latency_of_a_known_sleep_is_that_sleep(recorder: Recorder, bundle: Bundle, pairs: Pairs) -> None:
    recorder.seconds = lambda layer: 0.02 * layer
    matrix = replace(MATRIX, batch_sizes=(5,), tokens=(16,))
    latencies = [record for record in sweep(bundle, matrix, pairs) if record["kind"] == "latency"]
    for record, seconds in zip(latencies, (0.02, 0.06), strict=True):
        assert record["p50_ms"] == pytest.approx(seconds * 1e3, rel=0.1)
        assert record["sentences_per_second"] == pytest.approx(5 / seconds, rel=0.1)
        assert record["provider"] == "fake"


@pytest.fixture
def started(recorder: Recorder, bundle: Bundle, pairs: Pairs) -> Iterator[dict[str, Any]]:
    """A sweep that has begun with its latencies."""
    return (record for record in sweep(bundle, MATRIX, pairs) if record["kind"] == "latency")


def test_runtimes_are_closed_when_a_sweep_ends_and_when_it_is_abandoned(
    recorder: Recorder, started: Iterator[dict[str, Any]]
) -> None:
    next(started)
    assert recorder.open == [1, 3]
    started.close()  # type: ignore[attr-defined]
    del started
    assert recorder.open == []


def test_the_runtime_and_threads_asked_for_run_everything_and_are_recorded(
    recorder: Recorder, bundle: Bundle, pairs: Pairs
) -> None:
    made = list(sweep(bundle, replace(MATRIX, runtime="pytorch", threads=3), pairs))
    assert recorder.asked == {("pytorch", 3)}
    assert {(record["runtime"], record["threads"]) for record in made} == {("pytorch", 3)}


def test_progress_is_told_for_every_layer_and_shape(recorder: Recorder, bundle: Bundle, pairs: Pairs) -> None:
    steps: list[str] = []
    for _ in sweep(bundle, MATRIX, pairs, steps.append):
        pass
    assert steps == [
        *("scores of layer 1", "scores of layer 3"),
        *(f"latency of {size} x {tokens} tokens" for size in (1, 5) for tokens in (3, 16)),
    ]


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
    bundle: Bundle, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        replace(MATRIX, **changed).checked(bundle)


def test_a_matrix_that_fits_is_itself(bundle: Bundle) -> None:
    assert MATRIX.checked(bundle) is MATRIX


def test_the_machine_is_described_without_what_is_not_installed() -> None:
    described = machine()
    assert {"cpu", "cores", "system", "python", "versions"} <= set(described)
    assert "onnxruntime-gpu" not in described["versions"]
    assert all(described["versions"].values())
