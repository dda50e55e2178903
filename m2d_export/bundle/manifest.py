"""The manifest of a bundle, and how it is read with a check of every field (docs/bundle-format.md)."""

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, TypeVar

from m2d_export.errors import ManifestError
from m2d_export.host.checks import (
    LIMIT,
    Check,
    check_format,
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
from m2d_export.spec import (
    DEFAULT,
    EngineEntry,
    EngineKey,
    Grid,
    HeadSpec,
    Origin,
    Pooling,
    Precision,
    ShapeRange,
    TextSpec,
)

FORMAT = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
GRAPHS = "graphs"
ROTATION = "rotation.npy"
REASON_LENGTH = 200  # characters of a message that quotes a manifest
T = TypeVar("T")
PARITY = ("texts", "finite", "cosine_min", "cosine_mean", "max_abs_diff", "invariance", "distinction")
SURROGATES = range(0xD800, 0xE000)  # JSON can have only one of a pair, but a text in UTF-8 cannot

positive = whole_from(1)
text_of: Check[str] = check_that(
    lambda value: isinstance(value, str) and not any(ord(letter) in SURROGATES for letter in value),
    "a string without lone surrogates",
)
fact = check_that(
    lambda value: (isinstance(value, str) and value.isprintable()) or (type(value) is int and 0 < value < LIMIT),
    "a printable string, or a whole number from 1",
)
metric: Check[float] = check_that(lambda value: isinstance(value, bool) or number(value) is not None, "a number")
shape = list_of(positive, length=2)
objects = list_of(check_that(lambda value: isinstance(value, dict), "an object"))


def graph_path(layer: int, precision: Precision, runtime: str = DEFAULT) -> str:
    """The path of the graph of an exit in a bundle; ``runtime`` names the runtime that the graph was made for."""
    suffix = "" if runtime == DEFAULT else f".{runtime}"
    return f"{GRAPHS}/layer-{layer:02d}.{precision}{suffix}.onnx"


def weights_path(precision: Precision) -> str:
    """The path of the weights of all graphs of a precision in a bundle."""
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

    ``config`` has three fields of the checkpoint's config.json: ``model_type``, ``hidden_size`` and
    ``num_attention_heads``. ``space`` and ``rotation`` are those of the Checkpoint. ``calibration`` says in words which
    texts gave int8 its ranges. It is None if no variant is int8.
    """

    origin: Origin
    architecture: str
    config: Mapping[str, str | int]
    grid: Grid
    trained_layers: tuple[int, ...]
    pooling: Pooling
    heads: tuple[HeadSpec, ...]
    normalize: bool
    text: TextSpec
    variants: tuple[VariantEntry, ...]
    files: Mapping[str, FileEntry]
    versions: Mapping[str, str]
    similarity: str
    truncate_dim: int | None
    space: str
    rotation: str | None = None
    calibration: str | None = None
    engines: tuple[EngineEntry, ...] = ()

    def is_trained_layer(self, layer: int) -> bool:
        """Whether training optimised the exit at ``layer``; without m2d.json, this is only the deepest exit."""
        return layer in self.trained_layers

    @cached_property
    def id(self) -> str:
        """The sha256 of everything that decides which vectors the bundle gives.

        Where, when and with which packages the bundle was built does not change the id.
        """
        data = self._data()
        for name in ("name", "revision"):
            del data["origin"][name]
        for variant in data["variants"]:
            del variant["parity"]
        del data["versions"], data["calibration"]
        canonical = json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def _data(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    def to_json(self) -> str:
        """The text of manifest.json."""
        data = self._data()
        return json.dumps(data, indent=1, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n"


def read_manifest(text: str) -> Manifest:
    """The manifest that ``text`` holds; raises ManifestError for everything that the format does not allow."""
    try:
        data = parse_json(text)
        if not isinstance(data, dict) or "format" not in data:
            raise ValueError("it has no format number, so it is not a bundle's manifest")
    except ValueError as error:
        raise _refused(error) from error
    try:
        check_format(data["format"], FORMAT)
    except ValueError as error:  # it says what to do
        raise ManifestError(str(error)) from error
    try:
        return _manifest(data)
    except KeyError as error:
        raise _refused(f"field {error} is missing") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise _refused(error) from error


def _refused(reason: object) -> ManifestError:
    return ManifestError(f"{str(reason)[:REASON_LENGTH] or type(reason).__name__}. Build the bundle again")


def _manifest(data: dict[str, Any]) -> Manifest:
    grid, text, origin, pooling = data["grid"], data["text"], data["origin"], data["pooling"]
    files = {
        _path(path): FileEntry(whole(entry["size"]), sha256(entry["sha256"])) for path, entry in data["files"].items()
    }
    variants = tuple(_variant(entry) for entry in objects(data["variants"]))
    engines = tuple(_engine(entry) for entry in objects(data["engines"]))
    if {entry.layer for entry in variants} != set(grid["layers"]):
        raise ValueError("the layers of the variants are not the layers of the grid")
    if text["default_prompt_name"] not in (None, *text["prompts"]):
        raise ValueError(f"the default prompt {text['default_prompt_name']!r} is not among the prompts")
    if data["truncate_dim"] is not None and data["truncate_dim"] > grid["width"]:
        raise ValueError(f"truncate_dim is {data['truncate_dim']}, but the width is {grid['width']}")
    _check_roles(files, variants, engines, data["rotation"] is not None)
    for engine in engines:
        _check_graph_of(engine, files, variants)
    return Manifest(
        origin=Origin(printable(origin["name"]), or_null(printable)(origin["revision"]), sha256(origin["fingerprint"])),
        architecture=printable(data["architecture"]),
        config=_named(object_of(fact, "model_type")(data["config"])),
        grid=Grid(
            depth=whole(grid["depth"]),
            width=whole(grid["width"]),
            layers=tuple(list_of(whole)(grid["layers"])),
            dims=tuple(list_of(whole)(grid["dims"])),
            trained_dims=tuple(list_of(whole)(grid["trained_dims"])),
        ),
        trained_layers=tuple(list_of(whole)(data["trained_layers"])),
        pooling=Pooling(tuple(list_of(text_of)(pooling["modes"])), flag(pooling["include_prompt"])),
        heads=tuple(_head(entry) for entry in objects(data["heads"])),
        normalize=flag(data["normalize"]),
        text=TextSpec(
            max_tokens=positive(text["max_tokens"]),
            pad_id=whole(text["pad_id"]),
            prompts=_named(object_of(text_of)(text["prompts"])),
            default_prompt_name=or_null(text_of)(text["default_prompt_name"]),
            include_prompt=flag(text["include_prompt"]),
            vocabulary=positive(text["vocabulary"]),
        ),
        variants=variants,
        files=files,
        versions=_named(object_of(printable)(data["versions"])),
        similarity=printable(data["similarity"]),
        truncate_dim=or_null(positive)(data["truncate_dim"]),
        space=sha256(data["space"]),
        rotation=or_null(sha256)(data["rotation"]),
        calibration=or_null(printable)(data["calibration"]),
        engines=engines,
    )


def _head(entry: dict[str, Any]) -> HeadSpec:
    return HeadSpec(positive(entry["layer"]), *(tuple(list_of(whole)(entry[name])) for name in ("reads", "mean")))


def _variant(entry: dict[str, Any]) -> VariantEntry:
    graphs = _named(object_of(_path, DEFAULT)(entry["graphs"]))
    parity = _named(object_of(metric, *PARITY)(entry["parity"]))
    return VariantEntry(whole(entry["layer"]), Precision(entry["precision"]), graphs, _path(entry["weights"]), parity)


def _engine(entry: dict[str, Any]) -> EngineEntry:
    data = entry["key"]
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
    return EngineEntry(whole(entry["layer"]), Precision(entry["precision"]), _path(entry["path"]), key)


def _check_graph_of(engine: EngineEntry, files: Mapping[str, FileEntry], variants: Sequence[VariantEntry]) -> None:
    """Raise ValueError unless ``engine`` was built from the graph and weights of its variant."""
    place, key = (engine.layer, engine.precision), engine.key
    variant = next((item for item in variants if (item.layer, item.precision) == place), None)
    if variant is None:
        raise ValueError(f"no variant belongs to the engine {engine.path!r}")
    graph = variant.graph()
    here, made_from = (files[graph].sha256, files[variant.weights].sha256), (key.graph, key.weights)
    if here != made_from:
        expected, found = (", ".join(digest[:12] for digest in side) for side in (made_from, here))
        raise ValueError(
            f"the engine {engine.path!r} was built from another graph than {graph!r}: it expects graph and weights "
            f"with the sha256 {expected}, but they have {found}"
        )


def _check_roles(
    files: Mapping[str, FileEntry], variants: Sequence[VariantEntry], engines: Sequence[EngineEntry], rotated: bool
) -> None:
    """Raise ValueError unless each file has one role, and no file system takes the names of two files for one."""
    roles: dict[str, str] = {}
    paths: dict[str, str] = {}
    for path, role in _roles(variants, engines, rotated):
        if path in roles:
            raise ValueError(f"{path!r} is {roles[path]} and {role}: a file has one role")
        if role in paths:
            raise ValueError(f"{paths[role]!r} and {path!r} are {role}: there must be one")
        roles[path], paths[role] = role, path
    if missing := sorted(roles.keys() - files):
        raise ValueError(f"{missing[0]!r} is not among the files")
    if unused := sorted(files.keys() - roles):
        raise ValueError(f"{unused[0]!r} is among the files, but nothing uses it")
    names = {_folded(MANIFEST): MANIFEST}
    for path in files:
        if (other := names.setdefault(_folded(path), path)) != path:
            raise ValueError(f"some systems take {path!r} and {other!r} for one name")


def _roles(
    variants: Sequence[VariantEntry], engines: Sequence[EngineEntry], rotated: bool
) -> Iterator[tuple[str, str]]:
    """Each path that is used, with its role in words. Variants of a precision share one weights file."""
    yield TOKENIZER, "the tokenizer"
    if rotated:
        yield ROTATION, "the rotation"
    for path, precision in dict.fromkeys((entry.weights, entry.precision) for entry in variants):
        yield path, f"the weights of {precision}"
    for entry in variants:
        for runtime, path in entry.graphs.items():
            if PurePosixPath(path).parent != PurePosixPath(entry.weights).parent:
                raise ValueError(f"{path!r} and its weights {entry.weights!r} are not in one folder")
            yield path, f"the graph of layer {entry.layer}, {entry.precision}, {runtime}"
    for engine in engines:
        yield engine.path, f"the engine of layer {engine.layer}, {engine.precision}, {engine.key.kind}"


def _folded(path: str) -> str:
    """A path in a form that is the same for all paths that differ only in case or in Unicode's forms."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())


def _shape_range(data: dict[str, Any]) -> ShapeRange:
    sizes = (shape(data[name]) for name in ("min", "opt", "max"))
    return ShapeRange(*((batch, tokens) for batch, tokens in sizes))


def _named(values: dict[str, T]) -> dict[str, T]:
    """The same object, after a check that its keys can be printed."""
    return {printable(name): value for name, value in values.items()}


def _path(value: object) -> str:
    """Refuse a path that leads out of the bundle on any operating system, or that could upset a terminal."""
    path = text_of(value)
    strange = len(path) > 1024 or not path.isprintable() or set(path) & set("\\:")
    if strange or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(f"{path[:80]!r} is not a path inside a bundle")
    return path
