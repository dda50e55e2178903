"""One error for memory that runs out, whichever library ran out of it."""

import contextlib
from collections.abc import Iterator

from m2d_export.errors import TrainingError

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
IN_DISTILLATION = "in the distillation: free some memory, or choose a smaller --max-tokens"
IN_EVALUATION = "in an evaluation on dev: free some memory, or give a smaller dev split"


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
