"""How a training step fits the memory, and one error for memory that runs out, whichever library ran out of it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from m2d_export.errors import TrainingError
from m2d_export.host.machine import memory_bytes

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
IN_DISTILLATION = "in the distillation: free some memory, or choose a smaller --max-tokens"
IN_EVALUATION = "in an evaluation on dev: free some memory, or give a smaller dev split"
# Bytes that a backward pass needs: for each number of a token's vector in a layer, and on a CPU, where attention is
# written out, for each token that a head of a layer attends to. Measured: 88 in all for all-MiniLM-L6-v2 at 128 tokens.
ACTIVATIONS, ATTENDED = 60, 12
OF_STEP, OF_GROUP = 1 / 3, 1 / 9  # shares of the memory that a step may take, and a group of its texts
FEWEST = 256  # tokens of a group


@dataclass(frozen=True)
class StepMemory:
    """How the texts of a step run: ``budget`` tokens in a group, and ``again`` if activations are computed twice."""

    budget: int
    again: bool


def fit_step(device: str, config: Any, texts: int, longest: int, budget: int) -> StepMemory:
    """How a step of ``texts`` with ``longest`` tokens at most fits the memory, in groups of at most ``budget`` tokens.

    ``config`` is the encoder's. If the activations of a whole step are too large, memory has those of one group at a
    time, and they are computed once more in the backward pass.
    """
    memory = memory_bytes() if device == "cpu" else torch.cuda.mem_get_info()[1]
    attended = ATTENDED * int(config.num_attention_heads) * longest if device == "cpu" else 0
    token = int(config.num_hidden_layers) * (ACTIVATIONS * int(config.hidden_size) + attended)
    if texts * longest * token <= OF_STEP * memory:
        return StepMemory(budget, again=False)
    return StepMemory(min(budget, max(FEWEST, int(OF_GROUP * memory / token))), again=True)


def in_a_step(pairs: int, texts: int = 0) -> str:
    """The ``where`` of ``explain_out_of_memory`` for a training step."""
    if texts:
        return f"in a step with {pairs} pairs and {texts} texts: choose a smaller --batch-size, or free some memory"
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
