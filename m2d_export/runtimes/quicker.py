"""Which of two ways of doing the same has been the quicker one of late."""

from statistics import median

LATEST = 3  # times of each way that are looked at: by their median, one that was interrupted changes nothing
# Calls until the slower way, which may have become the quicker one, is tried again: so many if it took just as long,
# more in proportion to how much longer it took.
AGAIN = 16


class Quicker:
    """Chooses between way 0 and way 1 of one kind of call by how long their latest took.

    Tries of the slower way take about a sixteenth of the time. It is tried once more at once where its last try was
    quicker. Threads may share it.
    """

    def __init__(self) -> None:
        self._seconds: list[tuple[float, ...]] = [(), ()]
        self._untried = 0  # calls since the slower way was taken

    def way(self) -> int:
        """The way of the next call: 0 or 1."""
        known = [len(seconds) for seconds in self._seconds]
        if min(known) < LATEST:
            return int(known[0] > known[1])
        first, second = map(median, self._seconds)
        quicker, least = int(second < first), min(first, second)
        self._untried += 1
        if self._untried < AGAIN * max(first, second) / least and self._seconds[1 - quicker][-1] >= least:
            return quicker
        self._untried = 0
        return 1 - quicker

    def took(self, way: int, seconds: float) -> None:
        """Learn that a call by ``way`` took ``seconds``."""
        self._seconds[way] = (*self._seconds[way][1 - LATEST :], seconds)
