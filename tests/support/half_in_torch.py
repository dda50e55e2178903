"""Vectors that torch computes in half precision, for the tests of half graphs."""

from collections.abc import Sequence
from pathlib import Path

import torch

from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.text.batches import Batch
from m2d_export.vectors import FloatArray

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
# Smallest cosines to the graph that the gate runs: both round, but not the same values.
ALIKE = {
    "fp16": 0.999995,
    "bf16": 0.9999,
}


def in_half(checkpoint: Path, precision: str, batches: Sequence[Batch]) -> list[list[FloatArray]]:
    """Vectors by layer and batch, computed with autocast."""
    loaded = load_checkpoint(str(checkpoint))
    exits = ExitEncoder(loaded, range(1, loaded.depth + 1)).eval()
    words = loaded.encoder.get_input_embeddings().weight  # autocast leaves them in float32
    words.data = words.data.to(DTYPES[precision]).float()
    for head in exits.heads.values():  # after the pooling everything is float32
        head.forward = torch.autocast("cpu", enabled=False)(head.forward)
    with torch.autocast("cpu", dtype=DTYPES[precision]):
        return [list(vectors) for vectors in zip(*map(exits.vectors, batches), strict=True)]
