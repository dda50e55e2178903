"""The rule of ``select``: which cell to ship, why the others lost, and what weakens the choice."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from m2d_export.bench.values import Candidate, View
from m2d_export.errors import DataError
from m2d_export.select.budgets import LIMITS, Budgets, Miss, format_number
from m2d_export.select.tasks import STORED, TASKS, Task
from m2d_export.select.warnings import choice_warnings

RUNNERS_UP = 3


@dataclass(frozen=True)
class Worth:
    """What a task judges a candidate by: its quality x 100, and the share of the full cell's quality."""

    quality: float | None
    retention: float | None


@dataclass(frozen=True)
class Verdict:
    """Why a candidate was not picked: the limits that it breaks, or else what the pick has over it."""

    candidate: Candidate
    worth: Worth
    misses: tuple[Miss, ...]
    reason: str


@dataclass(frozen=True)
class Relaxation:
    """A change of one budget from ``limit`` to ``needed`` that would admit ``candidate``."""

    budget: str
    limit: float
    needed: float
    candidate: Candidate

    def __str__(self) -> str:
        change = f"from {format_number(self.limit)} to {format_number(self.needed)}"
        return f"{self.budget} {change} would admit {self.candidate.cell}"


@dataclass(frozen=True)
class Choice:
    """What ``select`` decided. ``picked`` and its ``worth`` are None where no candidate meets the budgets.

    ``stored_as`` names the storage whose score was judged, None for float32 vectors. ``runners_up`` are the next three;
    those that meet every budget come first. Where nothing was picked, ``relaxations`` has each budget that could be
    relaxed on its own, the smallest change first; it is empty where more than one must be relaxed.
    """

    task: Task
    budgets: Budgets
    view: View
    stored_as: str | None
    picked: Candidate | None = None
    worth: Worth | None = None
    runners_up: tuple[Verdict, ...] = ()
    ruled_out: tuple[Verdict, ...] = ()
    warnings: tuple[str, ...] = ()
    relaxations: tuple[Relaxation, ...] = ()

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """The bounded quantities that were measured of no candidate."""
        missed = [miss for verdict in self.ruled_out for miss in verdict.misses]
        known = {miss.budget for miss in missed if miss.value is not None}
        return tuple(dict.fromkeys(LIMITS[miss.budget][0] for miss in missed if miss.budget not in known))


def select(
    candidates: Sequence[Candidate], budgets: Budgets, task: Task = Task.STS, view: View | None = None
) -> Choice:
    """Pick the fastest candidate that meets every budget if quality has a limit, else the best one.

    Ties go to the smaller dim, then to the smaller layer. ``candidates`` come from ``metrics.candidates``, seen through
    ``view``. An index with fewer bytes a value is judged by the score of vectors stored that way, if it was measured.
    Raises DataError where the task's quality, or the full cell's quality that a retention needs, was not measured.
    """
    view, stored_as = view or View(), _stored_as(candidates, budgets, task)
    worths = {id(candidate): worth(candidate, task, stored_as) for candidate in candidates}
    _check_measured(candidates, [*worths.values()], budgets, task)

    def rank(candidate: Candidate) -> tuple[float, ...]:
        return _rank(candidate, worths[id(candidate)], budgets)

    fitting: list[Candidate] = []
    ruled_out: list[Verdict] = []
    for candidate in sorted(candidates, key=rank):
        own = worths[id(candidate)]
        misses = budgets.misses(_values(candidate, own, budgets))
        if own.quality is None:  # a cell without a measured quality is never picked
            ruled_out.append(Verdict(candidate, own, misses, f"{TASKS[task].quality} not measured"))
        elif misses:
            ruled_out.append(Verdict(candidate, own, misses, "; ".join(map(str, misses))))
        else:
            fitting.append(candidate)
    tested = [verdict for verdict in ruled_out if verdict.worth.quality is not None]
    closest = sorted(tested, key=lambda verdict: (len(verdict.misses), sum(miss.change for miss in verdict.misses)))
    choice = Choice(task, budgets, view, stored_as, ruled_out=tuple(ruled_out))
    if not fitting:
        return replace(choice, runners_up=tuple(closest[:RUNNERS_UP]), relaxations=_relaxations(tested))
    picked, *others = fitting

    def judged(candidate: Candidate) -> float | None:
        return candidate.sentences_per_second if budgets.bounds_quality else worths[id(candidate)].quality

    what = "throughput" if budgets.bounds_quality else TASKS[task].quality
    behind = [Verdict(c, worths[id(c)], (), _reason(picked, c, judged(picked), judged(c), what)) for c in others]
    return replace(
        choice,
        picked=picked,
        worth=worths[id(picked)],
        runners_up=tuple([*behind, *closest][:RUNNERS_UP]),
        warnings=tuple(choice_warnings(picked, others, budgets, task, view.sts, stored_as)),
    )


