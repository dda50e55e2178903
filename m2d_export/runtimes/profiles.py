"""Cut and pad batches so that they fit an engine's profiles. Each shape needs a CUDA graph, so there are few shapes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from m2d_export.errors import SpecError
from m2d_export.spec import ShapeRange
from m2d_export.text.batches import Batch, IntArray

TOKEN_STEP = 8  # a padded length is a multiple of it, or a limit of a profile


@dataclass(frozen=True)
class Slot:
    """The number of the profile that runs a batch, and the (batch, tokens) shape that the batch is padded to."""

    profile: int
    shape: tuple[int, int]


def fit(rows: int, tokens: int, profiles: Sequence[ShapeRange]) -> Slot:
    """The slot for ``rows`` texts of ``tokens`` tokens, or for a part of these texts if no profile can hold all.

    The slot with the fewest calls is chosen, then the slot with the least padding, then the smallest profile.
    Raises SpecError if every profile is too short.
    """
    slots = []
    for number, profile in enumerate(profiles):
        if tokens <= profile.max[1]:
            wanted = rounded(rows, 1), rounded(tokens, TOKEN_STEP)
            limits = zip(wanted, profile.min, profile.max, strict=True)
            batch, length = (min(max(size, smallest), largest) for size, smallest, largest in limits)
            slots.append((-(-rows // batch), batch * length, profile.max, Slot(number, (batch, length))))
    if not slots:
        offered = ", ".join(map(str, profiles))
        raise SpecError(f"{tokens} tokens are too many for this engine ({offered}): build it with longer --shapes")
    return min(slots, key=lambda slot: slot[:-1])[-1]


def rounded(count: int, step: int) -> int:
    """Round ``count`` up to a multiple of ``step``.

    The step of large counts is an eighth of the next power of two. This adds less than a quarter of ``count``.
    """
    step = max(step, 1 << max(0, (count - 1).bit_length() - 3))
    return -(-count // step) * step


def split(batch: Batch, profiles: Sequence[ShapeRange]) -> Iterator[tuple[Slot, Batch]]:
    """Yield the parts of ``batch`` and their slots. Each part is padded to the shape of its slot.

    The first ``len(part.rows)`` rows of a part are texts of ``batch``, and the other rows are copies. Raises SpecError
    if every profile is too short.
    """
    done, (rows, tokens) = 0, batch.input_ids.shape
    while done < rows:
        slot = fit(rows - done, tokens, profiles)
        taken = slice(done, min(done + slot.shape[0], rows))
        ids, mask = (_padded(array[taken], slot.shape) for array in (batch.input_ids, batch.attention_mask))
        pooling = None if batch.pooling_mask is None else _padded(batch.pooling_mask[taken], slot.shape)
        yield slot, Batch(ids, mask, pooling, batch.rows[taken])
        done = taken.stop


def _padded(array: IntArray, shape: tuple[int, int]) -> IntArray:
    """Pad rows with zeros; the masks exclude the zeros. Missing rows become copies of the first row, a valid text."""
    padded = np.zeros(shape, dtype=np.int64)
    rows, tokens = array.shape
    padded[:rows, :tokens] = array
    padded[rows:] = padded[0]
    return padded
