"""Load a checkpoint of sentence-transformers or transformers, with everything it was trained with."""

import contextlib
import functools
import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2d_export.checkpoints.folder import (
    M2D_JSON,
    check_folder,
    encoder_folder,
    local_folder,
    read_modules,
    read_object,
)
from m2d_export.checkpoints.heads import Head, load_heads, load_table
from m2d_export.checkpoints.m2d_json import read_exits
from m2d_export.checkpoints.modules import pooling_and_tail, text_spec, width_after
from m2d_export.errors import CheckpointError, RuntimeUnavailable, SpecError, raised_as
from m2d_export.host.extras import require
from m2d_export.spec import POOLING_MODES, Origin, Pooling, TextSpec

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer
    from torch import nn
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)
UNUSED_WEIGHTS = ("pooler.",)  # BERT's next-sentence head, which no exit reads
CONFIG_SIZES = ("hidden_size", "num_attention_heads")
OTHER_SHAPES = "`ignore_mismatched_sizes`"  # in the error of transformers for tensors that do not fit the config
NO_TABLE = (
    "this checkpoint has no exit 0, because it has no table of token vectors. Make one with m2d-export distil --layers "
    "0,.., or leave layer 0 out"
)


@dataclass(frozen=True)
class Checkpoint:
    """Trained weights and everything they were trained with; weights are float32, whatever the file stores.

    ``folder`` is where they were loaded from. ``origin`` does not name the folder, because bundles contain ``origin``.
    ``tail`` holds the modules of sentence-transformers after the pooling. If the last module is a Normalize, it is not
    in ``tail``, and ``normalize`` is true. ``heads`` maps a layer to the head of its exit. ``table`` is the Embedding
    of exit 0, or None if there is no exit 0. ``depth`` is the number of layers, and ``width`` is how many numbers a
    vector has. ``similarity`` and ``truncate_dim`` are settings of sentence-transformers. ``trained_layers`` and
    ``trained_dims`` are None if the checkpoint does not state them.

    The vectors of two checkpoints can be compared if both have the same ``space``: the fingerprint of the checkpoint
    that both were made from. ``rotation`` is the sha256 of the matrix with which the last Dense rotates this space, or
    None if it is not rotated.
    """

    origin: Origin
    folder: Path
    encoder: "PreTrainedModel"
    tokenizer_json: str
    text: TextSpec
    pooling: Pooling
    tail: "tuple[nn.Module, ...]"
    normalize: bool
    heads: Mapping[int, Head]
    table: "nn.Module | None"
    depth: int
    width: int
    similarity: str
    truncate_dim: int | None
    trained_layers: tuple[int, ...] | None
    trained_dims: tuple[int, ...] | None
    space: str
    rotation: str | None
    original: "SentenceTransformer"

    @property
    def config(self) -> dict[str, str | int]:
        """Fields that other tools need in a config.json: ``model_type``, and the sizes that this encoder has."""
        config = self.encoder.config
        sizes = {name: getattr(config, name, None) for name in CONFIG_SIZES}
        return {"model_type": config.model_type, **{name: size for name, size in sizes.items() if type(size) is int}}

    @property
    def exits(self) -> tuple[int, ...]:
        """The layers that have an exit; 0 only if there is a table."""
        return tuple(range(1 if self.table is None else 0, self.depth + 1))

    @property
    def architecture(self) -> str:
        """The transformers class of the encoder, such as BertModel."""
        return type(self.encoder).__name__

    def reference_ids(self, text: str) -> list[int]:
        """The token ids that sentence-transformers feeds to this checkpoint."""
        ids: list[int] = self.original.preprocess([text])["input_ids"][0].tolist()
        return ids


def load_checkpoint(
    name: str, revision: str | None = None, pooling: str | None = None, otherwise: str | None = None
) -> Checkpoint:
    """Load a local folder, or a Hub id at ``revision``.

    ``pooling`` is the mode of a checkpoint without a Pooling, such as a plain folder of transformers. If nothing says
    the mode, ``otherwise`` is used. If ``otherwise`` is None too, the mean is used, and a warning is logged. Weights
    that are not used and a tokenizer that pads on the left are logged as warnings too.

    Raises CheckpointError if ``name`` is not a checkpoint, if weights are missing or not finite, or if the checkpoint
    has a module or setting that is not supported. Raises SpecError if ``pooling`` is given for a checkpoint that states
    its own pooling. Raises RuntimeUnavailable if the extra ``build`` is not installed.
    """
    if sys.flags.optimize > 1:
        raise RuntimeUnavailable("transformers needs docstrings, which python -OO removes: use -O, or PYTHONOPTIMIZE=1")
    folder, commit = local_folder(name, revision)
    check_folder(folder)
    mode = _pooling_mode(name, folder, pooling, otherwise)
    with raised_as(lambda found: CheckpointError(f"{name} cannot be loaded: {_reason(found)}")):
        return _load(name, folder, commit, mode)


