"""Which of two ways of doing the same has been the quicker one of late."""

from itertools import count
from statistics import median

LATEST = 3  # times of each way that are looked at: by their median, one that was interrupted changes nothing
AGAIN = (
    16  # calls after which the slower way, which may have become the quicker one, is tried again, if it took as long
)


class Quicker:
    """Chooses between way 0 and way 1 of one kind of call by how long their latest took.

    The slower way is tried again the more seldom the slower it was, so that tries take a sixteenth of the time, and at
    once where its last one was quicker. Threads may share it.
    """

    def __init__(self) -> None:
        self._seconds: list[tuple[float, ...]] = [(), ()]
        self._calls = count()

    def way(self) -> int:
        """The way of the next call: 0 or 1."""
        call = next(self._calls)
        if min(map(len, self._seconds)) < LATEST:
            return call % 2
        first, second = map(median, self._seconds)
        quicker, least = int(second < first), min(first, second)
        again = round(AGAIN * max(first, second) / least)
        tried = call % again == 0 or self._seconds[1 - quicker][-1] < least
        return 1 - quicker if tried else quicker

    def took(self, way: int, seconds: float) -> None:
        """Learn that a call by ``way`` took ``seconds``."""
        self._seconds[way] = (*self._seconds[way][1 - LATEST :], seconds)
