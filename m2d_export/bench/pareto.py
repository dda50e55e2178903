"""The Pareto front: what is left once everything beaten on both score and throughput is gone."""

from collections.abc import Iterable
from typing import Protocol, TypeVar


class Point(Protocol):
    """Anything with a score and a throughput; None is not measured."""

    @property
    def score(self) -> float | None:
        """Spearman x 100."""

    @property
    def sentences_per_second(self) -> float | None:
        """Throughput."""


P = TypeVar("P", bound=Point)


def front(points: Iterable[P]) -> list[P]:
    """The points no other beats: as good on both score and throughput, and better on one.

    From the fastest to the one that scores highest. Points without a score or a throughput are left out; of two
    equal points both stay.
    """
    known = [
        (point.sentences_per_second, point.score, point)
        for point in points
        if point.score is not None and point.sentences_per_second is not None
    ]
    known.sort(key=lambda item: (-item[0], -item[1]))
    kept: list[P] = []
    best, at_speed = float("-inf"), float("inf")
    for speed, score, point in known:
        if score > best or (score == best and speed == at_speed):
            kept.append(point)
            best, at_speed = score, speed
    return kept
