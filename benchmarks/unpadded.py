"""Texts one after the other without a token of padding, for sentence-transformers and for torch's own attention.

sentence-transformers packs texts so where transformers finds flash attention installed. torch brings such a kernel
itself (`torch.nn.attention.varlen`), which transformers does not know: here it is one more of its attentions.
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
    """Attention of each text to itself alone: (1, heads, tokens of all, width) -> (1, tokens of all, heads, width)."""
    from torch.nn.attention.varlen import varlen_attn  # not in every torch that this package takes

    window = (-1, -1) if sliding_window is None else (sliding_window - 1, sliding_window - 1)  # as transformers has it
    packed = [each.transpose(1, 2).squeeze(0) for each in (query, key, value)]
    lengths = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
    output = varlen_attn(*packed, *lengths, scale=scaling, window_size=window)
    return output.unsqueeze(0), None  # type: ignore[union-attr]


AttentionInterface.register(VARLEN, attend)


def features_of(batch: Batch, first_position: int) -> dict[str, Any]:
    """What sentence-transformers' own preprocessing makes of these texts, padding left out, on the host."""
    kept = batch.attention_mask.astype(bool)
    lengths = kept.sum(axis=1)
    places = np.broadcast_to(np.arange(kept.shape[1]), kept.shape)
    starts = torch.from_numpy(np.append(0, lengths.cumsum()).astype(np.int32))
    arrays = {
        "input_ids": batch.input_ids[kept],
        "position_ids": places[kept] + first_position,
        "seq_idx": np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
    }
    longest = int(lengths.max())
    return {
        **{name: torch.from_numpy(array[None]) for name, array in arrays.items()},
        **{"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": longest, "max_length_k": longest},
    }


def moved(features: dict[str, Any], device: str) -> dict[str, Any]:
    """Features where the model is."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in features.items()}
