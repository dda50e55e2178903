"""The folder of a checkpoint: its place, its JSON files, and what a checkpoint must not need."""

import json
import os
import re
from pathlib import Path
from typing import Any

from m2d_export.errors import CheckpointError, first_line
from m2d_export.host.extras import require
from m2d_export.host.files import expanded, utf8_path

DOWNLOADED = ("*.json", "*.txt", "*.model")  # and weights of one format, but no code
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
M2D_JSON = "m2d.json"  # docs/checkpoint-format.md
EXITS = "exits"  # the folder with a folder for each exit: its head, or the table of exit 0
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
OTHER_TOKENIZERS = ("vocab.txt", "vocab.json", "*.model")  # files that transformers makes a tokenizer of
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in the order in which transformers looks for them
SPLIT = ".index.json"  # if weights are in several files, the name of the list of these files ends so
POINTER = b"version https://git-lfs"  # a file that begins so is what git keeps in place of a large file
LARGE = ("*.safetensors", "pytorch_model*.bin", "*.json", "*.txt", "*.model")  # files that loading may read
MODULES = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")
SINGLE_VECTOR = "SentenceTransformer"  # the kind of model that gives one dense vector of a text
OF_CROSS_ENCODER = ("sentence_transformers", "sbert_ce_default_activation_function")  # keys of config.json
INSTEAD = (  # files that a folder without weights may have, what they are, and what to do
    ("manifest.json", "a bundle", "give the checkpoint that it was built from"),
    ("adapter_config.json", "an adapter", "merge it into its base model first (merge_and_unload)"),
    ("*.gguf", "weights in GGUF", "give the checkpoint that they were converted from"),
    ("*.onnx", "ONNX graphs", "give the checkpoint that they were exported from"),
    ("onnx/*.onnx", "ONNX graphs", "give the checkpoint that they were exported from"),
    ("openvino_model.xml", "an OpenVINO model", "give the checkpoint that it was exported from"),
    ("openvino/openvino_model.xml", "an OpenVINO model", "give the checkpoint that it was exported from"),
    ("*.h5", "weights of TensorFlow", "convert them to safetensors with transformers 4"),
    ("*.msgpack", "weights of Flax", "convert them to safetensors with transformers 4"),
)


def local_folder(name: str, revision: str | None) -> tuple[Path, str | None]:
    """The folder of a checkpoint, and its commit if it comes from the Hub.

    Raises CheckpointError if there is no such folder or Hub id, or if the Hub does not answer.
    """
    if not name:
        raise CheckpointError("the name of the checkpoint is empty: give a folder or a Hub id")
    if "\0" in name:
        raise CheckpointError(f"{name!r} is neither a folder nor a Hub id: a path has no NUL characters")
    folder = expanded(name)
    if os.path.isdir(folder):  # not Path.is_dir, which raises an error if a name is too long
        if revision is not None:
            raise CheckpointError(f"{name} is a local folder, which has no revisions: leave --revision out")
        return Path(utf8_path(folder.resolve())), None
    if os.path.exists(folder):
        raise CheckpointError(
            f"{name} is a file, and a checkpoint is a folder with {CONFIG} and {WEIGHTS[0]}: give the folder"
        )
    if not HUB_ID.fullmatch(name):
        raise CheckpointError(f"{name} is neither a folder nor a Hub id such as sentence-transformers/all-MiniLM-L6-v2")
    hub = require("huggingface_hub", "build")
    try:
        path = Path(hub.snapshot_download(name, revision=revision, allow_patterns=[*DOWNLOADED, "*.safetensors"]))
        if not list(path.rglob("*.safetensors")):
            path = Path(hub.snapshot_download(name, revision=revision, allow_patterns=[*DOWNLOADED, "*.bin"]))
    except Exception as error:  # network, authentication and not-found errors of several libraries
        raise CheckpointError(
            f"there is no folder {name} here, and the Hub did not provide it: {first_line(error)}"
        ) from error
    return path, path.name  # the Hub's cache names a snapshot by its commit


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    found = _read_json(path, {})
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a JSON {type(found).__name__}, expected an object")
    return found


def read_modules(folder: Path) -> list[dict[str, str]]:
    """The entries of modules.json; none if there is no such file."""
    found = _read_json(folder / "modules.json", [])
    keys = ("name", "type", "path")
    if not isinstance(found, list) or not all(
        isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in keys) for entry in found
    ):
        raise CheckpointError(f"{folder / 'modules.json'} is not a list of modules, each with its name, type and path")
    return found


