"""The Pareto front: the points that no other point beats in score and throughput."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from m2d_export.bench.values import Candidate, Cascade

FEW = 5  # this number of lines fits in a legend


@dataclass(frozen=True)
class Step:
    """A shortlist of a cascade as a point: its score is the recall, and its throughput is queries per second.

    ``cascade`` is the place of the cascade in its list. ``shortlist`` is the place of the shortlist in the cascade.
    """

    cascade: int
    shortlist: int
    score: float
    sentences_per_second: float


P = TypeVar("P", Candidate, Step)


def front(points: Iterable[P]) -> list[P]:
    """The points that no other point beats, from the fastest to the one with the highest score.

    A point beats another if its score and its throughput are not lower, and one of them is higher. Points without a
    score or a throughput are left out. Two equal points are both kept.
    """
    known = [
        (point.sentences_per_second, point.score, point)
        for point in points
        if point.score is not None and point.sentences_per_second is not None
    ]
    known.sort(key=lambda item: (-item[0], -item[1]))
    found: list[P] = []
    best, at_speed = float("-inf"), float("inf")
    for speed, score, point in known:
        if score > best or (score == best and speed == at_speed):
            found.append(point)
            best, at_speed = score, speed
    return found


def steps(cascades: Sequence[Cascade]) -> list[Step]:
    """The cheapest shortlist for each recall that is reached; the cheapest of all comes first."""
    return front(
        Step(place, number, recall, 1000 / cost)
        for place, item in enumerate(cascades)
        for number, (recall, cost) in enumerate(zip(item.recall_at_10, item.cost_ms, strict=True))
    )


def few(cascades: Sequence[Cascade]) -> list[Cascade]:
    """Up to five cascades to draw for one collection and setup: they are the cheapest for the most recalls."""
    often = Counter(step.cascade for step in steps(cascades))
    return [cascades[place] for place in sorted(place for place, _ in often.most_common(FEW))]
