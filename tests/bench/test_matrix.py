"""Sweeps of several runtimes, precisions and computes."""

import sys
from dataclasses import replace
from typing import Any

import pytest

from m2d_export import Bundle
from m2d_export.bench import timing
from m2d_export.bench.records import done, key_of
from m2d_export.bench.sweep import Sweep
from m2d_export.errors import RuntimeUnavailable, SpecError
from m2d_export.host.machine import machine
from tests.bench.sweeps import MATRIX, TWO_RUNTIMES, Clock, Recorder, of_kind

pytestmark = pytest.mark.slow


def test_one_sweep_measures_every_setup_with_a_key_of_its_own(sweep: Sweep, bundle: Bundle) -> None:
    alone = list(sweep.records())
    both = list(replace(sweep, matrix=TWO_RUNTIMES).records())
    assert len({key_of(record) for record in both}) == len(both) == 2 * len(alone)
    for runtime in TWO_RUNTIMES.runtimes:
        assert sum(record["runtime"] == runtime for record in both) == len(alone)
    assert list(replace(sweep, matrix=TWO_RUNTIMES, done=done(both)).records()) == []
    added = list(replace(sweep, matrix=TWO_RUNTIMES, done=done(alone)).records())
    assert {record["runtime"] for record in added} == {"pytorch"}
    assert len(added) == len(alone)


def test_the_calls_of_all_setups_take_turns(sweep: Sweep, recorder: Recorder) -> None:
    changed = replace(sweep, measures=(), matrix=replace(TWO_RUNTIMES, batch_sizes=(1,), tokens=(8,)))
    latencies = of_kind(list(changed.records()), "latency")
    assert [(r["runtime"], r["layer"]) for r in latencies[:4]] == [
        (runtime, layer) for runtime in TWO_RUNTIMES.runtimes for layer in (1, 3)
    ]
    rounds = [recorder.ran[start : start + 4] for start in range(0, len(recorder.ran), 4)]
    assert set(map(tuple, rounds)) == {("onnxrt", "onnxrt", "pytorch", "pytorch")}


def test_timing_pauses_between_two_runtimes_and_only_there(sweep: Sweep, recorder: Recorder, clock: Clock) -> None:
    pauses: list[int] = []

    def call(layer: int) -> None:
        pauses.append(len(clock.slept))  # how many pauses there were before this call
        clock.wait(1.0)

    recorder.before = call
    changed = replace(sweep, measures=(), matrix=replace(TWO_RUNTIMES, batch_sizes=(1,), tokens=(8,)))
    latencies = of_kind(list(changed.records()), "latency")
    warm_up = timing.WARM_UP_ROUNDS * len(latencies)
    measured = range(warm_up + 1, len(recorder.ran))
    changes = [place for place in measured if recorder.ran[place] != recorder.ran[place - 1]]
    assert len(changes) == 4 * timing.MIN_ROUNDS - 1
    assert [place for place in measured if pauses[place] > pauses[place - 1]] == changes
    assert set(clock.slept) == {timing.PAUSE}
    for record in latencies:
        assert record["seconds"] == pytest.approx([1.0] * timing.MIN_ROUNDS)  # without the pauses
    clock.slept.clear()
    list(replace(changed, matrix=replace(changed.matrix, runtimes=("onnxrt",))).records())
    assert clock.slept == []


def test_each_setup_is_compared_with_its_own_full_cell(sweep: Sweep) -> None:
    for record in of_kind(list(replace(sweep, matrix=TWO_RUNTIMES).records()), "score"):
        if (record["layer"], record["dim"]) == (3, 64):
            assert (record["difference"], record["retention"]) == (0, 1)


def test_a_setup_that_does_not_exist_is_refused_before_any_work(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(message: str, error: type[Exception] = SpecError, bundle: Bundle = bundle, **changed: Any) -> None:
        with pytest.raises(error, match=message):
            replace(MATRIX, **changed).checked(bundle)

    check("layer 1 .*int8", precisions=("fp32", "int8"))
    check("'tensorrt'", runtimes=("onnxrt", "tensorrt"))
    check("pytorch.*bf16", runtimes=("pytorch",), computes=("fp32", "bf16"))
    partly = replace(bundle.manifest, variants=bundle.manifest.variants[:2])
    check("layer 3", bundle=replace(bundle, manifest=partly))
    monkeypatch.setitem(sys.modules, "torch", None)
    check(r"m2d-export\[build\]", RuntimeUnavailable, runtimes=("onnxrt", "pytorch"))


def test_threads_are_recorded(sweep: Sweep) -> None:
    assert next(replace(sweep, matrix=replace(MATRIX, threads=3)).records())["threads"] == 3


def test_progress_names_every_layer_and_shape(sweep: Sweep) -> None:
    steps: list[str] = []
    for _ in replace(sweep, progress=steps.append).records():
        pass
    assert steps == [
        *("vectors of the full cell, 3x64", "quality of layer 3", "quality of layer 1"),
        *(f"latency of {size} x {tokens} tokens" for size in (1, 5) for tokens in (3, 16)),
        *("memory of layer 1", "memory of layer 3"),
    ]


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        ({"layers": (1, 4)}, "layer 4"),
        ({"dims": (65,)}, "dim 65"),
        ({"dims": (0,)}, "dim 0"),
        ({"tokens": (49,)}, "tokens 49 .*3 to 48"),
        ({"tokens": (2,)}, "tokens 2 .*3 to 48"),
        ({"batch_sizes": (0, 1)}, "batch size 0"),
    ],
)
def test_a_matrix_that_the_bundle_cannot_serve_is_refused(
    bundle: Bundle, changed: dict[str, tuple[int, ...]], value: str
) -> None:
    with pytest.raises(SpecError, match=value):
        replace(MATRIX, **changed).checked(bundle)


def test_a_matrix_that_the_bundle_can_serve_is_returned(bundle: Bundle) -> None:
    assert MATRIX.checked(bundle) is MATRIX


def test_the_machine_is_described_with_installed_packages_only() -> None:
    described = machine()
    assert set(described) == {"cpu", "cores", "memory_gb", "system", "python", "versions"}
    assert described["memory_gb"] > 0
    assert "onnxruntime-gpu" not in described["versions"]
    assert all(described["versions"].values())
