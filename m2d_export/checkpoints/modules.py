"""Read a loaded sentence-transformers model: its pooling, the modules after it, and how it reads texts.

The last two functions are facts about architectures that neither a config nor a manifest states.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from m2d_export.errors import CheckpointError, InputError
from m2d_export.spec import OUTPUT, POOLING_MODES, Pooling, TextSpec
from m2d_export.text.tokenizer import check_text

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import nn

FINAL_NORMS = ("final_norm", "final_layer_norm", "norm", "ln_f")  # the names in ModernBERT, T5, Llama's family, GPT-2
NO_LIMIT = 1 << 31  # transformers writes 1e30 where a tokenizer has no limit
TAIL_MODULES = ("Dense", "LayerNorm", "Normalize", "Dropout")  # the modules allowed after the pooling


def pooling_and_tail(model: "SentenceTransformer", hidden: int) -> "tuple[Pooling, tuple[nn.Module, ...], bool]":
    """The pooling, the modules between it and a last Normalize, and whether there is such a Normalize.

    Raises CheckpointError naming a module, a pooling or a width that cannot be exported.
    """
    first, *rest = list(model)
    kinds = [type(module).__name__ for module in rest]
    if type(first).__name__ != "Transformer" or kinds[:1] != ["Pooling"]:
        raise CheckpointError(f"expected a Transformer, then a Pooling, got {[type(first).__name__, *kinds]}")
    for module, kind in zip(rest[1:], kinds[1:], strict=True):
        if kind not in TAIL_MODULES:
            raise CheckpointError(
                f"module {kind} cannot be exported: only {', '.join(TAIL_MODULES)} may follow the pooling"
            )
        names = {getattr(module, f"module_{end}_name", OUTPUT) for end in ("input", "output")}
        if names != {OUTPUT}:
            raise CheckpointError(f"module {kind} works on {sorted(names)}: only {OUTPUT} can be exported")
    pooling: Any = rest[0]
    modes = (pooling.pooling_mode,) if isinstance(pooling.pooling_mode, str) else tuple(pooling.pooling_mode)
    unknown = sorted(set(modes) - set(POOLING_MODES))
    if unknown or not modes or pooling.embedding_dimension != hidden:
        raise CheckpointError(
            f"pooling {', '.join(modes) or 'of no kind'} over {pooling.embedding_dimension} numbers cannot be exported:"
            f" expected {', '.join(POOLING_MODES)} over the {hidden} numbers of this encoder"
        )
    normalize = kinds[-1] == "Normalize"
    tail = tuple(rest[1 : len(rest) - 1 if normalize else len(rest)])
    return Pooling(modes, bool(pooling.include_prompt)), tail, normalize


def width_after(tail: "Sequence[nn.Module]", pooled: int) -> int:
    """How many numbers a vector has after ``tail``, if it has ``pooled`` numbers before ``tail``."""
    for module in tail:
        pooled = int(getattr(module, "out_features", pooled))
    return pooled


def text_spec(model: "SentenceTransformer", pooling: Pooling) -> TextSpec:
    """How the model reads texts: largest number of tokens, padding and prompts.

    The largest number is the smallest of three: the model's limit, the limit in its config, and the rows of its
    position table. Raises CheckpointError for a tokenizer that is not supported.
    """
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(f"{type(tokenizer).__name__} has no tokenizer.json form: use a fast tokenizer")
    if tokenizer.truncation_side != "right":
        raise CheckpointError(
            f"this tokenizer truncates on the {tokenizer.truncation_side}: only truncation on the right is supported"
        )
    if tokenizer.pad_token_id is None:
        raise CheckpointError(
            "this tokenizer has no padding token, so texts cannot share a batch: set pad_token in tokenizer_config.json"
        )
    encoder: Any = model[0].auto_model
    prompts = _prompts(model.prompts)
    vocabulary = int(encoder.get_input_embeddings().weight.shape[0])
    _check_token_ids(tokenizer, vocabulary, ["", *prompts.values()])
    return TextSpec(
        max_tokens=_max_tokens(model, encoder),
        pad_id=int(tokenizer.pad_token_id),
        prompts=prompts,
        default_prompt_name=model.default_prompt_name,
        include_prompt=pooling.include_prompt,
        vocabulary=vocabulary,
    )


def _max_tokens(model: "SentenceTransformer", encoder: Any) -> int:
    limits = [model.max_seq_length]
    positions = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
    if positions is not None:
        # With a padding_idx, as in the RoBERTa family, the first position is padding_idx + 1.
        first = 0 if positions.padding_idx is None else positions.padding_idx + 1
        limits.append(positions.num_embeddings - first)
    limits.append(getattr(encoder.config, "max_position_embeddings", None))
    known = [int(limit) for limit in limits if limit is not None and 0 < limit < NO_LIMIT]
    special = model.tokenizer.num_special_tokens_to_add()
    if not known:
        raise CheckpointError(
            "nothing says how many tokens this checkpoint reads: set model_max_length in tokenizer_config.json"
        )
    if min(known) <= special:
        raise CheckpointError(
            f"this checkpoint reads {min(known)} tokens, and {special} of them are special tokens: a text needs more. "
            "Set model_max_length in tokenizer_config.json"
        )
    return min(known)


def _prompts(found: Mapping[str, Any]) -> dict[str, str]:
    prompts = {name: text or "" for name, text in found.items()}
    try:
        for name, text in prompts.items():
            check_text(name, "the name of a prompt")
            check_text(text, f"the prompt {name!r}")
    except InputError as error:
        raise CheckpointError(f"config_sentence_transformers.json cannot be used: {error}") from error
    return prompts


def _check_token_ids(tokenizer: Any, rows: int, texts: Sequence[str]) -> None:
    """Raise CheckpointError if the tokenizer can give an id that the encoder's token table does not have."""
    names = tokenizer.get_vocab() | {tokenizer.pad_token: tokenizer.pad_token_id}
    # The tokenizer can add ids to a text that get_vocab does not have.
    for encoding in (tokenizer.backend_tokenizer.encode(text) for text in texts):
        names |= dict(zip(encoding.tokens, encoding.ids, strict=True))
    beyond = sorted((number, name) for name, number in names.items() if number >= rows)
    if beyond:
        shown = ", ".join(f"{name!r} ({number})" for number, name in beyond[:3])
        raise CheckpointError(
            f"the token table has {rows} rows, and this tokenizer has {len(beyond)} tokens beyond it: {shown}. Use the "
            "tokenizer that belongs to these weights, or resize the table (resize_token_embeddings)"
        )


def final_norm(encoder: "nn.Module") -> "tuple[nn.Module, str] | None":
    """The module and the name of a norm that only the output of the last layer gets (pre-LN, as in ModernBERT).

    Exit k is the output of layer k without this norm. So a model with k layers and the norm is not exit k.
    """
    owners = [module for module in (encoder, getattr(encoder, "encoder", None)) if module is not None]
    return next(((owner, name) for owner in owners for name in FINAL_NORMS if hasattr(owner, name)), None)


def unused_positions(model_type: str, pad_id: int) -> int:
    """How many rows at the start of the position table are unused in models of ``model_type``.

    The RoBERTa family numbers positions from the padding id + 1. Its ``max_position_embeddings`` counts the unused rows
    too.
    """
    return pad_id + 1 if "roberta" in model_type else 0
