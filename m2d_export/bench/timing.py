"""Time calls that take turns, so that a slow moment of the machine affects all of them."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

WARM_UP_ROUNDS = 2
MIN_ROUNDS, MAX_ROUNDS = 5, 50
PAUSE = 0.02  # seconds; torch's threads wait actively for some milliseconds after a call
NOISY = 0.2  # if the interquartile range is over this share of the median, a latency is noisy


@dataclass(frozen=True)
class Latency:
    """Seconds of each measured call, in the order in which they were made."""

    seconds: tuple[float, ...]

    def percentile(self, percent: float) -> float:
        """A percentile of the seconds, interpolated between calls."""
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
        """Whether the calls spread so much that the median is uncertain."""
        return self.spread > NOISY


def measure(
    calls: Sequence[Callable[[], object]], budget: float, pauses: Collection[int] = frozenset()
) -> list[Latency]:
    """Time each call once per round: two rounds to warm up, then 5 to 50 rounds until ``budget`` seconds are over.

    There is a pause before the calls at the places ``pauses``, so that threads of another runtime do not use the cores.
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
