"""Write an exit as an ordinary sentence-transformers folder, with its head as an ordinary Dense.

Exit 0 becomes a StaticEmbedding. model2vec loads its folder too.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as RustTokenizer

from m2d_export.checkpoints.load import NO_TABLE, Checkpoint, load_checkpoint, quietly
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
    from torch import Tensor, nn

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
        if layer == 0 and loaded.table is None:
            raise CheckpointError(NO_TABLE)
        grid = Grid(loaded.depth, loaded.width, loaded.exits, default_dims(loaded.width), (loaded.width,))
        grid.check_layer(layer)
        cut = grid.check_dim(dim if dim is not None else loaded.truncate_dim or loaded.width)
        with quietly():
            if layer == 0:
                _write_static(loaded, cut, staging)
            else:
                _plain_model(loaded, layer, cut).save(str(staging), create_model_card=False)
            _check_saved(staging, loaded, layer, cut)
    return path


def _plain_model(loaded: Checkpoint, layer: int, dim: int) -> "SentenceTransformer":
    """The checkpoint with ``layer`` layers and, if that exit has one, its head."""
    from m2d_export.checkpoints.exits import cut_checkpoint

    if layer < loaded.depth and final_norm(loaded.encoder):
        raise CheckpointError(
            f"{loaded.architecture} has a final norm, and exit {layer} is without it: no plain sentence-transformers "
            "folder can be that exit. Build a bundle instead"
        )
    first, pooling, *rest = list(loaded.original)
    first.model = cut_checkpoint(loaded, layer).encoder
    head = loaded.heads.get(layer)
    if head is not None and not head.spec.is_plain:
        read = ", ".join(f"the mean of {place}" if place in head.spec.mean else str(place) for place in head.spec.reads)
        raise CheckpointError(
            f"the head of exit {layer} reads the layers {read}, and a plain sentence-transformers folder pools only "
            "its last one, in the usual way: build a bundle, and write this cell as a folder with "
            f"m2d-export onnx BUNDLE --cell {layer}x{dim}"
        )
    heads = [] if head is None else [head.dense]
    return with_modules(loaded, [first, pooling, *heads, *rest], None if dim == loaded.width else dim)


def with_modules(loaded: Checkpoint, modules: "list[nn.Module]", truncate_dim: int | None) -> "SentenceTransformer":
    """A model of these modules, with the prompts and the similarity of the checkpoint."""
    model: SentenceTransformer = require("sentence_transformers", "build").SentenceTransformer(
        modules=modules,
        prompts=loaded.original.prompts,
        default_prompt_name=loaded.original.default_prompt_name,
        similarity_fn_name=loaded.similarity,
        truncate_dim=truncate_dim,
        device="cpu",
    )
    return model


def _write_static(loaded: Checkpoint, dim: int, folder: Path) -> None:
    """Write exit 0 as the files of model2vec, which sentence-transformers loads as a StaticEmbedding.

    Each row has gone through the modules after the table, and is cut to ``dim`` numbers. Rows of special tokens are
    zero. ``tokenizer.json`` truncates a text, because neither library counts the special tokens.
    """
    modules = require("sentence_transformers.sentence_transformer.modules", "build")
    tokenizer = RustTokenizer.from_str(loaded.tokenizer_json)
    tokenizer.no_padding()
    limit = loaded.text.max_tokens - tokenizer.num_special_tokens_to_add(is_pair=False)
    tokenizer.enable_truncation(limit)
    vocabulary = tokenizer.get_vocab()
    rows = _static_rows(loaded, dim)[: max(vocabulary.values()) + 1]
    tensors = {"embeddings": rows}
    if len(vocabulary) != len(rows):  # then model2vec needs the row of each token id
        tensors["mapping"] = require("torch", "build").arange(len(rows))
    ends = [modules.Normalize()] if loaded.normalize else []
    static = modules.StaticEmbedding(tokenizer, embedding_weights=rows)
    with_modules(loaded, [static, *ends], None).save(str(folder), create_model_card=False)
    require("safetensors.torch", "build").save_file(tensors, folder / "model.safetensors")
    config = {
        "model_type": "model2vec",
        "architectures": ["StaticModel"],
        "hidden_dim": dim,
        "normalize": loaded.normalize,
        "max_length": limit,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _static_rows(loaded: Checkpoint, dim: int) -> "Tensor":
    """The rows of exit 0 after the checkpoint's modules: (vocabulary, dim); special tokens have rows of zeros.

    Raises CheckpointError if the mean of such rows is not the vector of the exit.
    """
    torch = require("torch", "build")
    from m2d_export.checkpoints.exits import ExitEncoder

    table: Any = loaded.table
    instead = "build a bundle, and write this cell as a folder with m2d-export onnx"
    if not loaded.text.include_prompt and any(loaded.text.prompts.values()):
        raise CheckpointError(f"this checkpoint does not pool its prompts, but StaticEmbedding does: {instead}")
    for module in loaded.tail:
        activation = getattr(module, "activation_function", None)
        if type(module).__name__ != "Dropout" and not isinstance(activation, torch.nn.Identity):
            name = type(activation or module).__name__
            raise CheckpointError(f"a mean of token vectors cannot go through {name} before the mean: {instead}")
    with torch.no_grad():
        rows: Tensor = ExitEncoder(loaded, [0]).after_tail(table.weight)[:, :dim].clone()
    rows[Tokenizer(loaded.tokenizer_json, loaded.text).special_ids] = 0
    return rows


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
