"""An exit as an ordinary sentence-transformers folder: the truncated encoder, its head a plain Dense."""

from pathlib import Path

from m2d_export.checkpoints.load import load_checkpoint, quietly
from m2d_export.errors import CheckpointError, OutputError
from m2d_export.host.extras import require
from m2d_export.host.files import publish, remove_stale, staged_directory, writing
from m2d_export.spec import Grid, default_dims
from m2d_export.text.batches import Tokenizer, pad
from m2d_export.vectors import cosine, truncate

SAMPLE = ("A man is playing a guitar on the stage.", "Interest rates rose for the third month in a row.")
MIN_COSINE = 0.99999


def slice_checkpoint(
    checkpoint: str, layer: int, target: str | Path, *, dim: int | None = None, revision: str | None = None
) -> Path:
    """Write exit ``layer`` of a checkpoint, cut to ``dim`` numbers if given, as a sentence-transformers folder.

    The folder is loaded again and compared with the exit before it appears at ``target``. Raises SpecError,
    CheckpointError where no plain folder can express the exit (a pre-LN encoder's), OutputError if ``target`` exists.
    """
    sentence_transformers = require("sentence_transformers", "build")
    from m2d_export.checkpoints import exits as reference

    path = Path(target).expanduser().absolute()
    if path.exists() or path.is_symlink():
        raise OutputError(f"{path} exists: choose another path, or remove it yourself")
    loaded = load_checkpoint(checkpoint, revision)
    every = tuple(range(1, loaded.depth + 1))
    grid = Grid(loaded.depth, loaded.width, every, default_dims(loaded.width), (loaded.width,))
    grid.check_layer(layer)
    kept = grid.check_dim(dim if dim is not None else loaded.truncate_dim or loaded.width)

    if layer < loaded.depth and reference.norms_its_last_layer(loaded.encoder):
        raise CheckpointError(
            f"{loaded.architecture} norms its last layer, and exit {layer} is the layer without that norm: no plain "
            "sentence-transformers folder can be it. Build a bundle instead"
        )
    cut = reference.truncate(loaded, layer)
    first, pooling, *rest = list(loaded.original)
    first.model = cut.encoder
    heads = [cut.heads[layer]] if layer in cut.heads else []
    model = sentence_transformers.SentenceTransformer(
        modules=[first, pooling, *heads, *rest],
        prompts=loaded.original.prompts,
        default_prompt_name=loaded.original.default_prompt_name,
        similarity_fn_name=loaded.similarity,
        truncate_dim=None if kept == loaded.width else kept,
        device="cpu",
    )
    remove_stale(path)
    with staged_directory(path) as staging, writing(path), quietly():
        model.save(str(staging), create_model_card=False)
        plain = sentence_transformers.SentenceTransformer(str(staging), device="cpu").encode(list(SAMPLE))
        tokens = Tokenizer(loaded.tokenizer_json, loaded.text).encode(SAMPLE, loaded.text.prompt())
        exit_ = reference.ExitEncoder(loaded, [layer]).vectors(pad(tokens, loaded.text, range(len(tokens))))[0]
        if cosine(plain, truncate(exit_, kept)).min() < MIN_COSINE:
            raise CheckpointError(
                f"{loaded.architecture} cut to {layer} layers and saved does not give the vectors of exit {layer}"
            )
        publish(staging, path, replace=False)
    return path