def _pooling_mode(name: str, folder: Path, asked: str | None, otherwise: str | None) -> str | None:
    """The pooling mode of a folder without a Pooling; None for a folder with one."""
    if asked is not None and asked not in POOLING_MODES:
        raise SpecError(f"pooling {asked!r} does not exist: there are {', '.join(POOLING_MODES)}")
    if read_modules(folder):
        if asked is not None:
            raise SpecError(f"{name} has a Pooling of its own, and no other was trained: leave pooling out")
        return None
    stated = read_object(folder / M2D_JSON).get("pooling")
    if stated is not None and stated not in POOLING_MODES:
        raise CheckpointError(f"{folder / M2D_JSON}: pooling is {stated!r}, expected one of {', '.join(POOLING_MODES)}")
    if asked is not None and stated is not None and asked != stated:
        raise SpecError(f"{name} says in {M2D_JSON} that its pooling is {stated}: leave pooling out")
    mode = asked or stated or otherwise
    if mode is None:
        _warn_once(
            f"{name} does not say how it pools token vectors: mean is assumed. For another mode, build and "
            f"distil have --pooling; {M2D_JSON} can state it too"
        )
    return mode or "mean"


def _reason(found: str) -> str:
    """What a library found, in words that tell a user what to do.

    If tensors do not fit the config, the message of transformers only names an option. It is replaced.
    """
    if OTHER_SHAPES in found:
        return (
            "tensors of its weights have other shapes than its config says (vocab_size, hidden_size, ..): use the "
            "config that belongs to these weights"
        )
    return found


def _load(name: str, folder: Path, commit: str | None, mode: str | None) -> Checkpoint:
    model, encoder = _load_model(name, folder)
    depth, hidden = (_size(name, encoder.config, size) for size in ("num_hidden_layers", "hidden_size"))
    if mode is not None:
        kind: Any = type(model[1])
        model[1] = kind(hidden, mode)
    pooling, tail, normalize = pooling_and_tail(model, hidden)
    pooled = hidden * len(pooling.modes)
    width = width_after(tail, pooled)
    exits = read_exits(folder, depth)
    heads = load_heads(folder, exits.heads, hidden, pooling)
    text = text_spec(model, pooling)
    table = load_table(folder, text.vocabulary, pooled)
    model.max_seq_length = text.max_tokens  # the original must not read positions that do not exist
    if model.tokenizer.padding_side != "right":
        _warn_once(
            f"{name} pads texts on the left. Here padding is on the right, so that each text has the vector that "
            "sentence-transformers gives for it without padding"
        )
        model.tokenizer.padding_side = "right"
    tokenizer_json = model.tokenizer.backend_tokenizer.to_str()
    weights = _weights(encoder, tail, heads, table)
    _check_finite(name, weights)
    settings = json.dumps([repr(pooling), repr(text), normalize, repr(exits.heads), tokenizer_json])
    fingerprint = _fingerprint(weights, settings)
    return Checkpoint(
        origin=Origin(name if commit else folder.name, commit, fingerprint),
        folder=folder,
        encoder=encoder.eval(),
        tokenizer_json=tokenizer_json,
        text=text,
        pooling=pooling,
        tail=tail,
        normalize=normalize,
        heads=heads,
        table=table,
        depth=depth,
        width=width,
        similarity=str(model.similarity_fn_name or "cosine"),
        truncate_dim=_truncate_dim(name, model.truncate_dim, width),
        trained_layers=exits.layers,
        trained_dims=exits.dims,
        space=exits.space or fingerprint,
        rotation=exits.rotation,
        original=model,
    )


