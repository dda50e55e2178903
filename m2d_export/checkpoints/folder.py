"""The folder of a checkpoint: where it lies, its JSON files, and what it must not ask for."""

import json
import re
from pathlib import Path
from typing import Any

from m2d_export.errors import CheckpointError, first_line
from m2d_export.host.checks import check_format
from m2d_export.host.extras import require
from m2d_export.host.files import expanded

DOWNLOADED = ("*.json", "*.txt", "*.model")  # and weights of one format, but no code
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
M2D_JSON = "m2d.json"  # docs/checkpoint-format.md
FORMAT = 1  # of m2d.json


def local_folder(name: str, revision: str | None) -> tuple[Path, str | None]:
    """The folder of a checkpoint, and its commit if it comes from the Hub.

    Raises CheckpointError if there is no such folder or Hub id, or if the Hub does not answer.
    """
    folder = expanded(name)
    if folder.is_dir():
        if revision is not None:
            raise CheckpointError(f"{name} is a local folder, which has no revisions: leave --revision out")
        return folder.resolve(), None
    if folder.exists() or not HUB_ID.fullmatch(name):
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


def encoder_folder(folder: Path) -> Path:
    """Where config.json and the weights of the encoder lie."""
    modules = read_modules(folder)
    return folder / modules[0]["path"] if modules else folder


def read_exits(folder: Path, depth: int) -> dict[str, Any]:
    """The object of m2d.json: trained layers and dims, and the layers with a head. Empty if there is no such file.

    Raises CheckpointError if its lists or its format are not those of docs/checkpoint-format.md.
    """
    path = folder / M2D_JSON
    found = read_object(path)
    for key in ("layers", "dims", "heads"):
        values = found.get(key, [])
        if not isinstance(values, list) or not all(type(value) is int for value in values):
            raise CheckpointError(f"{path}: {key} is {values!r}, expected a list of whole numbers")
    try:
        check_format(found.get("format", FORMAT), FORMAT)
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    for key in ("layers", "heads"):
        outside = [layer for layer in found.get(key, []) if not 1 <= layer <= depth]
        if outside:
            raise CheckpointError(f"{path}: {key} names {outside}, but layers are 1 to {depth}")
    if depth in found.get("heads", []):
        # sentence-transformers would not apply it, so the full depth would be two different models.
        raise CheckpointError(f"{path}: heads names layer {depth}, but the last layer cannot have a head")
    return found


def check_folder(folder: Path) -> None:
    """Raise CheckpointError if loading would need code from the checkpoint, or would ignore a setting.

    Only JSON files are read, before any library loads the checkpoint.
    """
    modules = read_modules(folder)
    for module in modules:
        kind = module["type"]
        if not kind.startswith("sentence_transformers."):
            raise CheckpointError(f"{folder} needs its own code (module {kind}): trust_remote_code is not supported")
        activation = read_object(folder / module["path"] / "config.json").get("activation_function", "torch.nn.")
        if kind.endswith(".Dense") and not str(activation).startswith("torch.nn."):
            raise CheckpointError(
                f"{folder} has a Dense with activation {activation}: only activations of torch.nn are supported"
            )
    if modules and not modules[0]["type"].endswith(".Transformer"):
        raise CheckpointError(f"{folder} begins with {modules[0]['type']}: only a Transformer has exits")
    _check_encoder(folder, encoder_folder(folder))


def _check_encoder(folder: Path, encoder: Path) -> None:
    if not (encoder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} is no checkpoint, because it has no config.json: expected a folder of sentence-transformers or "
            "transformers"
        )
    config = read_object(encoder / "config.json")
    for settings in (config, read_object(encoder / "tokenizer_config.json")):
        if settings.get("auto_map"):
            names = sorted(settings["auto_map"])
            raise CheckpointError(f"{folder} needs its own code (auto_map {names}): trust_remote_code is not supported")
    if config.get("is_encoder_decoder"):
        raise CheckpointError(f"{folder} is an encoder-decoder ({config.get('model_type')}): only encoders have exits")
    if (encoder / "adapter_config.json").exists():
        raise CheckpointError(f"{folder} holds an adapter: merge it into its base model first (merge_and_unload)")
