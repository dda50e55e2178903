"""Walks of several runtimes, precisions and computes."""

import sys
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from m2d_export import Bundle
from m2d_export.bench import timing
from m2d_export.bench.records import done, key_of
from m2d_export.bench.sweep import Sweep
from m2d_export.errors import RuntimeUnavailable, SpecError
from m2d_export.host.machine import machine
from tests.bench.walks import MATRIX, TWO_WAYS, Recorder, of_kind


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
