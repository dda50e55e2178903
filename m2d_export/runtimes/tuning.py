"""How many tokens a batch should hold on this machine: measured, for it differs with processor, runtime and texts."""

import time
from collections.abc import Sequence
from statistics import median

from m2d_export.runtimes.runtime import Runtime
from m2d_export.spec import TextSpec
from m2d_export.text.batches import TokenIds, batches

SHARES = (0.25, 0.5, 1, 2, 4)  # of the budget that suits a runtime where nothing was measured
ROUNDS = 5


def budgets_of(runtime: Runtime) -> tuple[int, ...]:
    """The token budgets to try, ascending."""
    return tuple(int(share * runtime.token_budget) for share in SHARES)


def budget_seconds(
    runtime: Runtime, tokens: Sequence[TokenIds], spec: TextSpec, rounds: int = ROUNDS
) -> dict[int, list[float]]:
    """Seconds that ``tokens`` take in each round, by the token budget of their batches; budgets take turns."""
    seconds: dict[int, list[float]] = {budget: [] for budget in budgets_of(runtime)}
    for number in range(rounds + 1):
        for budget, measured in seconds.items():
            started = time.perf_counter()
            for _ in runtime.each(batches(tokens, spec, budget)):
                pass
            if number:  # the first round meets new shapes
                measured.append(time.perf_counter() - started)
    return seconds


def fastest_budget(runtime: Runtime, tokens: Sequence[TokenIds], spec: TextSpec) -> int:
    """The token budget in whose batches ``tokens`` took the least, by the median round."""
    seconds = budget_seconds(runtime, tokens, spec)
    return min(seconds, key=lambda budget: median(seconds[budget]))
