"""What there is to doubt about a choice, in words: ``select`` and the page say the same.

The page is given ``WORDS`` and fills in what depends on its budgets; what depends on the records alone is said here.
"""

from m2d_export.bench.quantities import Candidate
from m2d_export.bench.sts import TOY

WORDS = {
    "toy": "the scores are of the toy set, which compares with nothing: bench with --sts",
    "alone": "the choice rests on STS alone, and retrieval suffers far more from truncation: bench with --texts FILE "
    "or --retrieval FOLDER",
    "layer": "the checkpoint was not trained for an exit at layer {layer}",
    "dim": "the checkpoint was not trained for dim {dim}",
    "noisy": "the times are noisy: their spread is over 20 %; measure again on a quiet machine",
    "untimed": "no throughput was measured: the smallest dim that is good enough was taken",
    "float": "the {what} is of float32 vectors, the index holds {bytes} bytes a value",
    "runner-up": "the runner-up {cell} is {behind} behind, which is within the 95 % interval of such differences: "
    "it may be as good",
    "score": "min_score {limit} lies within the 95 % interval of {cell}'s score, {low} to {high}",
    "retention": "min_retention {limit} lies within the 95 % interval of {cell}'s retention",
}


def doubt(name: str, **values: object) -> str:
    """One of ``WORDS`` with its values."""
    return WORDS[name].format(**values)


def of_set(sts: str | None) -> list[str]:
    """What to doubt about scores on a set."""
    return [doubt("toy")] if sts == TOY else []


def of_cell(candidate: Candidate) -> list[str]:
    """What to doubt about a cell, whatever was measured of it."""
    found = [] if candidate.trained_layer else [doubt("layer", layer=candidate.cell.layer)]
    return found if candidate.trained_dim else [*found, doubt("dim", dim=candidate.cell.dim)]


def of_times(candidate: Candidate) -> list[str]:
    """What to doubt about a candidate's times."""
    return [doubt("noisy")] if candidate.noisy else []
