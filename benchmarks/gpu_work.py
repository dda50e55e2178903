"""The work that `benchmarks/gpu.py` gives to every system, how many operations it is, and how long it takes."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_systems import Setting
from m2d_export.checkpoints.load import Checkpoint
from m2d_export.text.batches import Batch, TokenIds, pad

SHORTEST = 4  # tokens of a text of the mixed ones


def inputs(checkpoint: Checkpoint, batch_size: int, tokens: int) -> Batch:
    """Token ids without padding, the same for every system."""
    generator = np.random.default_rng(batch_size * 1000 + tokens)
    ids = generator.integers(5, checkpoint.encoder.config.vocab_size, (batch_size, tokens), dtype=np.int64)
    mask = np.ones_like(ids)
    return Batch(ids, mask, None if checkpoint.text.include_prompt else mask, range(batch_size))


def mixed(checkpoint: Checkpoint, setting: Setting) -> dict[str, list[Batch]]:
    """Batches of texts of all lengths, each twice as rare as one of half its length: as they come, and sorted.

    Padded to the longest of each batch, the first are mostly padding, the second hardly.
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
    """So many as the reference, on the CPU, need read."""
    arrays = (batch.input_ids, batch.attention_mask, batch.pooling_mask)
    return Batch(*(None if array is None else array[:2] for array in arrays), range(2))


def flops(checkpoint: Checkpoint, layer: int, tokens: int) -> float:
    """Floating-point operations of the matrix products of one text."""
    config = checkpoint.encoder.config
    width = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or config.hidden_dim  # DistilBERT's word for it
    return layer * tokens * (8 * width**2 + 4 * width * inner + 4 * tokens * width)


def peak_flops(setting: Setting) -> float:
    """Floating-point operations a second of the fastest of many large matrix products: the median of the best five."""
    left = torch.randn(setting.matrix, setting.matrix, device=setting.device, dtype=setting.dtype)
    seconds = []
    for _ in range(5 * setting.rounds if setting.device == "cuda" else setting.rounds):
        finish(setting.device)
        started = time.perf_counter()
        left @ left
        finish(setting.device)
        seconds.append(time.perf_counter() - started)
    return 2 * setting.matrix**3 / float(np.median(sorted(seconds)[:5]))


def timed(calls: Sequence[Callable[[], Any]], device: str, rounds: int) -> list[list[float]]:
    """Seconds of each call in each round, calls taking turns, after rounds that do not count."""
    seconds: list[list[float]] = [[] for _ in calls]
    for done in range(-3, rounds):
        for call, measured in zip(calls, seconds, strict=True):
            finish(device)
            started = time.perf_counter()
            call()
            if done >= 0:
                measured.append(time.perf_counter() - started)
    return seconds


def finish(device: str) -> None:
    """Wait until the device has done all it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
