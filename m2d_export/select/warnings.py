"""The warnings of a choice: ``select`` prints them, and the page of the report shows them.

The page gets ``WORDS``, and the warnings that depend on the records only. It makes the other warnings from its own
budgets.
"""

from collections.abc import Sequence

from m2d_export.bench.sts import TOY
from m2d_export.bench.values import Candidate
from m2d_export.select.budgets import Budgets
from m2d_export.select.tasks import TASKS, Task
from m2d_export.spec import BYTES_PER_FLOAT

WORDS = {
    "toy": "the scores are of the toy set and cannot be compared with others: bench with --sts FILE",
    "sts-only": "the choice rests on STS only, and truncation costs retrieval much more: bench with --texts FILE "
    "or --retrieval FOLDER",
    "layer": "the checkpoint was not trained for an exit at layer {layer}",
    "dim": "the checkpoint was not trained for dim {dim}",
    "noisy": "the times are noisy (their spread is over 20 %): measure again on a quiet machine",
    "untimed": "no throughput was measured: the smallest dim that is good enough was taken",
    "float": "the {what} was measured with float32 vectors, but the index stores {bytes} bytes a value",
    "runner-up": "the runner-up {cell} is {behind} behind, within the 95 % interval of the difference: "
    "it may be as good",
    "bm25": "BM25, which needs no model, finds more here: nDCG@10 {bm25}, the pick {own}",
    "score": "min_score {limit} lies within the 95 % interval of {cell}'s score, {low} to {high}",
    "retention": "min_retention {limit} lies within the 95 % interval of {cell}'s retention",
}


def warning(name: str, **values: object) -> str:
    """One of ``WORDS`` with its values filled in."""
    return WORDS[name].format(**values)


def set_warnings(sts: str | None) -> list[str]:
    """Warnings about every score on a set of pairs."""
    return [warning("toy")] if sts == TOY else []


def cell_warnings(candidate: Candidate) -> list[str]:
    """Warnings about every result of a cell."""
    found = [] if candidate.trained_layer else [warning("layer", layer=candidate.cell.layer)]
    return found if candidate.trained_dim else [*found, warning("dim", dim=candidate.cell.dim)]


def time_warnings(candidate: Candidate) -> list[str]:
    """Warnings about the times of a candidate."""
    return [warning("noisy")] if candidate.noisy else []


def bm25_warnings(candidate: Candidate, task: Task) -> list[str]:
    """A warning if a search with words finds more than a candidate, whatever it was judged by."""
    own = candidate.index_ndcg if task.in_index else candidate.ndcg
    if own is None or candidate.bm25 is None or own >= candidate.bm25:
        return []
    return [warning("bm25", bm25=f"{candidate.bm25:.1f}", own=f"{own:.1f}")]


def choice_warnings(
    picked: Candidate, others: Sequence[Candidate], budgets: Budgets, task: Task, sts: str | None, stored_as: str | None
) -> list[str]:
    """Warnings about the choice of ``picked``, not of ``others``; the most general warning comes first."""
    found = set_warnings(sts) if task is Task.STS else []
    if task is Task.STS and picked.ndcg is None and picked.agreement is None:
        found.append(warning("sts-only"))
    found += bm25_warnings(picked, task)
    found += [*cell_warnings(picked), *time_warnings(picked)]
    if budgets.bounds_quality and picked.sentences_per_second is None:
        found.append(warning("untimed"))
    if budgets.bytes_per_number < BYTES_PER_FLOAT and stored_as is None:
        found.append(warning("float", what=TASKS[task].what, bytes=f"{budgets.bytes_per_number:g}"))
    if task is Task.STS and stored_as is None:  # because the intervals are those of float32 vectors
        found += _interval_warnings(picked, others, budgets)
    return found


def _interval_warnings(picked: Candidate, others: Sequence[Candidate], budgets: Budgets) -> list[str]:
    """Warnings about differences that are smaller than the uncertainty of the scores."""
    if picked.interval is None or picked.score is None:
        return []
    low, high = picked.interval
    if not budgets.bounds_quality:
        rival = next((other for other in others if other.cell != picked.cell), None)
        if rival is None or rival.score is None or not _may_be_equal(picked, rival):
            return []
        return [warning("runner-up", cell=rival.cell, behind=f"{picked.score - rival.score:.2f}")]
    if budgets.min_score is not None and low < budgets.min_score:
        limit = f"{budgets.min_score:g}"
        return [warning("score", limit=limit, cell=picked.cell, low=f"{low:.1f}", high=f"{high:.1f}")]
    if budgets.min_retention is not None and picked.retention and picked.difference_interval is not None:
        full = picked.score / picked.retention
        if 1 + picked.difference_interval[0] / full < budgets.min_retention:
            return [warning("retention", limit=f"{budgets.min_retention:g}", cell=picked.cell)]
    return []


def _may_be_equal(picked: Candidate, rival: Candidate) -> bool:
    """Whether the intervals of two cells overlap.

    Differences to the full cell use the same resamples, so their intervals are narrower than those of the scores.
    The difference of the full cell is 0: a comparison with it is a paired test.
    """
    pairs = ((picked.difference_interval, rival.difference_interval), (picked.interval, rival.interval))
    for one, other in pairs:
        if one is not None and other is not None:
            return one[0] <= other[1] and other[0] <= one[1]
    return False
