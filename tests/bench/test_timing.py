"""Seconds of repeated calls: interleaved, raw, honest."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from m2d_export.bench import timing
from m2d_export.bench.timing import LEAST_ROUNDS, MOST_ROUNDS, WARM_UP, Latency, measure
from m2d_export.runtimes.fake import FakeRuntime
from m2d_export.spec import TextSpec
from m2d_export.text.batches import TokenIds, pad


@pytest.mark.parametrize("seconds", [0.02, 0.05])
def test_the_median_of_a_runtime_that_sleeps_is_its_sleep(seconds: float) -> None:
    batch = pad([TokenIds([1, 2, 3])], TextSpec(8, 0), [0])
    slow, quick = FakeRuntime(seconds=seconds), FakeRuntime()
    latencies = measure([partial(slow.vectors, batch), partial(quick.vectors, batch)], budget=0)
    assert latencies[0].p50 == pytest.approx(seconds, rel=0.05)
    assert latencies[1].p50 < seconds / 10


def test_calls_take_turns_so_that_a_slow_moment_falls_on_all() -> None:
    made: list[str] = []
    latencies = measure([partial(made.append, name) for name in "abc"], budget=0)
    assert "".join(made) == "abc" * (WARM_UP + LEAST_ROUNDS)
    assert [len(latency.seconds) for latency in latencies] == [LEAST_ROUNDS] * 3


class Clock:
    """A clock that moves only when a call lets time pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("budget", "rounds"), [(0, LEAST_ROUNDS), (1, LEAST_ROUNDS), (8, 9), (1000, MOST_ROUNDS)], ids=str
)
def test_the_budget_bounds_the_rounds_of_all_calls_together(clock: Clock, budget: float, rounds: int) -> None:
    latencies = measure([partial(clock.wait, 0.75), partial(clock.wait, 0.25)], budget)  # a second a round
    assert [len(latency.seconds) for latency in latencies] == [rounds, rounds]


def test_warming_up_is_not_measured_and_raw_seconds_keep_their_order(clock: Clock) -> None:
    waits = iter([9.0, 9.0, 5.0, 1.0, 4.0, 2.0, 3.0])
    (latency,) = measure([lambda: clock.wait(next(waits))], budget=0)
    assert latency.seconds == (5.0, 1.0, 4.0, 2.0, 3.0)
    assert latency.p50 == 3.0
    assert latency.percentile(100) == 5.0


def test_percentiles_lie_between_calls_as_numpys_do() -> None:
    seconds = tuple(np.random.default_rng(0).random(7))
    for percent in (0, 50, 95, 99, 100):
        assert Latency(seconds).percentile(percent) == pytest.approx(np.percentile(seconds, percent))


def test_an_error_in_a_call_is_not_a_measurement() -> None:
    def fail() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        measure([lambda: time.sleep(0), fail], budget=0)


def test_a_wide_spread_is_noise_and_a_narrow_one_is_not() -> None:
    assert Latency((1.0, 1.0, 1.0, 1.0, 9.0)).spread == 0  # one outlier is no spread
    assert Latency((0.8, 0.9, 1.0, 1.1, 1.2)).spread == pytest.approx(0.2)
    assert Latency((0.5, 0.8, 1.0, 1.3, 1.4)).noisy
    assert not Latency((0.9, 0.95, 1.0, 1.05, 1.1)).noisy


# --- energy


@pytest.fixture
def spend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Two packages with counters in microjoules; spending adds to both, which hold 1,000 and 0 at first."""
    monkeypatch.setattr(timing, "POWERCAP", tmp_path)
    counters = [tmp_path / f"intel-rapl:{package}" / "energy_uj" for package in range(2)]
    for counter, microjoules in zip(counters, (1000, 0), strict=True):
        counter.parent.mkdir()
        counter.write_text(f"{microjoules}\n")
    (tmp_path / "intel-rapl:0" / "intel-rapl:0:0").mkdir()  # a part of package 0: counted there already
    (tmp_path / "intel-rapl:0" / "intel-rapl:0:0" / "energy_uj").write_text("999999\n")

    def spend(microjoules: int) -> None:
        for counter in counters:
            counter.write_text(f"{int(counter.read_text()) + microjoules}\n")

    return spend


def test_joules_are_those_of_each_calls_own_measured_rounds(spend: Callable[..., None]) -> None:
    frugal, greedy = measure([partial(spend, 100), partial(spend, 70_000)], budget=0)
    assert frugal.joules == pytest.approx(2 * 100e-6 * LEAST_ROUNDS)
    assert greedy.joules == pytest.approx(2 * 0.07 * LEAST_ROUNDS)


def test_a_counter_that_wraps_round_leaves_no_figure_rather_than_a_wrong_one(spend: Callable[..., None]) -> None:
    steps = iter([0] * WARM_UP + [5, 5, -900, 5, 5])
    (latency,) = measure([lambda: spend(next(steps))], budget=0)
    assert latency.joules is None


@pytest.mark.parametrize("content", [None, "", "no number"])
def test_without_a_counter_that_can_be_read_there_are_no_joules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.setattr(timing, "POWERCAP", tmp_path / "powercap")
    if content is not None:
        (tmp_path / "powercap" / "intel-rapl:0").mkdir(parents=True)
        (tmp_path / "powercap" / "intel-rapl:0" / "energy_uj").write_text(content)
    (latency,) = measure([lambda: None], budget=0)
    assert latency.joules is None
