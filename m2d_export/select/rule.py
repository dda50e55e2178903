"""``select``: budgets in, the cell to ship out, why the others lost, and what to doubt about the choice."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from m2d_export.bench.quantities import Candidate, View
from m2d_export.bench.storage import BITS, Storage
from m2d_export.errors import DataError
from m2d_export.select.budgets import LIMITS, Budgets, Miss, figure
from m2d_export.select.warnings import doubt, of_cell, of_set, of_times
from m2d_export.spec import BYTES_PER_FLOAT

RUNNERS_UP = 3


class Task(StrEnum):
    """Which measurement says how good a cell is."""

    STS = "sts"
    RETRIEVAL = "retrieval"
    AGREEMENT = "agreement"


QUALITY = {Task.STS: "score", Task.RETRIEVAL: "ndcg", Task.AGREEMENT: "agreement"}
RETENTION = {Task.STS: "retention", Task.RETRIEVAL: "ndcg_retention", Task.AGREEMENT: "agreement_retention"}
MEASURE = {Task.STS: "--sts", Task.RETRIEVAL: "--retrieval FOLDER", Task.AGREEMENT: "--texts FILE"}
STORED = {BITS[storage] / 8: str(storage) for storage in Storage if storage is not Storage.FP32}


@dataclass(frozen=True)
class Worth:
    """What a task judges a candidate by: its quality x 100, and what share of the full cell's that is."""

    quality: float | None
    retention: float | None


@dataclass(frozen=True)
class Verdict:
    """Why a candidate was not picked: the budgets it misses, or, where it meets all, what the pick has over it."""

    candidate: Candidate
    worth: Worth
    misses: tuple[Miss, ...]
    reason: str


@dataclass(frozen=True)
class Relaxation:
    """A budget which, set from ``limit`` to ``needed`` and no other touched, lets ``candidate`` through."""

    budget: str
    limit: float
    needed: float
    candidate: Candidate

    def __str__(self) -> str:
        return f"{self.budget} from {figure(self.limit)} to {figure(self.needed)} would admit {self.candidate.cell}"


@dataclass(frozen=True)
class Choice:
    """What ``select`` decided; ``picked`` and its ``worth`` are None where nothing meets the budgets.

    ``stored_as`` names the storage whose score was judged, None for the vectors as they are.
    ``relaxations`` is then each single budget that could give way, the smallest change first; it is empty where it
    takes more than one. ``runners_up`` are the three that come next, those that meet every budget before the others.
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
        """What is bounded, and was measured of no candidate that was ruled out."""
        missed = [miss for verdict in self.ruled_out for miss in verdict.misses]
        known = {miss.budget for miss in missed if miss.value is not None}
        return tuple(dict.fromkeys(LIMITS[miss.budget][0] for miss in missed if miss.budget not in known))


def select(
    candidates: Sequence[Candidate], budgets: Budgets, task: Task = Task.STS, view: View | None = None
) -> Choice:
    """Pick, among the candidates that meet every budget, the fastest if a quality is asked for, else the best.

    Ties go to the smaller dim, then to the smaller layer. ``candidates`` are as ``figures.candidates`` orders them,
    seen through ``view``. An index of fewer bits is judged by the score that vectors stored so keep, where that was
    measured. Raises DataError where nothing was measured for ``task``, or nothing that a retention is a share of.
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
        if own.quality is None:  # a cell that nobody tested is never picked, whatever the budgets
            ruled_out.append(Verdict(candidate, own, misses, f"{QUALITY[task]} not measured"))
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

    what = "throughput" if budgets.bounds_quality else QUALITY[task]
    behind = [Verdict(c, worths[id(c)], (), _reason(picked, c, judged(picked), judged(c), what)) for c in others]
    return replace(
        choice,
        picked=picked,
        worth=worths[id(picked)],
        runners_up=tuple([*behind, *closest][:RUNNERS_UP]),
        warnings=tuple(_warnings(picked, others, choice)),
    )


def worth(candidate: Candidate, task: Task, stored_as: str | None = None) -> Worth:
    """What ``task`` judges a candidate by, of its vectors as they are or ``stored_as`` an index keeps them."""
    if stored_as is not None:
        kept = candidate.kept.get(stored_as)
        return Worth(kept.score, kept.retention) if kept else Worth(None, None)
    return Worth(getattr(candidate, QUALITY[task]), getattr(candidate, RETENTION[task]))


def _stored_as(candidates: Sequence[Candidate], budgets: Budgets, task: Task) -> str | None:
    """The storage of the bounded index, where the scores it keeps were measured."""
    storage = STORED.get(budgets.index_bytes) if task is Task.STS else None
    known = any(storage in candidate.kept for candidate in candidates)
    return storage if storage and known else None


