"""The rule of ``select``: which cell to ship, why the others lost, and which warnings the choice has."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from m2d_export.bench.values import Candidate, View
from m2d_export.errors import DataError, SpecError
from m2d_export.select.budgets import LIMITS, Budgets, Miss, format_number
from m2d_export.select.tasks import STORED, TASKS, Task
from m2d_export.select.warnings import choice_warnings
from m2d_export.spec import Cell

RUNNERS_UP = 3


@dataclass(frozen=True)
class Worth:
    """What a task judges a candidate by: its quality x 100, and its share of the full cell's or the index's own."""

    quality: float | None
    retention: float | None


@dataclass(frozen=True)
class Verdict:
    """Why a candidate was not picked.

    ``misses`` are the limits that the candidate breaks. ``reason`` has them in words or, if there are none, says why
    the pick is better. The reason is empty if the candidate may be picked.
    """

    candidate: Candidate
    worth: Worth
    misses: tuple[Miss, ...]
    reason: str


@dataclass(frozen=True)
class Relaxation:
    """A change of one budget from ``limit`` to ``needed``; with it, ``candidate`` would meet all budgets."""

    budget: str
    limit: float
    needed: float
    candidate: Candidate

    def __str__(self) -> str:
        change = f"from {format_number(self.limit)} to {format_number(self.needed)}"
        return f"{self.budget} {change} would allow {self.candidate.cell}"


@dataclass(frozen=True)
class Choice:
    """What ``select`` decided; ``picked`` and ``worth`` are None if no candidate meets the budgets.

    ``stored_as`` names the storage whose score was judged; None means float32 vectors. ``runners_up`` are the next
    three candidates; those that meet every budget come first. If nothing was picked, ``relaxations`` has each budget
    that can be relaxed alone so that a candidate meets all budgets. The smallest change is first. ``relaxations`` is
    empty if no single change is enough.
    """

    task: Task
    budgets: Budgets
    view: View
    stored_as: str | None
    index_cell: Cell | None = None
    picked: Candidate | None = None
    worth: Worth | None = None
    runners_up: tuple[Verdict, ...] = ()
    ruled_out: tuple[Verdict, ...] = ()
    warnings: tuple[str, ...] = ()
    relaxations: tuple[Relaxation, ...] = ()

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """The quantities that have a limit and were measured for no candidate."""
        missed = [miss for verdict in self.ruled_out for miss in verdict.misses]
        known = {miss.budget for miss in missed if miss.value is not None}
        return tuple(dict.fromkeys(LIMITS[miss.budget][0] for miss in missed if miss.budget not in known))


def select(
    candidates: Sequence[Candidate],
    budgets: Budgets,
    task: Task = Task.STS,
    view: View | None = None,
    index_cell: Cell | None = None,
) -> Choice:
    """Pick one of the candidates that meet every budget: the fastest if quality has a limit, otherwise the best.

    If two are equal, the smaller dim is picked, then the smaller layer. ``candidates`` come from ``metrics.candidates``
    with ``view``. An index may have fewer than 4 bytes per number. Quality is then the score of vectors that are stored
    in this way, if bench has measured it. A task in an index is about queries in an index of ``index_cell``. Retention
    is then the share of what the index's own queries find. Raises DataError if the quality of the task was not
    measured. With ``min_retention``, it is also raised if the quality that it is a share of is unknown or not above 0.
    """
    candidates = _searched_in(candidates, task, index_cell)
    view, stored_as = view or View(), _stored_as(candidates, budgets, task)
    judged = [_judged(candidate, budgets, task, stored_as) for candidate in candidates]
    _check_measured(judged, budgets, task)
    judged.sort(key=partial(_rank, budgets=budgets))
    ruled_out = [verdict for verdict in judged if verdict.reason]
    tested = [verdict for verdict in ruled_out if verdict.worth.quality is not None]
    closest = sorted(tested, key=lambda verdict: (len(verdict.misses), sum(miss.change for miss in verdict.misses)))
    choice = Choice(task, budgets, view, stored_as, index_cell, ruled_out=tuple(ruled_out))
    if len(ruled_out) == len(judged):
        return replace(choice, runners_up=tuple(closest[:RUNNERS_UP]), relaxations=_relaxations(tested))
    best, *others = (verdict for verdict in judged if not verdict.reason)
    behind = [replace(verdict, reason=_reason(best, verdict, budgets, task)) for verdict in others]
    rivals = [verdict.candidate for verdict in others]
    return replace(
        choice,
        picked=best.candidate,
        worth=best.worth,
        runners_up=tuple([*behind, *closest][:RUNNERS_UP]),
        warnings=tuple(choice_warnings(best.candidate, rivals, budgets, task, view.sts, stored_as)),
    )


def _searched_in(candidates: Sequence[Candidate], task: Task, index_cell: Cell | None) -> Sequence[Candidate]:
    """The candidates whose queries were searched in an index of ``index_cell``; all if the task is in no index."""
    if not task.in_index:
        if index_cell is not None:
            raise SpecError(f"an index cell is for the quality of queries in an index, not for {task}")
        return candidates
    there = dict.fromkeys(candidate.index_cell for candidate in candidates if candidate.index_cell is not None)
    if index_cell is None or str(index_cell) not in there:
        choose = f"choose one of {', '.join(there)}" if there else f"{TASKS[task].measure} first"
        raise DataError(f"no queries were searched in an index of {index_cell or 'any cell'}: {choose}")
    return [candidate for candidate in candidates if candidate.index_cell == str(index_cell)]


def _judged(candidate: Candidate, budgets: Budgets, task: Task, stored_as: str | None) -> Verdict:
    """A candidate with the limits that it breaks; the reason is empty if it may be picked."""
    own = _worth(candidate, task, stored_as)
    misses = budgets.misses(
        {
            "min_retention": own.retention,
            "min_score": own.quality,
            "max_latency_ms": candidate.latency_ms,
            "min_throughput": candidate.sentences_per_second,
            "max_index_gb": candidate.index_gb(budgets.vectors or 0, budgets.bytes_per_number),
        }
    )
    unknown = f"{TASKS[task].what} not measured" if own.quality is None else ""  # so it is never picked
    return Verdict(candidate, own, misses, unknown or "; ".join(map(str, misses)))


def _worth(candidate: Candidate, task: Task, stored_as: str | None = None) -> Worth:
    """What ``task`` judges a candidate by: its float32 vectors, or its vectors as an index stores them."""
    if stored_as is not None:
        stored = candidate.stored.get(stored_as)
        return Worth(stored.score, stored.retention) if stored else Worth(None, None)
    return Worth(getattr(candidate, TASKS[task].quality), getattr(candidate, TASKS[task].retention))


def _stored_as(candidates: Sequence[Candidate], budgets: Budgets, task: Task) -> str | None:
    """The storage with as many bytes per number as the budget's index, if its scores were measured."""
    storage = STORED.get(budgets.bytes_per_number) if task is Task.STS else None
    known = any(storage in candidate.stored for candidate in candidates)
    return storage if storage and known else None