def worth(candidate: Candidate, task: Task, stored_as: str | None = None) -> Worth:
    """What ``task`` judges a candidate by: its float32 vectors, or its vectors ``stored_as`` an index stores them."""
    if stored_as is not None:
        stored = candidate.stored.get(stored_as)
        return Worth(stored.score, stored.retention) if stored else Worth(None, None)
    return Worth(getattr(candidate, TASKS[task].quality), getattr(candidate, TASKS[task].retention))


def _stored_as(candidates: Sequence[Candidate], budgets: Budgets, task: Task) -> str | None:
    """The storage with the bytes of the budget's index, if its scores were measured."""
    storage = STORED.get(budgets.bytes_per_number) if task is Task.STS else None
    known = any(storage in candidate.stored for candidate in candidates)
    return storage if storage and known else None


def _check_measured(candidates: Sequence[Candidate], worths: Sequence[Worth], budgets: Budgets, task: Task) -> None:
    """Raise DataError where the quality, or the full cell's that a retention is a share of, was not measured."""
    what, measure = TASKS[task].quality, TASKS[task].measure
    if all(own.quality is None for own in worths):
        raise DataError(f"no {what} was measured: {measure} first")
    if budgets.min_retention is None or any(own.retention is not None for own in worths):
        return
    full = next((value for c in candidates if c.full and (value := worth(c, task).quality) is not None), None)
    if full is None:
        raise DataError(
            f"min_retention is a share of the full cell's {what}, which was not measured: {measure} on the deepest "
            "layer at full width too, or use min_score"
        )
    raise DataError(
        f"min_retention is a share of the full cell's {what}, which is {format_number(full)}: use min_score instead"
    )


def _rank(candidate: Candidate, own: Worth, budgets: Budgets) -> tuple[float, ...]:
    """Smaller is better; a value that was not measured comes last."""
    value, speed = own.quality, candidate.sentences_per_second
    best = -math.inf if value is None else value
    fastest = -math.inf if speed is None else speed
    first, last = (fastest, best) if budgets.bounds_quality else (best, fastest)
    return (-first, candidate.cell.dim, candidate.cell.layer, -last)


def _values(candidate: Candidate, own: Worth, budgets: Budgets) -> dict[str, float | None]:
    return {
        "min_retention": own.retention,
        "min_score": own.quality,
        "max_latency_ms": candidate.latency_ms,
        "min_throughput": candidate.sentences_per_second,
        "max_index_gb": candidate.index_gb(budgets.vectors or 0, budgets.bytes_per_number),
    }


def _relaxations(ruled_out: Sequence[Verdict]) -> tuple[Relaxation, ...]:
    """The least change of each budget that is the only one a candidate misses, the smallest change first."""
    only = [(verdict.misses[0], verdict.candidate) for verdict in ruled_out if len(verdict.misses) == 1]
    found: dict[str, Relaxation] = {}
    for miss, candidate in sorted(only, key=lambda item: item[0].change):
        if miss.needed is not None:
            found.setdefault(miss.budget, Relaxation(miss.budget, miss.limit, miss.needed, candidate))
    return tuple(found.values())


def _reason(picked: Candidate, other: Candidate, own: float | None, others: float | None, what: str) -> str:
    """Why the pick is before ``other``, which meets the budgets too; ``own`` and ``others`` are their ``what``."""
    if own is not None and others is None:
        return f"{what} not measured"
    if own is not None and others is not None and own != others:
        return f"{what} {format_number(others)}, the pick has {format_number(own)}"
    if other.cell.dim != picked.cell.dim:
        return f"no better in {what}, and wider"
    return f"no better in {what}, and " + ("deeper" if other.cell.layer != picked.cell.layer else "the same cell")
