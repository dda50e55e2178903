"""Measure how many tokens a batch should have. The number depends on the processor, the runtime and the texts."""

import time
from collections.abc import Sequence
from statistics import median

from m2d_export.runtimes.runtime import Runtime
from m2d_export.spec import TextSpec
from m2d_export.text.batches import batches
from m2d_export.text.tokenizer import TokenIds

SHARES = (0.25, 0.5, 1, 2, 4)  # the budgets to try, as shares of the runtime's default budget
ROUNDS = 5


def budgets_of(runtime: Runtime) -> tuple[int, ...]:
    """The token budgets to try. The smallest is first."""
    return tuple(int(share * runtime.token_budget) for share in SHARES)


def budget_seconds(
    runtime: Runtime, tokens: Sequence[TokenIds], spec: TextSpec, rounds: int = ROUNDS
) -> dict[int, list[float]]:
    """Measure the seconds that ``tokens`` take with each token budget, in each round. The budgets take turns."""
    seconds: dict[int, list[float]] = {budget: [] for budget in budgets_of(runtime)}
    for number in range(rounds + 1):
        for budget, measured in seconds.items():
            started = time.perf_counter()
            for _ in runtime.each(batches(tokens, spec, budget)):
                pass
            if number:  # the first round only warms up
                measured.append(time.perf_counter() - started)
    return seconds


def fastest_budget(runtime: Runtime, tokens: Sequence[TokenIds], spec: TextSpec) -> int:
    """Find the fastest token budget for ``tokens``. It has the smallest median of seconds over the rounds."""
    seconds = budget_seconds(runtime, tokens, spec)
    return min(seconds, key=lambda budget: median(seconds[budget]))
