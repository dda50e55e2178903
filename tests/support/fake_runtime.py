"""A runtime without a model, to test the code that calls runtimes."""

import time

import numpy as np

from m2d_export.errors import SpecError
from m2d_export.runtimes.runtime import CLOSED, Runtime
from m2d_export.text.batches import Batch
from m2d_export.vectors import FloatArray


class FakeRuntime(Runtime):
    """Means of fixed random token vectors, after a sleep of ``seconds`` per batch.

    A text's vector does not depend on its batch, and texts that share tokens have similar vectors.
    """

    name = "fake"
    provider = "fake"

    def __init__(self, width: int = 32, seconds: float = 0.0, vocabulary: int = 1 << 17) -> None:
        self._table = np.random.default_rng(0).standard_normal((vocabulary, width)).astype(np.float32)
        self._seconds = seconds
        self._closed = False

    def _vectors(self, batch: Batch) -> FloatArray:
        if self._closed:
            raise SpecError(CLOSED)
        if self._seconds:
            time.sleep(self._seconds)
        mask = batch.attention_mask if batch.pooling_mask is None else batch.pooling_mask
        weights = mask[..., None].astype(np.float32)
        sums = (self._table[batch.input_ids] * weights).sum(axis=1)
        return np.asarray(sums / np.maximum(weights.sum(axis=1), 1e-9), dtype=np.float32)

    def _close(self) -> None:
        """Refuse further calls, as real runtimes do; there is nothing to free."""
        self._closed = True
