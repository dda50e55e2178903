"""Facts about architectures that neither a checkpoint's config nor a manifest states.

Everything else about an architecture is read from its checkpoint. A new special case belongs here.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def has_final_norm(encoder: "nn.Module") -> bool:
    """Whether the encoder norms only the output of its last layer (pre-LN, such as ModernBERT).

    Exit k is the output of layer k without that norm, so a model with k layers and the norm is not exit k.
    """
    return hasattr(encoder, "final_norm")


def unused_positions(model_type: str, pad_id: int) -> int:
    """How many rows at the start of the position table no token uses, by the ``model_type`` of transformers.

    The RoBERTa family numbers positions from the padding id + 1, and its ``max_position_embeddings`` counts those rows.
    """
    return pad_id + 1 if "roberta" in model_type else 0
