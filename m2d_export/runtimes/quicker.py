"""Which of two ways of doing the same has been the quicker one of late."""

from itertools import count
from statistics import median

LATEST = 3  # times of each way that are looked at: by their median, one that was interrupted changes nothing
AGAIN = 16  # of so many calls one goes the other way, which may have become the quicker one


class Quicker:
    """Chooses between way 0 and way 1 of one kind of call by how long their latest took. Threads may share it."""

    def __init__(self) -> None:
        self._seconds: list[tuple[float, ...]] = [(), ()]
        self._calls = count()

    def way(self) -> int:
        """The way of the next call: 0 or 1."""
        call = next(self._calls)
        first, second = self._seconds
        if min(len(first), len(second)) < LATEST:
            return call % 2
        quicker = int(median(second) < median(first))
        return quicker if call % AGAIN else 1 - quicker

    def took(self, way: int, seconds: float) -> None:
        """Learn that a call by ``way`` took ``seconds``."""
        self._seconds[way] = (*self._seconds[way][1 - LATEST :], seconds)
