"""Measure the time of calls. The calls take turns, so that a slow moment of the machine affects all of them."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

WARM_UP_ROUNDS = 2
MIN_ROUNDS, MAX_ROUNDS = 5, 50
PAUSE = 0.02  # seconds; after a call, torch's threads use their cores for some more milliseconds
NOISY = 0.2  # a latency is noisy if its interquartile range is over this share of its median


@dataclass(frozen=True)
class Latency:
    """The seconds of each measured call, in the order of the calls."""

    seconds: tuple[float, ...]

    def percentile(self, percent: float) -> float:
        """Return a percentile of the seconds. It may lie between the seconds of two calls."""
        return float(np.percentile(self.seconds, percent))

    @property
    def p50(self) -> float:
        """The median in seconds."""
        return self.percentile(50)

    @property
    def spread(self) -> float:
        """The interquartile range as a share of the median."""
        return (self.percentile(75) - self.percentile(25)) / self.p50

    @property
    def noisy(self) -> bool:
        """Whether the seconds differ so much that the median is uncertain."""
        return self.spread > NOISY


def measure(
    calls: Sequence[Callable[[], object]], budget: float, pauses: Collection[int] = frozenset()
) -> list[Latency]:
    """Measure the time of each call once per round.

    Two rounds warm up. Then at least 5 and at most 50 rounds are measured. After the fifth round, no round starts if
    ``budget`` seconds are over. ``pauses`` has places in ``calls``. There is a pause before each call at such a place:
    the threads of another runtime must leave the cores first.
    """
    for call in [*calls] * WARM_UP_ROUNDS:
        call()
    seconds: list[list[float]] = [[] for _ in calls]
    started = time.perf_counter()
    for done in range(MAX_ROUNDS):
        if done >= MIN_ROUNDS and time.perf_counter() - started > budget:
            break
        for place, call in enumerate(calls):
            if place in pauses:
                time.sleep(PAUSE)
            before = time.perf_counter()
            call()
            seconds[place].append(time.perf_counter() - before)
    return [Latency(tuple(measured)) for measured in seconds]
