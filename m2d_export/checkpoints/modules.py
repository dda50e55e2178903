"""Read a loaded sentence-transformers model: its pooling, the modules after it, its settings of texts.

The last two functions are facts about architectures that neither a config nor a manifest states.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from m2d_export.errors import CheckpointError
from m2d_export.spec import OUTPUT, Pooling, TextSpec

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import nn

POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
TAIL_MODULES = ("Dense", "LayerNorm", "Normalize", "Dropout")  # the modules allowed after the pooling


def pooling_and_tail(model: "SentenceTransformer", hidden: int) -> "tuple[Pooling, tuple[nn.Module, ...], bool]":
    """The pooling, the modules after it, and whether a Normalize closes them.

    Raises CheckpointError naming a module, a pooling or a width that cannot be exported.
    """
    first, *rest = list(model)
    kinds = [type(module).__name__ for module in rest]
    if type(first).__name__ != "Transformer" or kinds[:1] != ["Pooling"]:
        raise CheckpointError(f"expected a Transformer, then a Pooling, got {[type(first).__name__, *kinds]}")
    for module, kind in zip(rest[1:], kinds[1:], strict=True):
        if kind not in TAIL_MODULES:
            raise CheckpointError(f"module {kind} cannot be exported; after the pooling: {', '.join(TAIL_MODULES)}")
        names = {getattr(module, f"module_{end}_name", OUTPUT) for end in ("input", "output")}
        if names != {OUTPUT}:
            raise CheckpointError(f"module {kind} works on {sorted(names)}: only {OUTPUT} can be exported")
    pooling: Any = rest[0]
    modes = (pooling.pooling_mode,) if isinstance(pooling.pooling_mode, str) else tuple(pooling.pooling_mode)
    unknown = sorted(set(modes) - set(POOLING_MODES))
    if unknown or pooling.embedding_dimension != hidden:
        raise CheckpointError(
            f"pooling {', '.join(modes)} over {pooling.embedding_dimension} numbers cannot be exported: "
            f"expected {', '.join(POOLING_MODES)} over the {hidden} numbers of this encoder"
        )
    normalize = kinds[-1] == "Normalize"
    tail = tuple(rest[1 : len(rest) - 1 if normalize else len(rest)])
    return Pooling(modes, bool(pooling.include_prompt)), tail, normalize


def width_after(tail: "Sequence[nn.Module]", pooled: int) -> int:
    """The numbers of a vector after ``tail``, which receives ``pooled`` of them."""
    for module in tail:
        pooled = int(getattr(module, "out_features", pooled))
    return pooled


def text_spec(model: "SentenceTransformer", pooling: Pooling) -> TextSpec:
    """The settings of texts: maximum of tokens, padding, prompts. Raises CheckpointError for an unsupported tokenizer.

    The maximum is the smallest of the model's limit, its config's, and the rows of its position table.
    """
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(f"{type(tokenizer).__name__} has no tokenizer.json form: use a fast tokenizer")
    if tokenizer.truncation_side != "right":
        raise CheckpointError(
            f"this tokenizer truncates on the {tokenizer.truncation_side}: only truncation on the right is supported"
        )
    encoder: Any = model[0].auto_model
    limits = [model.max_seq_length]
    positions = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
    if positions is not None:
        # With a padding_idx, as in the RoBERTa family, the first position is padding_idx + 1.
        first = 0 if positions.padding_idx is None else positions.padding_idx + 1
        limits.append(positions.num_embeddings - first)
    limits.append(getattr(encoder.config, "max_position_embeddings", None))
    return TextSpec(
        max_tokens=min(int(limit) for limit in limits if limit is not None and limit > 0),
        pad_id=int(tokenizer.pad_token_id or 0),
        prompts={key: value or "" for key, value in model.prompts.items()},
        default_prompt_name=model.default_prompt_name,
        include_prompt=pooling.include_prompt,
        vocabulary=int(encoder.get_input_embeddings().weight.shape[0]),
    )


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
