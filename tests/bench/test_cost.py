"""Records of the cost of a layer."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from m2d_export import Bundle
from m2d_export.bench import cost, timing
from m2d_export.bench import memory as peak
from m2d_export.bench.cost import full_batch, full_texts
from m2d_export.bench.metrics import candidates
from m2d_export.bench.sts import Pairs
from m2d_export.bench.sweep import Sweep
from m2d_export.errors import RuntimeUnavailable
from tests.bench.sweeps import MATRIX, TEXTS, Clock, Record, Recorder, of_kind


def test_every_value_of_a_latency_follows_from_its_raw_seconds(records: list[Record]) -> None:
    for record in of_kind(records, "latency"):
        seconds = np.array(record["seconds"])
        assert len(seconds) == timing.MIN_ROUNDS
        assert (seconds > 0).all()
        for name, percent in (("p50_ms", 50), ("p95_ms", 95), ("p99_ms", 99)):
            assert record[name] == pytest.approx(np.percentile(seconds, percent) * 1e3)
        assert record["sentences_per_second"] == pytest.approx(record["batch_size"] / np.median(seconds))
        quartiles = np.percentile(seconds, [25, 75])
        assert record["spread"] == pytest.approx((quartiles[1] - quartiles[0]) / np.median(seconds))
        assert record["noisy"] == (record["spread"] > 0.2)


def test_layers_and_scopes_take_turns(sweep: Sweep, recorder: Recorder) -> None:
    only = replace(sweep, measures=())
    assert len(of_kind(list(only.records()), "latency")) == 16
    rounds = [(size, tokens) for size in (1, 5) for tokens in (3, 16) for _ in range(7)]  # 2 to warm up, 5 that count
    timed = [recorder.calls[start : start + 4] for start in range(0, len(recorder.calls), 4)]
    for shape, calls in zip(rounds, timed, strict=True):
        assert [layer for layer, _ in calls] == [1, 3, 1, 3]
        assert [asked for _, asked in calls[:2]] == [shape, shape]  # the graph gets full batches, without padding
        assert [asked[0] for _, asked in calls[2:]] == [shape[0]] * 2
        assert all(asked[1] <= shape[1] for _, asked in calls[2:])


def test_a_latency_is_the_time_that_a_call_takes(sweep: Sweep, recorder: Recorder, clock: Clock) -> None:
    seconds = {1: 0.02, 3: 0.05}
    recorder.before = lambda layer: clock.wait(seconds[layer])
    changed = replace(sweep, matrix=replace(MATRIX, batch_sizes=(5,), tokens=(16,)), measures=())
    latencies = of_kind(list(changed.records()), "latency")
    assert len(latencies) == 4
    for record in latencies:
        assert record["provider"] == "fake"
        assert record["p50_ms"] == pytest.approx(1e3 * seconds[record["layer"]])
        assert record["sentences_per_second"] == pytest.approx(5 / seconds[record["layer"]])


def test_a_sweep_closes_its_runtimes_also_if_it_is_abandoned(sweep: Sweep, recorder: Recorder) -> None:
    started = (record for record in sweep.records() if record["kind"] == "latency")
    next(started)
    assert recorder.open == [1, 3]
    started.close()
    del started
    assert recorder.open == []
    list(sweep.records())
    assert recorder.open == []


@pytest.mark.parametrize(("batch_size", "tokens"), [(1, 3), (4, 16), (40, 48)])
def test_a_full_batch_has_no_padding_and_the_special_tokens_of_a_text(
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
def test_full_texts_nearly_fill_the_token_count_and_never_exceed_it(
    bundle: Bundle, texts: Sequence[str], batch_size: int, tokens: int
) -> None:
    found = full_texts(bundle, texts, batch_size, tokens)
    assert len(found) == batch_size
    for item in bundle.tokenizer.encode(found):
        assert tokens / 2 <= len(item.ids) <= tokens


def test_full_texts_leave_room_for_the_prompt(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(bundle.tokenizer.spec, prompts={"query": "the cat is: "}, default_prompt_name="query")
    monkeypatch.setattr(bundle.tokenizer, "spec", spec)
    for item in bundle.tokenizer.encode(full_texts(bundle, TEXTS, 4, 16), "the cat is: "):
        assert 8 <= len(item.ids) <= 16


def test_memory_is_measured_in_a_process_of_its_own(records: list[Record], bundle: Bundle) -> None:
    for record in of_kind(records, "memory"):
        assert 20 < record["peak_mb"] < 1000
    ballast = np.ones(200_000_000, dtype=np.uint8)  # the memory of this process must not count
    options = {"runtime": "onnxrt", "precision": "fp32", "threads": 1}
    (record,) = cost.memory(bundle, 1, TEXTS, options)
    assert record["peak_mb"] < 1.2 * max(r["peak_mb"] for r in of_kind(records, "memory"))
    assert record["provider"] == "CPUExecutionProvider"
    assert ballast.any()


def test_peak_memory_is_read_without_proc_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak.peak_bytes() > 20e6
    monkeypatch.setattr(peak, "STATUS", Path("/nowhere"))
    assert peak.peak_bytes() > 0


def test_candidates_have_the_peak_memory_of_their_layer(records: list[Record]) -> None:
    peaks = {record["layer"]: record["peak_mb"] for record in of_kind(records, "memory")}
    assert {cell.cell.layer: cell.peak_mb for cell in candidates(records)} == peaks


def test_the_error_says_why_memory_could_not_be_measured(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"runtime": "onnxrt", "precision": "fp32", "threads": None}
    with pytest.raises(RuntimeUnavailable, match="layer 9"):
        next(cost.memory(bundle, 9, TEXTS, options))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeUnavailable, match="exit status 1"):
        next(cost.memory(bundle, 1, TEXTS, options))
