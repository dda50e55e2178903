"""Seconds of repeated calls, interleaved, raw."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

WARM_UP = 2
LEAST_ROUNDS, MOST_ROUNDS = 5, 50


@dataclass(frozen=True)
class Latency:
    """Seconds of each measured call, in the order they were made."""

    seconds: tuple[float, ...]

    def percentile(self, percent: float) -> float:
        """A percentile of the seconds, interpolated between calls."""
        return float(np.percentile(self.seconds, percent))

    @property
    def p50(self) -> float:
        """The median in seconds."""
        return self.percentile(50)


def measure(calls: Sequence[Callable[[], object]], budget: float) -> list[Latency]:
    """Time each call in turn, round after round, so that a slow moment of the machine falls on all alike.

    ``budget`` in seconds bounds the rounds of all calls together, between 5 and 50 rounds; two rounds before
    them warm up and do not count.
    """
    for call in [*calls] * WARM_UP:
        call()
    seconds: list[list[float]] = [[] for _ in calls]
    started = time.perf_counter()
    for done in range(MOST_ROUNDS):
        if done >= LEAST_ROUNDS and time.perf_counter() - started > budget:
            break
        for call, measured in zip(calls, seconds, strict=True):
            before = time.perf_counter()
            call()
            measured.append(time.perf_counter() - before)
    return [Latency(tuple(measured)) for measured in seconds]
