"""The type in which a training computes."""

import contextlib
from collections.abc import Iterator
from functools import cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from m2d_export.host.machine import flags

# Instructions for products of bfloat16. With AVX-512 BF16, a product of 4,096 x 384 x 1,536 took 0.21 of the time.
BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}


@cache
def multiplies_bfloat16(device: str) -> bool:
    """Whether ``device`` multiplies matrices of bfloat16 faster than those of float32: GPUs do, and some CPUs."""
    return device == "cuda" or not BFLOAT16_FLAGS.isdisjoint(flags())


@contextlib.contextmanager
def fast_arithmetic(device: str) -> Iterator[None]:
    """Compute in bfloat16 where that is faster, from float32 weights.

    On a CPU, attention is written out: the backward pass of PyTorch's fused attention takes longer there.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.autocast(device, torch.bfloat16, enabled=multiplies_bfloat16(device)))
        if device == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
