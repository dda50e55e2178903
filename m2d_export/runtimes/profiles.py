"""Batches made to fit an engine's profiles, in few shapes, so that what is captured of one is used again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from m2d_export.errors import SpecError
from m2d_export.spec import ShapeRange
from m2d_export.text.batches import Batch, IntArray

LEAST_TOKENS = 8  # lengths closer than that share a shape


@dataclass(frozen=True)
class Place:
    """The profile that runs a batch, by its number, and the (batch, tokens) that it is padded to."""

    profile: int
    shape: tuple[int, int]


def fit(rows: int, tokens: int, profiles: Sequence[ShapeRange]) -> Place:
    """Where ``rows`` texts of ``tokens`` tokens run, or as many of them as a profile holds.

    In the fewest calls, and among those in the narrowest profile. Raises SpecError where no profile is as long.
    """
    places = []
    for number, profile in enumerate(profiles):
        if tokens <= profile.max[1]:
            wanted = rounded(rows, 1), rounded(tokens, LEAST_TOKENS)
            bounds = zip(wanted, profile.min, profile.max, strict=True)
            batch, length = (min(max(size, least), most) for size, least, most in bounds)
            places.append((-(-rows // batch), batch * length, profile.max, Place(number, (batch, length))))
    if not places:
        offered = ", ".join(map(str, profiles))
        raise SpecError(f"{tokens} tokens are more than this engine takes ({offered}): build it with other --shapes")
    return min(places, key=lambda place: place[:-1])[-1]


def rounded(count: int, step: int) -> int:
    """``count`` up to a multiple of ``step``, and of an eighth of the power of two above it: at most a quarter more."""
    step = max(step, 1 << max(0, (count - 1).bit_length() - 3))
    return -(-count // step) * step


def parts(batch: Batch, profiles: Sequence[ShapeRange]) -> Iterator[tuple[Place, Batch]]:
    """``batch`` in parts that a profile holds, each padded to its place; ``rows`` of a part names the real ones."""
    done, (rows, tokens) = 0, batch.input_ids.shape
    while done < rows:
        place = fit(rows - done, tokens, profiles)
        taken = slice(done, min(done + place.shape[0], rows))
        ids, mask = (_padded(array[taken], place.shape) for array in (batch.input_ids, batch.attention_mask))
        pooling = None if batch.pooling_mask is None else _padded(batch.pooling_mask[taken], place.shape)
        yield place, Batch(ids, mask, pooling, batch.rows[taken])
        done = taken.stop


def _padded(array: IntArray, shape: tuple[int, int]) -> IntArray:
    """Zeros behind each row, which the masks leave out; rows too many repeat the first, so that all are texts."""
    padded = np.zeros(shape, dtype=np.int64)
    rows, tokens = array.shape
    padded[:rows, :tokens] = array
    padded[rows:] = padded[0]
    return padded
