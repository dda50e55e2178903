"""Write an exit as an ordinary sentence-transformers folder, with its head as an ordinary Dense."""

from pathlib import Path
from typing import TYPE_CHECKING

from m2d_export.checkpoints.load import Checkpoint, load_checkpoint, quietly
from m2d_export.checkpoints.modules import final_norm
from m2d_export.errors import CheckpointError
from m2d_export.host.extras import require
from m2d_export.host.files import followed
from m2d_export.host.folders import new_folder
from m2d_export.spec import Grid, default_dims
from m2d_export.text.batches import pad
from m2d_export.text.tokenizer import Tokenizer
from m2d_export.vectors import cosine, truncate

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

SAMPLE = ("A man is playing a guitar on the stage.", "Interest rates rose for the third month in a row.")
MIN_COSINE = 0.99999


def slice_checkpoint(
    checkpoint: str, layer: int, target: str | Path, *, dim: int | None = None, revision: str | None = None
) -> Path:
    """Write exit ``layer``, cut to ``dim`` numbers, as a sentence-transformers folder; returns its path.

    The saved folder is loaded and compared with the exit before it appears at ``target``. Raises SpecError for a layer
    or dim that does not exist, OutputError if ``target`` exists, and CheckpointError if the checkpoint cannot be loaded
    or if an ordinary folder cannot be this exit.
    """
    path = followed(target)
    with new_folder(path) as staging:
        loaded = load_checkpoint(checkpoint, revision)
        every = tuple(range(1, loaded.depth + 1))
        grid = Grid(loaded.depth, loaded.width, every, default_dims(loaded.width), (loaded.width,))
        grid.check_layer(layer)
        cut = grid.check_dim(dim if dim is not None else loaded.truncate_dim or loaded.width)
        with quietly():
            _plain_model(loaded, layer, cut).save(str(staging), create_model_card=False)
            _check_saved(staging, loaded, layer, cut)
    return path


def _plain_model(loaded: Checkpoint, layer: int, dim: int) -> "SentenceTransformer":
    """The checkpoint with ``layer`` layers and, if that exit has one, its head."""
    sentence_transformers = require("sentence_transformers", "build")
    from m2d_export.checkpoints.exits import cut_checkpoint

    if layer < loaded.depth and final_norm(loaded.encoder):
        raise CheckpointError(
            f"{loaded.architecture} has a final norm, and exit {layer} is without it: no plain sentence-transformers "
            "folder can be that exit. Build a bundle instead"
        )
    first, pooling, *rest = list(loaded.original)
    first.model = cut_checkpoint(loaded, layer).encoder
    head = loaded.heads.get(layer)
    if head is not None and head.spec.reads != (layer,):
        raise CheckpointError(
            f"the head of exit {layer} reads the layers {', '.join(map(str, head.spec.reads))}, and a plain "
            "sentence-transformers folder reads only one: build a bundle, and write this cell as a folder with "
            f"m2d-export onnx BUNDLE --cell {layer}x{dim}"
        )
    heads = [] if head is None else [head.dense]
    model: SentenceTransformer = sentence_transformers.SentenceTransformer(
        modules=[first, pooling, *heads, *rest],
        prompts=loaded.original.prompts,
        default_prompt_name=loaded.original.default_prompt_name,
        similarity_fn_name=loaded.similarity,
        truncate_dim=None if dim == loaded.width else dim,
        device="cpu",
    )
    return model


def _check_saved(folder: Path, loaded: Checkpoint, layer: int, dim: int) -> None:
    """Raise CheckpointError if the saved folder does not give the vectors of the exit."""
    from m2d_export.checkpoints.exits import ExitEncoder

    sentence_transformers = require("sentence_transformers", "build")
    plain = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(list(SAMPLE))
    tokens = Tokenizer(loaded.tokenizer_json, loaded.text).encode(SAMPLE, loaded.text.prompt())
    (expected,) = ExitEncoder(loaded, [layer]).vectors(pad(tokens, loaded.text, range(len(tokens))))
    if cosine(plain, truncate(expected, dim)).min() < MIN_COSINE:
        raise CheckpointError(
            f"{loaded.architecture} cut to {layer} layers and saved does not give the vectors of exit {layer}: "
            "build a bundle instead"
        )
