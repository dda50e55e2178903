"""Load a sentence-transformers or transformers checkpoint, and refuse by name what cannot be honoured."""

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2d_export.errors import CheckpointError, first_line
from m2d_export.host.extras import require
from m2d_export.spec import Origin, Pooling, TextSpec

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import nn
    from transformers import PreTrainedModel

SETTINGS = ("*.json", "*.txt", "*.model")  # and no code, nor other formats of the same weights
POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
TAIL_MODULES = ("Dense", "LayerNorm", "Normalize", "Dropout")  # what may follow the pooling
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
SETTINGS_FILE = "m2d.json"  # docs/checkpoint-format.md
UNUSED_WEIGHTS = ("pooler.",)  # BERT's next-sentence head: no exit reads it


@dataclass(frozen=True)
class Checkpoint:
    """Trained weights and everything they were trained with; weights are float32 whatever the file stores.

    ``tail`` holds the sentence-transformers modules between the pooling and a closing Normalize, which is
    ``normalize``; ``heads`` the linear map of each exit that has one. ``similarity`` and
    ``truncate_dim`` are sentence-transformers' own settings. ``trained_layers`` and ``trained_dims`` are None where
    the checkpoint does not say.
    """

    origin: Origin
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
    def architecture(self) -> str:
        """The transformers class of the encoder, such as BertModel."""
        return type(self.encoder).__name__

    def reference_ids(self, text: str) -> list[int]:
        """Token ids as sentence-transformers itself feeds them to this checkpoint."""
        ids: list[int] = self.original.preprocess([text])["input_ids"][0].tolist()
        return ids


def load_checkpoint(name: str, revision: str | None = None) -> Checkpoint:
    """Load a local folder or a Hub id at ``revision``.

    Raises CheckpointError for a folder that is no checkpoint, weights that do not fill the config, and
    every module or setting that cannot be honoured; RuntimeUnavailable without the ``build`` extra.
    """
    torch = require("torch", "build")
    transformers = require("transformers", "build")
    sentence_transformers = require("sentence_transformers", "build")
    folder, commit = _local_folder(name, revision)
    _refuse_foreign_code(folder)
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
        # Loaded a second time and dropped, since sentence-transformers keeps to itself which weights were missing.
        _, loading = transformers.AutoModel.from_pretrained(
            _encoder_folder(folder), config=encoder.config, output_loading_info=True, local_files_only=True, **options
        )
    _check_weights(name, encoder.config.num_hidden_layers, loading["missing_keys"])
    pooling, tail, normalize = _modules(model, encoder.config.hidden_size)
    settings = _settings(folder, encoder.config.num_hidden_layers)
    heads = _heads(folder, settings, encoder.config.hidden_size * len(pooling.modes))
    text = _text_spec(model, pooling)
    model.max_seq_length = text.max_tokens  # positions that do not exist must not be reached in the original either
    tokenizer_json = model.tokenizer.backend_tokenizer.to_str()
    described = json.dumps([repr(pooling), repr(text), normalize, tokenizer_json])
    weights = torch.nn.ModuleList([encoder, *tail, *(heads[layer] for layer in sorted(heads))])
    return Checkpoint(
        origin=Origin(name if commit else str(folder), commit, _fingerprint(weights, described)),
        encoder=encoder.eval(),
        tokenizer_json=tokenizer_json,
        text=text,
        pooling=pooling,
        tail=tail,
        normalize=normalize,
        heads=heads,
        depth=encoder.config.num_hidden_layers,
        width=_width(encoder.config.hidden_size * len(pooling.modes), tail),
        similarity=str(model.similarity_fn_name or "cosine"),
        truncate_dim=model.truncate_dim,
        trained_layers=_ascending(settings.get("layers")),
        trained_dims=_ascending(settings.get("dims")),
        original=model,
    )


def _local_folder(name: str, revision: str | None) -> tuple[Path, str | None]:
    """The folder a checkpoint lies in, and its commit where it comes from the Hub."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise CheckpointError(f"{name} is a local folder: a revision goes with a Hub id")
        return folder.resolve(), None
    if folder.exists() or not HUB_ID.fullmatch(name):
        raise CheckpointError(f"{name} is neither a folder nor a Hub id such as sentence-transformers/all-MiniLM-L6-v2")
    hub = require("huggingface_hub", "build")
    try:
        path = Path(hub.snapshot_download(name, revision=revision, allow_patterns=[*SETTINGS, "*.safetensors"]))
        if not list(path.rglob("*.safetensors")):
            path = Path(hub.snapshot_download(name, revision=revision, allow_patterns=[*SETTINGS, "*.bin"]))
    except Exception as error:  # network, authentication and not-found errors of several libraries
        raise CheckpointError(f"no folder {name} here, and the Hub has not given it: {first_line(error)}") from error
    return path, path.name  # the cache names a snapshot by its commit


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no such file."""
    found = _read_json(path, {})
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a JSON {type(found).__name__}, expected an object")
    return found


