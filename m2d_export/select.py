"""``select``: budgets in, the cell to ship out, why the others lost, and what to doubt about the choice."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from m2d_export.bench.quantities import Candidate
from m2d_export.bench.sts import TOY
from m2d_export.budgets import BYTES_PER_FLOAT, Budgets, Miss, figure
from m2d_export.errors import DataError

RUNNERS_UP = 3


class Task(StrEnum):
    """Which measurement says how good a cell is."""

    STS = "sts"
    RETRIEVAL = "retrieval"
    AGREEMENT = "agreement"


QUALITY = {Task.STS: "score", Task.RETRIEVAL: "ndcg", Task.AGREEMENT: "agreement"}
MEASURE = {Task.STS: "--sts", Task.RETRIEVAL: "--retrieval FOLDER", Task.AGREEMENT: "--texts FILE"}


@dataclass(frozen=True)
class Verdict:
    """Why a candidate was not picked: the budgets it misses, or, where it meets all, what the pick has over it."""

    candidate: Candidate
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
    """What ``select`` decided; ``picked`` is None where nothing meets the budgets.

    ``relaxations`` is then each single budget that could give way, the smallest change first; it is empty where it
    takes more than one. ``runners_up`` are the three that come next, those that meet every budget before the others.
    """

    task: Task
    budgets: Budgets
    picked: Candidate | None
    runners_up: tuple[Verdict, ...]
    ruled_out: tuple[Verdict, ...]
    warnings: tuple[str, ...]
    relaxations: tuple[Relaxation, ...]


def quality(candidate: Candidate, task: Task) -> float | None:
    """The number that ``task`` judges a candidate by, x 100: score, nDCG@10 or agreement."""
    value: float | None = getattr(candidate, QUALITY[task])
    return value


def select(
    candidates: Sequence[Candidate], budgets: Budgets, task: Task = Task.STS, *, sts: str | None = None
) -> Choice:
    """Pick, among the candidates that meet every budget, the fastest if a quality is asked for, else the best.

    Ties go to the smaller dim, then to the smaller layer. ``candidates`` are as ``figures.candidates`` orders them;
    ``sts`` names the set of the scores, for a warning. Raises DataError where nothing was measured for ``task``.
    """
    full = _full_quality(candidates, task)
    fitting: list[Candidate] = []
    ruled_out: list[Verdict] = []
    for candidate in sorted(candidates, key=lambda candidate: _rank(candidate, budgets, task)):
        misses = budgets.misses(_values(candidate, budgets, task, full))
        if quality(candidate, task) is None:  # a cell that nobody tested is never picked, whatever the budgets
            ruled_out.append(Verdict(candidate, misses, f"{QUALITY[task]} not measured"))
        elif misses:
            ruled_out.append(Verdict(candidate, misses, "; ".join(map(str, misses))))
        else:
            fitting.append(candidate)
    behind = [Verdict(other, (), _reason(fitting[0], other, budgets, task)) for other in fitting[1:]]
    tested = [verdict for verdict in ruled_out if quality(verdict.candidate, task) is not None]
    behind += sorted(tested, key=lambda verdict: len(verdict.misses))
    return Choice(
        task=task,
        budgets=budgets,
        picked=fitting[0] if fitting else None,
        runners_up=tuple(behind[:RUNNERS_UP]),
        ruled_out=tuple(ruled_out),
        warnings=tuple(_warnings(fitting[0], fitting[1:], budgets, task, sts)) if fitting else (),
        relaxations=() if fitting else _relaxations(tested),
    )


def _full_quality(candidates: Sequence[Candidate], task: Task) -> float:
    """What retention is a share of: the widest cell of the deepest layer in the most exact setup, which comes first."""
    known = [(c.setup, c.cell, value) for c in candidates if (value := quality(c, task)) is not None]
    if not known:
        raise DataError(f"no {QUALITY[task]} was measured: run m2d-export bench with {MEASURE[task]} first")
    if task is Task.AGREEMENT:
        return 100.0  # the full cell's with itself
    return max((cell, value) for setup, cell, value in known if setup == known[0][0])[1]


def _rank(candidate: Candidate, budgets: Budgets, task: Task) -> tuple[float, ...]:
    """Smaller is better; what was not measured comes last."""
    value, speed = quality(candidate, task), candidate.sentences_per_second
    best = -math.inf if value is None else value
    fastest = -math.inf if speed is None else speed
    first, last = (fastest, best) if budgets.bounds_quality else (best, fastest)
    return (-first, candidate.cell.dim, candidate.cell.layer, -last)


def _values(candidate: Candidate, budgets: Budgets, task: Task, full: float) -> dict[str, float | None]:
    """What each budget bounds, of this candidate."""
    value = quality(candidate, task)
    share = value / full if value is not None and full > 0 else None
    return {
        # The score's retention is the one in every table; nDCG's and agreement's stand nowhere else.
        "min_retention": candidate.retention if task is Task.STS else share,
        "min_score": value,
        "max_latency_ms": candidate.latency_ms,
        "min_throughput": candidate.sentences_per_second,
        "max_index_gb": candidate.index_gb(budgets.vectors or 0, budgets.bytes_per_value),
    }


def _relaxations(ruled_out: Sequence[Verdict]) -> tuple[Relaxation, ...]:
    """The least change of each budget that alone stands against some candidate, the smallest change first."""
    alone = [(verdict.misses[0], verdict.candidate) for verdict in ruled_out if len(verdict.misses) == 1]
    found: dict[str, Relaxation] = {}
    for miss, candidate in sorted(alone, key=lambda item: item[0].change):
        if miss.needed is not None:
            found.setdefault(miss.budget, Relaxation(miss.budget, miss.limit, miss.needed, candidate))
    return tuple(found.values())


def _reason(picked: Candidate, other: Candidate, budgets: Budgets, task: Task) -> str:
    quantity = (lambda c: c.sentences_per_second) if budgets.bounds_quality else (lambda c: quality(c, task))
    what = "throughput" if budgets.bounds_quality else QUALITY[task]
    mine, others = quantity(picked), quantity(other)
    if mine is not None and others is None:
        return f"{what} not measured"
    if mine is not None and others is not None and mine != others:
        return f"{what} {figure(others)}, the pick has {figure(mine)}"
    if other.cell.dim != picked.cell.dim:
        return f"no better in {what}, and wider"
    return f"no better in {what}, and " + ("deeper" if other.cell.layer != picked.cell.layer else "the same cell")


def _warnings(
    picked: Candidate, others: Sequence[Candidate], budgets: Budgets, task: Task, sts: str | None
) -> list[str]:
    found = []
    if task is Task.STS and sts == TOY:
        found.append("the scores are of the toy set, which compares with nothing: bench with --sts")
    if task is Task.STS and picked.ndcg is None and picked.agreement is None:
        found.append(
            "the choice rests on STS alone, and retrieval suffers far more from truncation: bench with --texts FILE or "
            "--retrieval FOLDER"
        )
    if not picked.trained_layer:
        found.append(f"the checkpoint was not trained for an exit at layer {picked.cell.layer}")
    if not picked.trained_dim:
        found.append(f"the checkpoint was not trained for dim {picked.cell.dim}")
    if picked.noisy:
        found.append("the latency is noisy: its spread is over 20 %; measure again on a quiet machine")
    if budgets.bounds_quality and picked.sentences_per_second is None:
        found.append("no throughput was measured: the smallest dim that is good enough was taken")
    if budgets.max_index_gb is not None and budgets.bytes_per_value < BYTES_PER_FLOAT:
        found.append(
            f"the {QUALITY[task]} is of float32 vectors, the index holds {budgets.bytes_per_value:g} bytes a value"
        )
    if task is Task.STS:
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
        return [
            f"the runner-up {rival.cell} is {picked.score - rival.score:.2f} behind, which is within the 95 % interval "
            "of such differences: it may be as good"
        ]
    if budgets.min_score is not None and low < budgets.min_score:
        bound = f"min_score {budgets.min_score:g}"
        return [f"{bound} lies within the 95 % interval of {picked.cell}'s score, {low:.1f} to {high:.1f}"]
    if budgets.min_retention is not None and picked.retention and picked.difference_interval is not None:
        full = picked.score / picked.retention
        if 1 + picked.difference_interval[0] / full < budgets.min_retention:
            bound = f"min_retention {budgets.min_retention:g}"
            return [f"{bound} lies within the 95 % interval of {picked.cell}'s retention"]
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
