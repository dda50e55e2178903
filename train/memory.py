"""How a training step fits the memory, and one error for memory that runs out, whichever library ran out of it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from m2d_export.errors import TrainingError
from m2d_export.host.machine import memory_bytes

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
IN_DISTILLATION = "in the distillation: free some memory, or choose a smaller --max-tokens"
IN_EVALUATION = "in an evaluation on dev: free some memory, or give a smaller dev split"


ACTIVATIONS = 100  # bytes of a token that a backward pass needs, for each layer and each number of the hidden size
OF_STEP, OF_GROUP = 1 / 3, 1 / 9  # shares of the memory that a step may take, and a group of its texts
FEWEST = 256  # tokens of a group


@dataclass(frozen=True)
class StepMemory:
    """How the texts of a step run: ``budget`` tokens in a group, and ``again`` if activations are computed twice."""

    budget: int
    again: bool


def fit_step(device: str, tokens: int, size: int, budget: int) -> StepMemory:
    """How a step of ``tokens`` fits the memory, in groups of at most ``budget``.

    ``size`` is the number of layers times the hidden size. If the activations of a whole step are too large, memory has
    those of one group at a time, and they are computed once more in the backward pass.
    """
    memory = memory_bytes() if device == "cpu" else torch.cuda.mem_get_info()[1]
    token = ACTIVATIONS * size
    if tokens * token <= OF_STEP * memory:
        return StepMemory(budget, again=False)
    return StepMemory(min(budget, max(FEWEST, int(OF_GROUP * memory / token))), again=True)


def in_a_step(pairs: int, texts: int = 0) -> str:
    """The ``where`` of ``explain_out_of_memory`` for a training step."""
    if texts:
        return f"in a step with {pairs} pairs and {texts} texts: free some memory"
    return f"in a step with {pairs} pairs: choose a smaller --batch-size"


@contextlib.contextmanager
def explain_out_of_memory(device: str, where: str) -> Iterator[None]:
    """Raise TrainingError if memory runs out in the block; ``where`` says where it ran out, and what helps."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error).lower() for words in OUT_OF_MEMORY):
            raise
        elsewhere = ", or --device cpu" if device != "cpu" else ""
        raise TrainingError(f"{device} memory ran out {where}{elsewhere}") from error