def _read_modules(folder: Path) -> list[dict[str, str]]:
    """The entries of modules.json, none where there is no such file."""
    found = _read_json(folder / "modules.json", [])
    keys = ("type", "path")
    if not isinstance(found, list) or not all(
        isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in keys) for entry in found
    ):
        raise CheckpointError(f"{folder / 'modules.json'} is not a list of modules, each with its type and path")
    return found


def _read_json(path: Path, absent: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return absent
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error


def _encoder_folder(folder: Path) -> Path:
    modules = _read_modules(folder)
    return folder / modules[0]["path"] if modules else folder


def _refuse_foreign_code(folder: Path) -> None:
    """Refuse whatever would need code from the checkpoint, or would be replaced in silence, before loading any."""
    modules = _read_modules(folder)
    for module in modules:
        kind = module["type"]
        if not kind.startswith("sentence_transformers."):
            raise CheckpointError(f"{folder} needs its own code (module {kind}): trust_remote_code is not supported")
        activation = _read_object(folder / module["path"] / "config.json").get("activation_function", "torch.nn.")
        if kind.endswith(".Dense") and not str(activation).startswith("torch.nn."):
            raise CheckpointError(f"{folder} has a Dense with activation {activation}: only torch.nn's are known")
    encoder = _encoder_folder(folder)
    if modules and not modules[0]["type"].endswith(".Transformer"):
        raise CheckpointError(f"{folder} begins with {modules[0]['type']}: only a Transformer has exits")
    if not (encoder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} is no checkpoint: it has no config.json. Expected a sentence-transformers or transformers folder"
        )
    config = _read_object(encoder / "config.json")
    for settings in (config, _read_object(encoder / "tokenizer_config.json")):
        if settings.get("auto_map"):
            message = f"{folder} needs its own code (auto_map {sorted(settings['auto_map'])})"
            raise CheckpointError(f"{message}: trust_remote_code is not supported")
    if config.get("is_encoder_decoder"):
        raise CheckpointError(f"{folder} is an encoder-decoder ({config.get('model_type')}): only encoders have exits")
    if (encoder / "adapter_config.json").exists():
        raise CheckpointError(f"{folder} holds an adapter: merge it into its base model first (merge_and_unload)")


def _check_weights(name: str, layers: int, missing: Sequence[str]) -> None:
    """Refuse weights that do not fill the config: transformers would fill the rest at random."""
    needed = sorted(key for key in missing if not key.startswith(UNUSED_WEIGHTS))
    if needed:
        raise CheckpointError(
            f"{name} claims {layers} layers, but its weights lack {len(needed)} tensors of them, the first "
            f"{needed[0]}: its config and weights do not belong together"
        )


def _modules(model: "SentenceTransformer", hidden: int) -> "tuple[Pooling, tuple[nn.Module, ...], bool]":
    """The pooling, the modules after it, and whether a Normalize closes them; refuses all others by name."""
    first, *rest = list(model)
    kinds = [type(module).__name__ for module in rest]
    if type(first).__name__ != "Transformer" or kinds[:1] != ["Pooling"]:
        raise CheckpointError(f"expected a Transformer, then a Pooling, got {[type(first).__name__, *kinds]}")
    for module, kind in zip(rest[1:], kinds[1:], strict=True):
        if kind not in TAIL_MODULES:
            raise CheckpointError(f"module {kind} cannot be exported; after the pooling: {', '.join(TAIL_MODULES)}")
        names = {getattr(module, f"module_{end}_name", "sentence_embedding") for end in ("input", "output")}
        if names != {"sentence_embedding"}:
            raise CheckpointError(f"module {kind} works on {sorted(names)}: only sentence_embedding can be exported")
    pooling: Any = rest[0]
    modes = (pooling.pooling_mode,) if isinstance(pooling.pooling_mode, str) else tuple(pooling.pooling_mode)
    unknown = sorted(set(modes) - set(POOLING_MODES))
    if unknown or pooling.embedding_dimension != hidden:
        raise CheckpointError(
            f"pooling {', '.join(modes)} over {pooling.embedding_dimension} numbers cannot be exported: "
            f"known are {', '.join(POOLING_MODES)} over this encoder's {hidden}"
        )
    normalize = kinds[-1] == "Normalize"
    tail = tuple(rest[1 : len(rest) - 1 if normalize else len(rest)])
    return Pooling(modes, bool(pooling.include_prompt)), tail, normalize