def _load_model(name: str, folder: Path) -> "tuple[SentenceTransformer, Any]":
    """The model in float32, and its encoder; raises CheckpointError if its weights are incomplete."""
    torch = require("torch", "build")
    sentence_transformers = require("sentence_transformers", "build")
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    with quietly():
        model = sentence_transformers.SentenceTransformer(
            str(folder), device="cpu", local_files_only=True, trust_remote_code=False, model_kwargs=options
        ).eval()
        encoder: Any = getattr(model[0], "auto_model", None)
        if encoder is None:
            raise CheckpointError(
                f"{name} begins with a {type(model[0]).__name__}: expected a Transformer, then a Pooling"
            )
        if hasattr(encoder, "decoder"):
            kind = type(encoder).__name__
            raise CheckpointError(f"{name} is an encoder-decoder ({kind}), and only encoders have exits")
        # sentence-transformers does not report missing weights, so the encoder is loaded again for the report.
        _, report = type(encoder).from_pretrained(
            encoder_folder(folder), config=encoder.config, output_loading_info=True, local_files_only=True, **options
        )
    _check_weights(name, encoder.config, report["missing_keys"])
    unused = sorted(key for key in report["unexpected_keys"] if not key.startswith(UNUSED_WEIGHTS))
    if unused:
        shown = ", ".join(unused[:3]) + (", .." if len(unused) > 3 else "")
        _warn_once(f"{name}: {len(unused)} tensors of its weights are not used, because no exit reads them: {shown}")
    return model, encoder


@functools.cache
def _warn_once(message: str) -> None:
    """Log a warning, once in a process: ``bench`` loads a checkpoint for every exit."""
    log.warning(message)


def _check_weights(name: str, config: Any, missing: Sequence[str]) -> None:
    """Raise CheckpointError if weights are ``missing``, because transformers fills them with random numbers."""
    needed = sorted(key for key in missing if not key.startswith(UNUSED_WEIGHTS))
    if needed:
        raise CheckpointError(
            f"{name}: its config has {getattr(config, 'num_hidden_layers', '?')} layers, but {len(needed)} of their "
            f"tensors are missing from its weights, the first {needed[0]}: use the config that belongs to these weights"
        )


def _size(name: str, config: Any, key: str) -> int:
    size = getattr(config, key, None)
    if type(size) is int and size < 1:
        raise CheckpointError(f"{name}: {key} of its config is {size}, expected 1 or more: use the right config")
    if type(size) is not int:
        raise CheckpointError(
            f"{name} is a {config.model_type}, whose config has no {key}: only text encoders have exits"
        )
    return size


def _truncate_dim(name: str, dim: object, width: int) -> int | None:
    if dim is None or (type(dim) is int and 1 <= dim <= width):
        return dim
    raise CheckpointError(f"{name}: truncate_dim is {dim!r}, expected a whole number from 1 to {width}")


def _weights(
    encoder: "nn.Module", tail: "Sequence[nn.Module]", heads: Mapping[int, Head], table: "nn.Module | None"
) -> "dict[str, torch.Tensor]":
    """Every tensor that an exit reads, by a name that says which part it belongs to."""
    parts = {"": encoder}
    parts |= {f"{type(module).__name__} {place}: ": module for place, module in enumerate(tail, 1)}
    parts |= {"exits/0: ": table} if table is not None else {}
    parts |= {f"exits/{layer}: ": heads[layer].dense for layer in sorted(heads)}
    return {
        f"{prefix}{key}": tensor
        for prefix, module in parts.items()
        for key, tensor in sorted(module.state_dict().items())
        if not key.startswith(UNUSED_WEIGHTS)
    }


def _check_finite(name: str, weights: "Mapping[str, torch.Tensor]") -> None:
    """Raise CheckpointError that names the first number that is NaN or infinity in float32."""
    for key, tensor in weights.items():
        finite = tensor.isfinite()
        if not finite.all():
            places = (~finite).nonzero().tolist()
            raise CheckpointError(
                f"{name}: {key}{places[0]} is {tensor[tuple(places[0])].item()} ({len(places)} numbers of this tensor "
                "are not finite): download the weights again, or use those from before the training failed"
            )


def _fingerprint(weights: "Mapping[str, torch.Tensor]", settings: str) -> str:
    digest = hashlib.sha256(settings.encode())
    for name, tensor in weights.items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Hide the progress bars and load reports of transformers and sentence-transformers."""
    transformers = require("transformers", "build")
    loggers = [logging.getLogger(name) for name in ("transformers", "sentence_transformers")]
    levels = [logger.level for logger in loggers]
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
