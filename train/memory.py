"""Memory that runs out, said in one line whichever library met its end."""

import contextlib
from collections.abc import Iterator

from m2d_export.errors import TrainingError

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
SCORING = "while dev was scored: free some of it, or give a smaller dev split"


def stepping(batch_size: int) -> str:
    """What runs out of memory in a training step, in words."""
    return f"with batches of {batch_size} pairs: try a smaller --batch-size"


@contextlib.contextmanager
def enough_memory(device: str, doing: str) -> Iterator[None]:
    """Turn memory running out in the block into TrainingError; ``doing`` says at what, and what may help."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error).lower() for words in OUT_OF_MEMORY):
            raise
        raise TrainingError(f"{device} memory ran out {doing}") from error
