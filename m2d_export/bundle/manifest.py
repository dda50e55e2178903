"""The manifest of a bundle: what it holds, and how it is read with every field checked (docs/bundle-format.md)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from m2d_export.errors import ManifestError
from m2d_export.host.checks import (
    Check,
    check_that,
    flag,
    list_of,
    number,
    object_of,
    or_null,
    parse_json,
    printable,
    sha256,
    whole,
    whole_from,
)
from m2d_export.spec import DEFAULT, EngineEntry, EngineKey, Grid, Origin, Pooling, Precision, ShapeRange, TextSpec

FORMAT = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
GRAPHS = "graphs"
T = TypeVar("T")
PARITY = ("texts", "finite", "cosine_min", "cosine_mean", "max_abs_diff", "invariance", "distinction")
SURROGATES = range(0xD800, 0xE000)  # JSON can hold them without their pair, and no UTF-8 text can

positive = whole_from(1)
text_of = check_that(
    lambda value: isinstance(value, str) and not any(ord(letter) in SURROGATES for letter in value),
    "a string without lone surrogates",
)
metric: Check[float] = check_that(lambda value: isinstance(value, bool) or number(value) is not None, "a number")
shape = list_of(positive, length=2)
objects = list_of(check_that(lambda value: isinstance(value, dict), "an object"))


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


def read_manifest(text: str) -> Manifest:
    """The manifest that ``text`` holds; raises ManifestError for everything that the format does not allow."""
    try:
        data = parse_json(text)
        if not isinstance(data, dict) or "format" not in data:
            raise ManifestError("it has no format number, so it is not a bundle's manifest")
        if data["format"] != FORMAT or isinstance(data["format"], bool):
            raise ManifestError(f"format {data['format']!r} is unknown: this version reads format {FORMAT}")
        return _manifest(data)
    except KeyError as error:
        raise ManifestError(f"field {error} is missing") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ManifestError(str(error) or type(error).__name__) from error


def _manifest(data: dict[str, Any]) -> Manifest:
    grid, text, origin, pooling = data["grid"], data["text"], data["origin"], data["pooling"]
    files = {
        _path(path): FileEntry(whole(entry["size"]), sha256(entry["sha256"])) for path, entry in data["files"].items()
    }
    variants = tuple(_variant(entry, files) for entry in objects(data["variants"]))
    if TOKENIZER not in files:
        raise ManifestError(f"{TOKENIZER} is not among the files")
    if {entry.layer for entry in variants} != set(grid["layers"]):
        raise ManifestError("the layers of the variants are not the layers of the grid")
    return Manifest(
        origin=Origin(printable(origin["name"]), or_null(printable)(origin["revision"]), sha256(origin["fingerprint"])),
        architecture=printable(data["architecture"]),
        grid=Grid(
            depth=whole(grid["depth"]),
            width=whole(grid["width"]),
            layers=tuple(list_of(whole)(grid["layers"])),
            dims=tuple(list_of(whole)(grid["dims"])),
            trained_dims=tuple(list_of(whole)(grid["trained_dims"])),
        ),
        trained_layers=tuple(list_of(positive)(data["trained_layers"])),
        pooling=Pooling(tuple(list_of(text_of)(pooling["modes"])), flag(pooling["include_prompt"])),
        heads=tuple(list_of(positive)(data["heads"])),
        normalize=flag(data["normalize"]),
        text=TextSpec(
            max_tokens=positive(text["max_tokens"]),
            pad_id=whole(text["pad_id"]),
            prompts=_named(object_of(text_of)(text["prompts"])),
            default_prompt_name=or_null(text_of)(text["default_prompt_name"]),
            include_prompt=flag(text["include_prompt"]),
        ),
        variants=variants,
        files=files,
        versions=_named(object_of(printable)(data["versions"])),
        similarity=printable(data["similarity"]),
        truncate_dim=or_null(positive)(data["truncate_dim"]),
        calibration=or_null(printable)(data["calibration"]),
        engines=tuple(_engine(entry, files, variants) for entry in objects(data["engines"])),
    )


def _variant(entry: dict[str, Any], files: Mapping[str, FileEntry]) -> VariantEntry:
    graphs = _named(object_of(text_of, DEFAULT)(entry["graphs"]))
    for path in (*graphs.values(), entry["weights"]):
        if path not in files:
            raise ManifestError(f"{path!r} is not among the files")
    parity = _named(object_of(metric, *PARITY)(entry["parity"]))
    return VariantEntry(positive(entry["layer"]), Precision(entry["precision"]), graphs, entry["weights"], parity)


def _engine(entry: dict[str, Any], files: Mapping[str, FileEntry], variants: Sequence[VariantEntry]) -> EngineEntry:
    layer, precision, path, data = entry["layer"], entry["precision"], entry["path"], entry["key"]
    if path not in files:
        raise ManifestError(f"{path!r} is not among the files")
    key = EngineKey(
        kind=printable(data["kind"]),
        version=printable(data["version"]),
        graph=sha256(data["graph"]),
        weights=sha256(data["weights"]),
        shapes=tuple(_shape_range(item) for item in objects(data["shapes"])),
        targets=tuple(list_of(printable)(data["targets"])),
        gpu=or_null(printable)(data["gpu"]),
        flags=tuple(list_of(printable)(data["flags"])),
    )
    variant = next((item for item in variants if (item.layer, item.precision) == (layer, precision)), None)
    if variant is None:
        raise ManifestError(f"no variant belongs to the engine {path!r}")
    graph = variant.graph()
    here, made_from = (files[graph].sha256, files[variant.weights].sha256), (key.graph, key.weights)
    if here != made_from:
        expected, found = (", ".join(digest[:12] for digest in side) for side in (made_from, here))
        raise ManifestError(
            f"the engine {path!r} was built from another graph than {graph!r}: it expects graph and weights with the "
            f"sha256 {expected}, but they have {found}; build the bundle again"
        )
    return EngineEntry(variant.layer, variant.precision, path, key)


def _shape_range(data: dict[str, Any]) -> ShapeRange:
    sizes = (shape(data[name]) for name in ("min", "opt", "max"))
    return ShapeRange(*((batch, tokens) for batch, tokens in sizes))


def _named(values: dict[str, T]) -> dict[str, T]:
    """The same object, after a check that its keys can be printed."""
    return {printable(name): value for name, value in values.items()}


def _path(path: str) -> str:
    """Refuse a path that leads out of the bundle on any operating system, or that could upset a terminal."""
    strange = len(path) > 1024 or not path.isprintable() or set(path) & set("\\:")
    if strange or any(part in ("", ".", "..") for part in path.split("/")):
        raise ManifestError(f"{path[:80]!r} is not a path inside a bundle")
    return path
