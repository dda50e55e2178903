"""Load a checkpoint of sentence-transformers or transformers, with everything it was trained with."""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2d_export.checkpoints.folder import M2D_JSON, check_folder, encoder_folder, local_folder, read_exits, read_object
from m2d_export.checkpoints.modules import pooling_and_tail, text_spec, width_after
from m2d_export.errors import CheckpointError, first_line
from m2d_export.host.extras import require
from m2d_export.spec import Origin, Pooling, TextSpec

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import nn
    from transformers import PreTrainedModel

UNUSED_WEIGHTS = ("pooler.",)  # BERT's next-sentence head, which no exit reads
CONFIG_SIZES = ("hidden_size", "num_attention_heads")
LINEAR = "torch.nn.modules.linear.Identity"  # the activation of a Dense without one


@dataclass(frozen=True)
class Checkpoint:
    """Trained weights and everything they were trained with; weights are float32, whatever the file stores.

    ``folder`` is where they were loaded from; ``origin`` does not say it, because it goes into bundles. ``tail`` holds
    the modules of sentence-transformers after the pooling, without a closing Normalize, for which ``normalize`` stands.
    ``heads`` maps a layer to the linear module of its exit. ``depth`` is the number of layers,
    ``width`` of numbers in a vector. ``similarity`` and ``truncate_dim`` are settings of sentence-transformers.
    ``trained_layers`` and ``trained_dims`` are None if the checkpoint does not state them.
    """

    origin: Origin
    folder: Path
    encoder: "PreTrainedModel"
    tokenizer_json: str
    text: TextSpec
    pooling: Pooling
    tail: "tuple[nn.Module, ...]"
    normalize: bool
    heads: "Mapping[int, nn.Module]"
    depth: int
    width: int
    similarity: str
    truncate_dim: int | None
    trained_layers: tuple[int, ...] | None
    trained_dims: tuple[int, ...] | None
    original: "SentenceTransformer"

    @property
    def config(self) -> dict[str, str | int]:
        """What other tools ask of a config.json: ``model_type``, and the sizes that this encoder states."""
        config = self.encoder.config
        sizes = {name: getattr(config, name, None) for name in CONFIG_SIZES}
        return {"model_type": config.model_type, **{name: size for name, size in sizes.items() if type(size) is int}}

    @property
    def architecture(self) -> str:
        """The transformers class of the encoder, such as BertModel."""
        return type(self.encoder).__name__

    def reference_ids(self, text: str) -> list[int]:
        """The token ids that sentence-transformers feeds to this checkpoint."""
        ids: list[int] = self.original.preprocess([text])["input_ids"][0].tolist()
        return ids


def load_checkpoint(name: str, revision: str | None = None) -> Checkpoint:
    """Load a local folder, or a Hub id at ``revision``.

    Raises CheckpointError if it is not a checkpoint, if weights are missing, or if it asks for a module or setting that
    cannot be honoured; RuntimeUnavailable without the ``build`` extra.
    """
    torch = require("torch", "build")
    folder, commit = local_folder(name, revision)
    check_folder(folder)
    model, encoder = _load_model(name, folder)
    pooling, tail, normalize = pooling_and_tail(model, encoder.config.hidden_size)
    depth, pooled = encoder.config.num_hidden_layers, encoder.config.hidden_size * len(pooling.modes)
    exits = read_exits(folder, depth)
    heads = _heads(folder, exits.get("heads", []), pooled)
    text = text_spec(model, pooling)
    model.max_seq_length = text.max_tokens  # the original must not read positions that do not exist
    tokenizer_json = model.tokenizer.backend_tokenizer.to_str()
    settings = json.dumps([repr(pooling), repr(text), normalize, tokenizer_json])
    weights = torch.nn.ModuleList([encoder, *tail, *(heads[layer] for layer in sorted(heads))])
    return Checkpoint(
        origin=Origin(name if commit else folder.name, commit, _fingerprint(weights, settings)),
        folder=folder,
        encoder=encoder.eval(),
        tokenizer_json=tokenizer_json,
        text=text,
        pooling=pooling,
        tail=tail,
        normalize=normalize,
        heads=heads,
        depth=depth,
        width=width_after(tail, pooled),
        similarity=str(model.similarity_fn_name or "cosine"),
        truncate_dim=model.truncate_dim,
        trained_layers=_ascending(exits.get("layers")),
        trained_dims=_ascending(exits.get("dims")),
        original=model,
    )


def _load_model(name: str, folder: Path) -> "tuple[SentenceTransformer, Any]":
    """The model in float32, and its encoder; raises CheckpointError if its weights are incomplete."""
    torch = require("torch", "build")
    transformers = require("transformers", "build")
    sentence_transformers = require("sentence_transformers", "build")
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    with quietly(), _as_checkpoint_error(name):
        model = sentence_transformers.SentenceTransformer(
            str(folder), device="cpu", local_files_only=True, trust_remote_code=False, model_kwargs=options
        ).eval()
        encoder: Any = getattr(model[0], "auto_model", None)
        if encoder is None:
            raise CheckpointError(
                f"{name} begins with a {type(model[0]).__name__}: expected a Transformer, then a Pooling"
            )
        # sentence-transformers does not report missing weights, so the encoder is loaded again for the report.
        _, report = transformers.AutoModel.from_pretrained(
            encoder_folder(folder), config=encoder.config, output_loading_info=True, local_files_only=True, **options
        )
    _check_weights(name, encoder.config.num_hidden_layers, report["missing_keys"])
    return model, encoder


def _check_weights(name: str, layers: int, missing: Sequence[str]) -> None:
    """Raise CheckpointError if weights are ``missing``, because transformers fills them with random numbers."""
    needed = sorted(key for key in missing if not key.startswith(UNUSED_WEIGHTS))
    if needed:
        raise CheckpointError(
            f"{name}: its config has {layers} layers, but {len(needed)} of their tensors are missing from its weights, "
            f"the first {needed[0]}: use the config that belongs to these weights"
        )


def _heads(folder: Path, layers: Sequence[int], width: int) -> "dict[int, nn.Module]":
    """The Dense module of each of ``layers``, from ``width`` numbers to ``width`` numbers."""
    if not layers:
        return {}
    dense = require("sentence_transformers.base.modules.dense", "build").Dense
    heads = {}
    for layer in layers:
        path = folder / "exits" / str(layer)
        if not (path / "config.json").is_file():
            raise CheckpointError(f"{path} is missing: {M2D_JSON} names a head at layer {layer}")
        activation = read_object(path / "config.json").get("activation_function")
        if activation != LINEAR:
            raise CheckpointError(f"{path} has activation {activation}: a head is linear, with activation Identity")
        with _as_checkpoint_error(str(path)):
            head = dense.load(str(path)).float().eval()
        if (head.in_features, head.out_features) != (width, width):
            raise CheckpointError(
                f"{path} maps {head.in_features} numbers to {head.out_features}, expected {width} to {width}"
            )
        heads[layer] = head
    return heads


def _fingerprint(weights: "nn.Module", settings: str) -> str:
    digest = hashlib.sha256(settings.encode())
    for name, tensor in sorted(weights.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _ascending(values: Sequence[int] | None) -> tuple[int, ...] | None:
    return tuple(sorted(set(values))) if values else None


@contextlib.contextmanager
def _as_checkpoint_error(name: str) -> Iterator[None]:
    """Turn any exception into a CheckpointError, because three libraries raise many types for a broken checkpoint."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{name} cannot be loaded: {type(error).__name__}: {first_line(error)}") from error


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silence the progress bars and load reports of transformers and sentence-transformers."""
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