def _width(pooled: int, tail: "Sequence[nn.Module]") -> int:
    for module in tail:
        pooled = int(getattr(module, "out_features", pooled))
    return pooled


def _text_spec(model: "SentenceTransformer", pooling: Pooling) -> TextSpec:
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(f"{type(tokenizer).__name__} has no tokenizer.json form: a fast tokenizer is needed")
    if tokenizer.truncation_side != "right":
        raise CheckpointError("this tokenizer cuts long texts on the left: only truncation on the right is supported")
    encoder: Any = model[0].auto_model
    limits = [model.max_seq_length]
    positions = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
    if positions is not None:
        # RoBERTa and its kin number positions from padding_idx + 1, so that many rows are never used.
        first = 0 if positions.padding_idx is None else positions.padding_idx + 1
        limits.append(positions.num_embeddings - first)
    limits.append(getattr(encoder.config, "max_position_embeddings", None))
    return TextSpec(
        max_tokens=min(int(limit) for limit in limits if limit is not None and limit > 0),
        pad_id=int(tokenizer.pad_token_id or 0),
        prompts={key: value or "" for key, value in model.prompts.items()},
        default_prompt_name=model.default_prompt_name,
        include_prompt=pooling.include_prompt,
    )


def _settings(folder: Path, depth: int) -> dict[str, Any]:
    settings = _read_object(folder / SETTINGS_FILE)
    if any(
        not isinstance(settings.get(key, []), list) or not all(type(item) is int for item in settings.get(key, []))
        for key in ("layers", "dims", "heads")
    ):
        raise CheckpointError(f"{folder / SETTINGS_FILE}: layers, dims and heads must be lists of whole numbers")
    if settings.get("format", 1) != 1:
        raise CheckpointError(f"{folder / SETTINGS_FILE} has format {settings['format']}: this version reads format 1")
    for key in ("layers", "heads"):
        outside = [layer for layer in settings.get(key, []) if not 1 <= layer <= depth]
        if outside:
            raise CheckpointError(f"{folder / SETTINGS_FILE} names {key} {outside}: layers are 1 to {depth}")
    if depth in settings.get("heads", []):
        # It would make the full depth another model than the one sentence-transformers loads.
        raise CheckpointError(f"{folder / SETTINGS_FILE} names a head at layer {depth}: the last layer has none")
    return settings


def _heads(folder: Path, settings: Mapping[str, Any], width: int) -> "dict[int, nn.Module]":
    """The Dense module of each exit that ``m2d.json`` lists a head for."""
    if not settings.get("heads"):
        return {}
    dense = require("sentence_transformers.base.modules.dense", "build").Dense
    heads = {}
    for layer in settings["heads"]:
        path = folder / "exits" / str(layer)
        if not (path / "config.json").is_file():
            raise CheckpointError(f"{path} is missing: {SETTINGS_FILE} names a head at layer {layer}")
        activation = _read_object(path / "config.json").get("activation_function")
        if activation != "torch.nn.modules.linear.Identity":
            raise CheckpointError(f"{path}: a head is linear (activation Identity), got activation {activation}")
        with _as_checkpoint_error(str(path)):
            head = dense.load(str(path)).float().eval()
        if (head.in_features, head.out_features) != (width, width):
            raise CheckpointError(
                f"{path} maps {head.in_features} numbers to {head.out_features}: a head here has {width}"
            )
        heads[layer] = head
    return heads


def _fingerprint(weights: "nn.Module", described: str) -> str:
    digest = hashlib.sha256(described.encode())
    for name, tensor in sorted(weights.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _ascending(values: Sequence[int] | None) -> tuple[int, ...] | None:
    return tuple(sorted(set(values))) if values else None


@contextlib.contextmanager
def _as_checkpoint_error(name: str) -> Iterator[None]:
    """Loading fails in a dozen ways, by a dozen exception types of three libraries; all mean the same here."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{name} cannot be loaded: {type(error).__name__}: {first_line(error)}") from error


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silence the libraries' progress bars and load reports: what matters of them is checked here."""
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
