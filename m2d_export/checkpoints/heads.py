"""The modules that an exit has of its own: a linear head, or the table of exit 0."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2d_export.checkpoints.folder import EXITS, M2D_JSON, read_object
from m2d_export.errors import CheckpointError
from m2d_export.host.extras import require
from m2d_export.spec import HeadSpec, Pooling

if TYPE_CHECKING:
    from torch import nn

LINEAR = "torch.nn.modules.linear.Identity"  # the activation of a Dense without one


@dataclass(frozen=True)
class Head:
    """A head and its weights: ``dense`` is a Dense of sentence-transformers, without an activation."""

    spec: HeadSpec
    dense: "nn.Module"


def numbers_read(spec: HeadSpec, hidden: int, usual: Pooling) -> int:
    """How many numbers a head reads, from layers of ``hidden`` numbers that are pooled as ``usual``."""
    return sum(hidden * len(spec.pooling(layer, usual).modes) for layer in spec.reads)


def load_heads(folder: Path, specs: Sequence[HeadSpec], hidden: int, pooling: Pooling) -> dict[int, Head]:
    """The heads by layer; raises CheckpointError if one is missing or has another shape than ``specs`` says."""
    if not specs:
        return {}
    dense = require("sentence_transformers.base.modules.dense", "build").Dense
    heads = {}
    for spec in specs:
        path = folder / EXITS / str(spec.layer)
        if not (path / "config.json").is_file():
            raise CheckpointError(f"{path} is missing: {M2D_JSON} names a head at layer {spec.layer}")
        activation = read_object(path / "config.json").get("activation_function")
        if activation != LINEAR:
            raise CheckpointError(f"{path} has activation {activation}: a head is linear, with activation Identity")
        module: Any = dense.load(str(path)).float().eval()
        expected = numbers_read(spec, hidden, pooling), hidden * len(pooling.modes)
        if (module.in_features, module.out_features) != expected:
            raise CheckpointError(
                f"{path} maps {module.in_features} numbers to {module.out_features}, expected {expected[0]} to "
                f"{expected[1]}, because it reads the layers {', '.join(map(str, spec.reads))} ({M2D_JSON})"
            )
        heads[spec.layer] = Head(spec, module)
    return heads


def load_table(folder: Path, vocabulary: int, width: int) -> "nn.Module | None":
    """The table of exit 0, a vector for each token: (vocabulary, width) float32; None if the checkpoint has none.

    It is saved as a StaticEmbedding of sentence-transformers. Raises CheckpointError if it has another shape.
    """
    path = folder / EXITS / "0"
    if not path.exists():
        return None
    torch, safetensors = require("torch", "build"), require("safetensors.torch", "build")
    tensors: dict[str, Any] = safetensors.load_file(path / "model.safetensors")
    table = tensors.get("embedding.weight")
    if table is None or tuple(table.shape) != (vocabulary, width):
        found = "no embedding.weight" if table is None else f"a table of {' x '.join(map(str, table.shape))}"
        raise CheckpointError(f"{path} has {found}, expected {vocabulary} x {width}: a row for each token")
    embedding: nn.Module = torch.nn.Embedding.from_pretrained(table.float()).eval()
    return embedding
