"""Texts packed without padding, for sentence-transformers and torch's own kernel.

sentence-transformers packs texts if flash attention is installed. torch has such a kernel too
(``torch.nn.attention.varlen``). transformers does not know it, so it is registered here.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface

from m2d_export.text.batches import Batch

VARLEN = "torch_varlen"
PACKED = {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"}


def attend(
    module: object,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within each text: (1, heads, tokens of all, width) -> (1, tokens of all, heads, width)."""
    from torch.nn.attention.varlen import varlen_attn  # some versions of torch lack it

    window = (-1, -1) if sliding_window is None else (sliding_window - 1, sliding_window - 1)  # as in transformers
    packed = [each.transpose(1, 2).squeeze(0) for each in (query, key, value)]
    lengths = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
    output = varlen_attn(*packed, *lengths, scale=scaling, window_size=window)
    return output.unsqueeze(0), None  # type: ignore[union-attr]


AttentionInterface.register(VARLEN, attend)


def features_of(batch: Batch, first_position: int) -> dict[str, Any]:
    """The inputs that sentence-transformers' preprocessing makes for packed texts, on the host."""
    real = batch.attention_mask.astype(bool)
    lengths = real.sum(axis=1)
    places = np.broadcast_to(np.arange(real.shape[1]), real.shape)
    starts = torch.from_numpy(np.append(0, lengths.cumsum()).astype(np.int32))
    arrays = {
        "input_ids": batch.input_ids[real],
        "position_ids": places[real] + first_position,
        "seq_idx": np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
    }
    longest = int(lengths.max())
    return {
        **{name: torch.from_numpy(array[None]) for name, array in arrays.items()},
        **{"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": longest, "max_length_k": longest},
    }


def moved(features: dict[str, Any], device: str) -> dict[str, Any]:
    """The inputs on the device of the model."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in features.items()}
