"""The work that every system on the GPU gets: batches, their operations, and the peak of the card."""

from functools import partial

import numpy as np
import torch

from benchmarks.common import timed
from benchmarks.gpu.systems import Setting
from m2d_export.checkpoints.load import Checkpoint
from m2d_export.text.batches import Batch, pad
from m2d_export.text.tokenizer import TokenIds

SHORTEST = 4  # tokens of a text, among mixed lengths


def inputs(checkpoint: Checkpoint, batch_size: int, tokens: int) -> Batch:
    """Random token ids without padding, the same for every system."""
    generator = np.random.default_rng(batch_size * 1000 + tokens)
    ids = generator.integers(5, checkpoint.encoder.config.vocab_size, (batch_size, tokens), dtype=np.int64)
    mask = np.ones_like(ids)
    return Batch(ids, mask, None if checkpoint.text.include_prompt else mask, range(batch_size))


def mixed(checkpoint: Checkpoint, setting: Setting) -> dict[str, list[Batch]]:
    """Batches of texts of mixed lengths: unsorted, with much padding, and sorted, with little padding.

    A text is half as frequent as one of half its length. A batch is padded to its longest text.
    """
    generator = np.random.default_rng(0)
    longest, size = setting.tokens[-1], setting.batch_sizes[-1]
    lengths = np.exp(generator.uniform(np.log(SHORTEST), np.log(longest + 1), setting.texts)).astype(int)
    vocabulary = checkpoint.encoder.config.vocab_size
    texts = [TokenIds(generator.integers(5, vocabulary, length).tolist()) for length in lengths]
    orders = {"as they come": texts, "sorted": sorted(texts, key=lambda text: -len(text.ids))}
    return {
        order: [
            pad(ordered[start : start + size], checkpoint.text, range(start, min(start + size, len(ordered))))
            for start in range(0, len(ordered), size)
        ]
        for order, ordered in orders.items()
    }


def first_two(batch: Batch) -> Batch:
    """The first two texts of a batch: enough to compare with the reference, which is slow."""
    arrays = (batch.input_ids, batch.attention_mask, batch.pooling_mask)
    return Batch(*(None if array is None else array[:2] for array in arrays), range(2))


def flops(checkpoint: Checkpoint, layer: int, tokens: int) -> float:
    """Floating-point operations of the matmuls of one text."""
    config = checkpoint.encoder.config
    width = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or config.hidden_dim  # DistilBERT has another name for it
    return layer * tokens * (8 * width**2 + 4 * width * inner + 4 * tokens * width)


def peak_flops(setting: Setting) -> float:
    """Floating-point operations a second of large matmuls: the median of the five fastest of many."""
    left = torch.randn(setting.matrix, setting.matrix, device=setting.device, dtype=setting.dtype)
    turn = timed(lambda: left @ left, partial(finish, setting.device))
    seconds = [turn() for _ in range(5 * setting.rounds if setting.device == "cuda" else setting.rounds)]
    return 2 * setting.matrix**3 / float(np.median(sorted(seconds)[:5]))


def finish(device: str) -> None:
    """Wait until the device has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()
