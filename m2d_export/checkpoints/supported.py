"""Refuses a checkpoint that asks for something this package cannot honour, and names it."""

from collections.abc import Sequence
from pathlib import Path

from m2d_export.checkpoints.folder import encoder_folder, read_modules, read_object
from m2d_export.errors import CheckpointError

UNUSED_WEIGHTS = ("pooler.",)  # BERT's next-sentence head, which no exit reads


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


def check_weights(name: str, layers: int, missing: Sequence[str]) -> None:
    """Raise CheckpointError if weights are ``missing``, because transformers fills them with random numbers."""
    needed = sorted(key for key in missing if not key.startswith(UNUSED_WEIGHTS))
    if needed:
        raise CheckpointError(
            f"{name}: its config has {layers} layers, but {len(needed)} of their tensors are missing from its weights, "
            f"the first {needed[0]}: use the config that belongs to these weights"
        )
