"""What the tests of reports share: results, and the cell that is picked from them."""

from m2d_export.bench.metrics import candidates
from m2d_export.select.budgets import Budgets
from m2d_export.select.rule import select
from tests.support.made_up import DIMS, LAYERS, TOY, failed, latency, score, sweep


def full_sweep():
    toy = [score(layer, dim, p, sts="toy", label=TOY) for p in ("fp32", "int8") for layer in LAYERS for dim in DIMS]
    return [*sweep(), *toy, failed(latency(6, 64, 64))]


def picked(floor, cells=None):
    """The cell that ``select`` picks under a least retention."""
    return select(cells or candidates(full_sweep()), Budgets(min_retention=floor)).picked
