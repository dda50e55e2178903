"""Repeated calls take turns, and every measured second of them is kept."""

from functools import partial

import numpy as np
import pytest

from m2d_export.bench.timing import MAX_ROUNDS, MIN_ROUNDS, PAUSE, WARM_UP_ROUNDS, Latency, measure
from tests.bench.sweeps import Clock


def test_calls_take_turns() -> None:
    made: list[str] = []
    latencies = measure([partial(made.append, name) for name in "abc"], budget=0)
    assert "".join(made) == "abc" * (WARM_UP_ROUNDS + MIN_ROUNDS)
    assert [len(latency.seconds) for latency in latencies] == [MIN_ROUNDS] * 3


@pytest.mark.parametrize(("budget", "rounds"), [(0, MIN_ROUNDS), (1, MIN_ROUNDS), (8, 9), (1000, MAX_ROUNDS)], ids=str)
def test_the_budget_limits_the_rounds_of_all_calls_together(clock: Clock, budget: float, rounds: int) -> None:
    latencies = measure([partial(clock.wait, 0.75), partial(clock.wait, 0.25)], budget)  # a second a round
    assert [len(latency.seconds) for latency in latencies] == [rounds, rounds]


def test_the_warm_up_is_not_measured_and_seconds_keep_their_order(clock: Clock) -> None:
    waits = iter([9.0, 9.0, 5.0, 1.0, 4.0, 2.0, 3.0])
    (latency,) = measure([lambda: clock.wait(next(waits))], budget=0)
    assert latency.seconds == (5.0, 1.0, 4.0, 2.0, 3.0)
    assert latency.p50 == 3.0
    assert latency.percentile(100) == 5.0


def test_percentiles_are_those_of_numpy() -> None:
    seconds = tuple(np.random.default_rng(0).random(7))
    for percent in (0, 50, 95, 99, 100):
        assert Latency(seconds).percentile(percent) == pytest.approx(np.percentile(seconds, percent))


def test_an_error_in_a_call_stops_the_measurement() -> None:
    def fail() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        measure([lambda: None, fail], budget=0)


def test_a_latency_is_noisy_if_its_calls_spread_widely() -> None:
    assert Latency((1.0, 1.0, 1.0, 1.0, 9.0)).spread == 0  # one outlier does not count
    assert Latency((0.8, 0.9, 1.0, 1.1, 1.2)).spread == pytest.approx(0.2)
    assert Latency((0.5, 0.8, 1.0, 1.3, 1.4)).noisy
    assert not Latency((0.9, 0.95, 1.0, 1.05, 1.1)).noisy


def test_a_pause_before_a_call_is_not_part_of_its_seconds(clock: Clock) -> None:
    latencies = measure([partial(clock.wait, 1.0), partial(clock.wait, 3.0)], budget=0, pauses={1})
    assert [latency.seconds for latency in latencies] == [(1.0,) * MIN_ROUNDS, (3.0,) * MIN_ROUNDS]
    assert clock.slept == [PAUSE] * MIN_ROUNDS
