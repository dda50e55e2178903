"""Seconds of repeated calls, interleaved, raw; and joules where the machine counts them."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

WARM_UP = 2
LEAST_ROUNDS, MOST_ROUNDS = 5, 50
REST = 0.02  # seconds; OpenMP's threads, which torch uses, spin for some milliseconds after a call
NOISY = 0.2  # of the median: an interquartile range over this makes a latency a rough figure
COUNTERS = "intel-rapl:*/energy_uj"  # one a processor package, in microjoules, on Intel and AMD alike
POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Latency:
    """Seconds of each measured call, in the order they were made, and joules of them all, None without a sensor."""

    seconds: tuple[float, ...]
    joules: float | None = None

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
        """Whether the spread makes the median a rough figure."""
        return self.spread > NOISY


def measure(
    calls: Sequence[Callable[[], object]], budget: float, rests: Collection[int] = frozenset()
) -> list[Latency]:
    """Time each call in turn, round after round, so that a slow moment of the machine falls on all alike.

    ``budget`` in seconds bounds the rounds of all calls together, between 5 and 50 rounds; two rounds before
    them warm up and do not count. Before the calls at the places ``rests`` the machine is let come to rest, so that
    threads of another runtime do not take the cores from this one's.
    """
    for call in [*calls] * WARM_UP:
        call()
    counters = _counters()
    seconds: list[list[float]] = [[] for _ in calls]
    joules: list[list[float | None]] = [[] for _ in calls]
    started = time.perf_counter()
    for done in range(MOST_ROUNDS):
        if done >= LEAST_ROUNDS and time.perf_counter() - started > budget:
            break
        for place, call in enumerate(calls):
            if place in rests:
                time.sleep(REST)
            energy = _microjoules(counters)
            before = time.perf_counter()
            call()
            seconds[place].append(time.perf_counter() - before)
            joules[place].append(_joules_since(energy, counters))
    return [
        Latency(tuple(measured), None if None in spent else sum(used for used in spent if used is not None))
        for measured, spent in zip(seconds, joules, strict=True)
    ]


def _joules_since(before: int | None, counters: Sequence[Path]) -> float | None:
    """Joules since a reading; None without a sensor, or where its counter has wrapped round."""
    after = _microjoules(counters)
    return (after - before) / 1e6 if before is not None and after is not None and after >= before else None


def _counters() -> list[Path]:
    """The counters that can be read, looked up once: a look-up may take as long as a quick call."""
    found = list(POWERCAP.glob(COUNTERS))
    return found if _microjoules(found) is not None else []


def _microjoules(counters: Sequence[Path]) -> int | None:
    if not counters:
        return None
    try:
        return sum(int(counter.read_text()) for counter in counters)
    except (OSError, ValueError):  # root alone may read it on most systems
        return None
