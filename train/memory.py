"""Memory that runs out, said in one line whichever library met its end."""

import contextlib
from collections.abc import Iterator

from m2d_export.errors import TrainingError

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@contextlib.contextmanager
def enough_memory(device: str, batch_size: int) -> Iterator[None]:
    """Turn memory running out in the block into TrainingError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error).lower() for words in OUT_OF_MEMORY):
            raise
        raise TrainingError(
            f"{device} memory ran out with batches of {batch_size} pairs: try a smaller --batch-size"
        ) from error
