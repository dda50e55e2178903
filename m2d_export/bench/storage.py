"""Quantize vectors for an index, as sentence-transformers does, and measure their score."""

from enum import StrEnum
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from m2d_export.bench.similarity import spearman
from m2d_export.errors import SpecError
from m2d_export.vectors import cosine

LEVELS = 255  # steps between the smallest and the largest value of a dim


class Storage(StrEnum):
    """The type in which an index stores the numbers of a vector."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    BINARY = "binary"

    def bytes_per_vector(self, dim: int) -> int:
        """Bytes of one vector of ``dim`` numbers, without other data of the index."""
        return -(-dim * BITS[self] // 8)


BITS = {Storage.FP32: 32, Storage.FP16: 16, Storage.INT8: 8, Storage.BINARY: 1}


def quantized(vectors: NDArray[Any], storage: Storage) -> NDArray[Any]:
    """Quantize vectors: (n, dim) float -> (n, dim) float32, float16 or int8; binary -> (n, ceil(dim / 8)) int8.

    ``sentence_transformers.quantize_embeddings`` returns the same, but needs torch. int8 divides the range of each dim,
    from its smallest to its largest value, into 255 equal steps. Binary stores the signs, eight in a byte. Raises
    SpecError for int8 if there are fewer than two vectors: one vector has no range.
    """
    match storage:
        case Storage.FP32:
            return vectors.astype(np.float32)
        case Storage.FP16:
            return vectors.astype(np.float16)
        case Storage.INT8:
            if len(vectors) < 2:
                raise SpecError(f"int8 needs at least 2 vectors to find each dim's range, got {len(vectors)}")
            starts = vectors.min(axis=0).astype(np.float32)
            steps = (vectors.max(axis=0).astype(np.float32) - starts) / LEVELS
            levels = np.floor((vectors - starts) / np.where(steps == 0, 1, steps))
            return np.asarray(np.clip(levels, 0, LEVELS) - 128, dtype=np.int8)
        case Storage.BINARY:
            return (np.packbits(vectors > 0, axis=1).astype(np.int16) - 128).astype(np.int8)
        case _:
            assert_never(storage)


def stored_spearman(
    vectors: NDArray[Any], left: NDArray[np.int64], right: NDArray[np.int64], gold: NDArray[Any], storage: Storage
) -> float | None:
    """Spearman correlation x 100 of quantized vectors on graded pairs; None if it is undefined.

    ``vectors`` (texts, dim) have unit length. ``Pairs`` explains the shapes of the other arrays. The similarity is the
    cosine of the stored numbers. int8 vectors are compared as integers, without their scales, as in the evaluator of
    sentence-transformers. For binary, the similarity is the negated Hamming distance.
    """
    stored = quantized(vectors, storage)
    if storage is Storage.BINARY:
        return spearman(-hamming(stored[left], stored[right]), gold)
    return spearman(cosine(stored[left], stored[right]), gold)


def hamming(left: NDArray[np.int8], right: NDArray[np.int8]) -> NDArray[np.int64]:
    """Count the signs that differ in each pair of rows: (n, bytes), (n, bytes) -> (n,)."""
    return np.asarray(np.unpackbits((left ^ right).view(np.uint8), axis=1).sum(axis=1, dtype=np.int64))