def _check_measured(judged: Sequence[Verdict], budgets: Budgets, task: Task) -> None:
    """Raise DataError if no quality was measured, or if a retention is asked for and no candidate has one."""
    what, measure = TASKS[task].what, TASKS[task].measure
    if all(verdict.worth.quality is None for verdict in judged):
        raise DataError(f"no {what} was measured: {measure} first")
    if budgets.min_retention is None or any(verdict.worth.retention is not None for verdict in judged):
        return
    if task.in_index:
        raise DataError(
            f"min_retention is a share of the {what} of the index's own queries, which is 0: use min_score instead"
        )
    measured = (_worth(verdict.candidate, task).quality for verdict in judged if verdict.candidate.full)
    full = next((value for value in measured if value is not None), None)
    if full is None:
        raise DataError(
            f"min_retention is a share of the full cell's {what}, which was not measured: {measure} on the deepest "
            "layer at full width too, or use min_score"
        )
    raise DataError(
        f"min_retention is a share of the full cell's {what}, which is {format_number(full)}: use min_score instead"
    )


def _rank(verdict: Verdict, budgets: Budgets) -> tuple[float, ...]:
    """The order of candidates: smaller is better, and a value that was not measured comes last."""
    cell, goals = verdict.candidate.cell, (verdict.worth.quality, verdict.candidate.sentences_per_second)
    first, last = (
        math.inf if value is None else -value for value in (goals[::-1] if budgets.bounds_quality else goals)
    )
    return (first, cell.dim, cell.layer, last)


def _relaxations(ruled_out: Sequence[Verdict]) -> tuple[Relaxation, ...]:
    """For each budget, the smallest change that would let some candidate meet all budgets; smallest of all first."""
    only = [(verdict.misses[0], verdict.candidate) for verdict in ruled_out if len(verdict.misses) == 1]
    found: dict[str, Relaxation] = {}
    for miss, candidate in sorted(only, key=lambda item: item[0].change):
        if miss.needed is not None:
            found.setdefault(miss.budget, Relaxation(miss.budget, miss.limit, miss.needed, candidate))
    return tuple(found.values())


def _reason(picked: Verdict, other: Verdict, budgets: Budgets, task: Task) -> str:
    """Why the pick is better than ``other``, which meets the budgets too."""
    what = "throughput" if budgets.bounds_quality else TASKS[task].what
    own, others = (
        verdict.candidate.sentences_per_second if budgets.bounds_quality else verdict.worth.quality
        for verdict in (picked, other)
    )
    if own is not None and others is None:
        return f"{what} not measured"
    if own is not None and others is not None and own != others:
        return f"{what} {format_number(others)}, the pick has {format_number(own)}"
    cell, best = other.candidate.cell, picked.candidate.cell
    if cell.dim != best.dim:
        return f"no better in {what}, and wider"
    return f"no better in {what}, and " + ("deeper" if cell.layer != best.layer else "the same cell")
