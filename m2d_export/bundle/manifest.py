"""The manifest of a bundle: what it holds, and where in the bundle each file lies (docs/bundle-format.md)."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from m2d_export.spec import DEFAULT, EngineEntry, Grid, Origin, Pooling, Precision, TextSpec

FORMAT = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
GRAPHS = "graphs"


def graph_path(layer: int, precision: Precision, runtime: str = DEFAULT) -> str:
    """Where the graph of an exit lies; ``runtime`` names the runtime that it was made for."""
    suffix = "" if runtime == DEFAULT else f".{runtime}"
    return f"{GRAPHS}/layer-{layer:02d}.{precision}{suffix}.onnx"


def weights_path(precision: Precision) -> str:
    """Where the weights of all graphs of a precision lie."""
    return f"{GRAPHS}/weights.{precision}.bin"


@dataclass(frozen=True)
class FileEntry:
    """What a file must be: ``size`` in bytes, and its sha256."""

    size: int
    sha256: str


@dataclass(frozen=True)
class VariantEntry:
    """An exit in a precision: its graphs by runtime, their weights, and the parity that was measured.

    ``graphs`` has the key ``default``, and a runtime's name where that runtime has a graph of its own.
    """

    layer: int
    precision: Precision
    graphs: Mapping[str, str]
    weights: str
    parity: Mapping[str, Any]

    def graph(self, runtime: str = DEFAULT) -> str:
        """The graph that ``runtime`` loads."""
        return self.graphs.get(runtime, self.graphs[DEFAULT])


@dataclass(frozen=True)
class Manifest:
    """Everything that a runtime needs to know about a bundle, and every file of it.

    ``calibration`` says in words which texts gave int8 its ranges, None without int8.
    """

    origin: Origin
    architecture: str
    grid: Grid
    trained_layers: tuple[int, ...]
    pooling: Pooling
    heads: tuple[int, ...]
    normalize: bool
    text: TextSpec
    variants: tuple[VariantEntry, ...]
    files: Mapping[str, FileEntry]
    versions: Mapping[str, str]
    similarity: str
    truncate_dim: int | None
    calibration: str | None = None
    engines: tuple[EngineEntry, ...] = ()

    def is_trained_layer(self, layer: int) -> bool:
        """Whether training optimised the exit at ``layer``; without m2d.json only the deepest exit was trained."""
        return layer in self.trained_layers

    def to_json(self) -> str:
        """The text of manifest.json."""
        data = {"format": FORMAT, **asdict(self)}
        return json.dumps(data, indent=1, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n"
