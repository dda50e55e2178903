"""Records of what a layer costs."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from m2d_export import Bundle, Encoder
from m2d_export.bench import cost, timing
from m2d_export.bench import memory as peak
from m2d_export.bench.cost import full_batch, full_texts
from m2d_export.bench.metrics import candidates
from m2d_export.bench.sts import Pairs
from m2d_export.bench.sweep import Sweep
from m2d_export.errors import RuntimeUnavailable
from tests.bench.walks import MATRIX, TEXTS, Record, Recorder, of_kind


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