def _read_json(path: Path, absent: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return absent
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {first_line(error)}") from error


def encoder_folder(folder: Path) -> Path:
    """The folder with config.json and the weights of the encoder."""
    modules = read_modules(folder)
    return folder / modules[0]["path"] if modules else folder


def check_folder(folder: Path) -> None:
    """Raise CheckpointError if this is no checkpoint, or if loading would need its code or ignore a setting.

    Only JSON files are read, before any library loads the checkpoint.
    """
    _check_large_files(folder)
    _check_kind(folder, read_object(folder / "config_sentence_transformers.json").get("model_type", SINGLE_VECTOR))
    modules = read_modules(folder)
    for module in modules:
        kind = module["type"]
        if not kind.startswith("sentence_transformers."):
            raise CheckpointError(f"{folder} needs its own code (module {kind}): trust_remote_code is not supported")
        if kind.rpartition(".")[2] not in MODULES:
            raise CheckpointError(
                f"{folder} has the module {kind}, which cannot be built: expected {', '.join(MODULES)}"
            )
        activation = read_object(folder / module["path"] / CONFIG).get("activation_function", "torch.nn.")
        if kind.endswith(".Dense") and not str(activation).startswith("torch.nn."):
            raise CheckpointError(
                f"{folder} has a Dense with activation {activation}: only activations of torch.nn are supported"
            )
    if modules and not modules[0]["type"].endswith(".Transformer"):
        raise CheckpointError(f"{folder} begins with {modules[0]['type']}: only a Transformer has exits")
    encoder = encoder_folder(folder)
    if not (encoder / CONFIG).is_file():
        raise CheckpointError(f"{encoder} is no checkpoint, because it has no {CONFIG}: {_instead(encoder)}")
    config = read_object(encoder / CONFIG)
    for settings in (config, read_object(encoder / "tokenizer_config.json")):
        if code := settings.get("auto_map"):
            names = sorted(map(str, code)) if isinstance(code, dict | list) else code
            raise CheckpointError(f"{folder} needs its own code (auto_map {names}): trust_remote_code is not supported")
    if "vision_config" in config:
        raise CheckpointError(f"{folder} reads images too ({config.get('model_type')}): only text encoders have exits")
    if not modules and _scores_pairs(config):
        _check_kind(folder, "CrossEncoder")
    _check_weights(encoder)
    if not read_object(encoder / TOKENIZER) and not any(next(encoder.glob(name), None) for name in OTHER_TOKENIZERS):
        raise CheckpointError(f"{encoder} has no tokenizer ({TOKENIZER}): copy the one that belongs to these weights")


def _check_large_files(folder: Path) -> None:
    """Raise CheckpointError if a file that loading reads cannot be read, or is a pointer that git-lfs left."""
    patterns = [depth + name for depth in ("", "*/", "exits/*/") for name in LARGE]
    for path in (path for pattern in patterns for path in sorted(folder.glob(pattern))):
        is_read = path.suffix != ".bin" or not (path.parent / WEIGHTS[0]).exists()
        if is_read and path.is_file() and not os.access(path, os.R_OK):  # libraries say that there is no such file
            raise CheckpointError(f"{path} cannot be read: give yourself permission to read it")
        if is_read and path.is_file() and path.stat().st_size < 1024 and path.read_bytes().startswith(POINTER):
            raise CheckpointError(
                f"{path} is a pointer of git-lfs, not the file itself: run `git lfs pull` in {folder}"
            )


def _check_kind(folder: Path, kind: object) -> None:
    if kind != SINGLE_VECTOR:
        raise CheckpointError(
            f"{folder} is a {kind} of sentence-transformers, which gives no single dense vector of a text: use a "
            f"{SINGLE_VECTOR}"
        )


def _scores_pairs(config: dict[str, Any]) -> bool:
    """Whether a CrossEncoder has this config: it is a classifier with one class, or with a key of a CrossEncoder."""
    names, labels = config.get("architectures"), config.get("id2label")
    is_classifier = isinstance(names, list) and any(str(name).endswith("ForSequenceClassification") for name in names)
    one_class = isinstance(labels, dict) and len(labels) == 1
    return is_classifier and (one_class or any(key in config for key in OF_CROSS_ENCODER))


def _check_weights(encoder: Path) -> None:
    """Raise CheckpointError if a file of weights is missing."""
    found = [path for name in WEIGHTS for path in (encoder / name, encoder / (name + SPLIT)) if path.is_file()]
    if not found:
        raise CheckpointError(f"{encoder} has no weights ({' or '.join(WEIGHTS)}): {_instead(encoder)}")
    if found[0].name.endswith(SPLIT):
        places = read_object(found[0]).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
            raise CheckpointError(
                f"{found[0]} has no weight_map, which says in which file a tensor is: download it again"
            )
        missing = sorted(place for place in set(places.values()) if not (encoder / place).is_file())
        if missing:
            raise CheckpointError(
                f"{found[0]} names {missing[0]}, which is missing. {len(missing)} of {len(set(places.values()))} files "
                "of weights are missing: download them"
            )


def _instead(folder: Path) -> str:
    """What a folder has in place of a checkpoint, and what to do, in words."""
    for pattern, what, remedy in INSTEAD:
        if next(folder.glob(pattern), None):
            return f"it has {what}: {remedy}"
    expected = "expected a folder of sentence-transformers or transformers"
    return expected if folder.is_dir() and any(folder.iterdir()) else f"it is empty, {expected}"