def _check_measured(candidates: Sequence[Candidate], worths: Sequence[Worth], budgets: Budgets, task: Task) -> None:
    """Refuse to choose by a quality that nobody measured, or by a share of one."""
    what = QUALITY[task]
    if all(own.quality is None for own in worths):
        raise DataError(f"no {what} was measured: run m2d-export bench with {MEASURE[task]} first")
    if budgets.min_retention is None or any(own.retention is not None for own in worths):
        return
    full = next((value for c in candidates if c.full and (value := worth(c, task).quality) is not None), None)
    if full is None:
        raise DataError(
            f"min_retention is a share of the full cell's {what}, which was not measured: run m2d-export bench with "
            f"{MEASURE[task]} on the deepest layer at full width too, or ask for min_score"
        )
    raise DataError(f"min_retention is a share of the full cell's {what}, which is {figure(full)}: ask for min_score")


def _rank(candidate: Candidate, own: Worth, budgets: Budgets) -> tuple[float, ...]:
    """Smaller is better; what was not measured comes last."""
    value, speed = own.quality, candidate.sentences_per_second
    best = -math.inf if value is None else value
    fastest = -math.inf if speed is None else speed
    first, last = (fastest, best) if budgets.bounds_quality else (best, fastest)
    return (-first, candidate.cell.dim, candidate.cell.layer, -last)


def _values(candidate: Candidate, own: Worth, budgets: Budgets) -> dict[str, float | None]:
    """What each budget bounds, of this candidate."""
    return {
        "min_retention": own.retention,
        "min_score": own.quality,
        "max_latency_ms": candidate.latency_ms,
        "min_throughput": candidate.sentences_per_second,
        "max_index_gb": candidate.index_gb(budgets.vectors or 0, budgets.index_bytes),
    }


def _relaxations(ruled_out: Sequence[Verdict]) -> tuple[Relaxation, ...]:
    """The least change of each budget that alone stands against some candidate, the smallest change first."""
    alone = [(verdict.misses[0], verdict.candidate) for verdict in ruled_out if len(verdict.misses) == 1]
    found: dict[str, Relaxation] = {}
    for miss, candidate in sorted(alone, key=lambda item: item[0].change):
        if miss.needed is not None:
            found.setdefault(miss.budget, Relaxation(miss.budget, miss.limit, miss.needed, candidate))
    return tuple(found.values())


def _reason(picked: Candidate, other: Candidate, mine: float | None, others: float | None, what: str) -> str:
    """What the pick has over another that meets the budgets, both ranked by ``what``."""
    if mine is not None and others is None:
        return f"{what} not measured"
    if mine is not None and others is not None and mine != others:
        return f"{what} {figure(others)}, the pick has {figure(mine)}"
    if other.cell.dim != picked.cell.dim:
        return f"no better in {what}, and wider"
    return f"no better in {what}, and " + ("deeper" if other.cell.layer != picked.cell.layer else "the same cell")


def _warnings(picked: Candidate, others: Sequence[Candidate], choice: Choice) -> list[str]:
    """What to doubt, from what all scores share to what is of this choice alone."""
    task, budgets = choice.task, choice.budgets
    found = of_set(choice.view.sts) if task is Task.STS else []
    if task is Task.STS and picked.ndcg is None and picked.agreement is None:
        found.append(doubt("alone"))
    found += [*of_cell(picked), *of_times(picked)]
    if budgets.bounds_quality and picked.sentences_per_second is None:
        found.append(doubt("untimed"))
    if budgets.index_bytes < BYTES_PER_FLOAT and choice.stored_as is None:
        found.append(doubt("float", what=QUALITY[task], bytes=f"{budgets.index_bytes:g}"))
    if task is Task.STS and choice.stored_as is None:  # intervals are of the vectors as they are
        found += _unsettled(picked, others, budgets)
    return found


def _unsettled(picked: Candidate, others: Sequence[Candidate], budgets: Budgets) -> list[str]:
    """Differences that lie within the interval of the score they rest on."""
    if picked.interval is None or picked.score is None:
        return []
    low, high = picked.interval
    if not budgets.bounds_quality:
        rival = next((other for other in others if other.cell != picked.cell), None)
        if rival is None or rival.score is None or not _overlap(picked, rival):
            return []
        return [doubt("runner-up", cell=rival.cell, behind=f"{picked.score - rival.score:.2f}")]
    if budgets.min_score is not None and low < budgets.min_score:
        limit = f"{budgets.min_score:g}"
        return [doubt("score", limit=limit, cell=picked.cell, low=f"{low:.1f}", high=f"{high:.1f}")]
    if budgets.min_retention is not None and picked.retention and picked.difference_interval is not None:
        full = picked.score / picked.retention
        if 1 + picked.difference_interval[0] / full < budgets.min_retention:
            return [doubt("retention", limit=f"{budgets.min_retention:g}", cell=picked.cell)]
    return []


def _overlap(picked: Candidate, rival: Candidate) -> bool:
    """Whether the two cannot be told apart.

    Differences to the full cell are on the same resamples, so they tell more than the scores' own intervals; where
    one of the two is the full cell, whose difference is 0, this is the paired test itself.
    """
    pairs = ((picked.difference_interval, rival.difference_interval), (picked.interval, rival.interval))
    for mine, others in pairs:
        if mine is not None and others is not None:
            return mine[0] <= others[1] and others[0] <= mine[1]
    return False
