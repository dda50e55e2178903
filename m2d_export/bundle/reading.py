"""A manifest read from its JSON: every field is checked before anything uses it (docs/bundle-format.md)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from m2d_export.bundle.manifest import DEFAULT, FORMAT, TOKENIZER, FileEntry, Manifest, VariantEntry
from m2d_export.errors import ManifestError
from m2d_export.spec import EngineEntry, EngineKey, Grid, Origin, Pooling, Precision, ShapeRange, TextSpec

SHA256_DIGITS = 64
PARITY = {"texts", "finite", "cosine_min", "cosine_mean", "max_abs_diff", "invariance", "distinction"}


def read_manifest(text: str) -> Manifest:
    """The manifest that ``text`` holds; raises ManifestError for everything that the format does not allow."""
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
        if not isinstance(data, dict) or "format" not in data:
            raise ManifestError("it has no format number, so it is not a bundle's manifest")
        if data["format"] != FORMAT or isinstance(data["format"], bool):
            raise ManifestError(f"format {data['format']!r} is unknown: this version reads format {FORMAT}")
        return _manifest(data)
    except KeyError as error:
        raise ManifestError(f"field {error} is missing") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ManifestError(str(error) or type(error).__name__) from error


def _manifest(data: dict[str, Any]) -> Manifest:
    grid, text, origin, pooling = data["grid"], data["text"], data["origin"], data["pooling"]
    files = {
        _path(path): FileEntry(_whole(entry["size"]), _sha256(entry["sha256"])) for path, entry in data["files"].items()
    }
    variants = tuple(_variant(entry, files) for entry in _list(data["variants"]))
    if TOKENIZER not in files:
        raise ManifestError(f"{TOKENIZER} is not among the files")
    if {entry.layer for entry in variants} != set(_list(grid["layers"])):
        raise ManifestError("the layers of the variants are not the layers of the grid")
    return Manifest(
        origin=Origin(
            name=_name(origin["name"]),
            revision=None if origin["revision"] is None else _name(origin["revision"]),
            fingerprint=_sha256(origin["fingerprint"]),
        ),
        architecture=_name(data["architecture"]),
        grid=Grid(
            _whole(grid["depth"]),
            _whole(grid["width"]),
            *(tuple(map(_whole, _list(grid[key]))) for key in ("layers", "dims", "trained_dims")),
        ),
        trained_layers=tuple(_whole(layer, at_least=1) for layer in _list(data["trained_layers"])),
        pooling=Pooling(tuple(map(_string, _list(pooling["modes"]))), _flag(pooling["include_prompt"])),
        heads=tuple(_whole(layer, at_least=1) for layer in _list(data["heads"])),
        normalize=_flag(data["normalize"]),
        text=TextSpec(
            max_tokens=_whole(text["max_tokens"], at_least=1),
            pad_id=_whole(text["pad_id"]),
            prompts={_name(name): _string(prompt) for name, prompt in text["prompts"].items()},
            default_prompt_name=None if text["default_prompt_name"] is None else _string(text["default_prompt_name"]),
            include_prompt=_flag(text["include_prompt"]),
        ),
        variants=variants,
        files=files,
        versions={_name(name): _name(version) for name, version in data["versions"].items()},
        similarity=_name(data["similarity"]),
        truncate_dim=None if data["truncate_dim"] is None else _whole(data["truncate_dim"], at_least=1),
        calibration=None if data["calibration"] is None else _name(data["calibration"]),
        engines=tuple(_engine(entry, files, variants) for entry in _list(data["engines"])),
    )


def _variant(entry: dict[str, Any], files: Mapping[str, FileEntry]) -> VariantEntry:
    graphs = {_name(runtime): _string(path) for runtime, path in entry["graphs"].items()}
    if DEFAULT not in graphs:
        raise ManifestError(f"a variant needs a graph called {DEFAULT!r}; it has {sorted(graphs)}")
    for path in (*graphs.values(), entry["weights"]):
        if path not in files:
            raise ManifestError(f"{path!r} is not among the files")
    parity = {_string(name): _number(value) for name, value in entry["parity"].items()}
    for name in sorted(PARITY - parity.keys()):
        raise KeyError(name)
    return VariantEntry(
        _whole(entry["layer"], at_least=1), Precision(entry["precision"]), graphs, entry["weights"], parity
    )


def _engine(entry: dict[str, Any], files: Mapping[str, FileEntry], variants: Sequence[VariantEntry]) -> EngineEntry:
    layer, precision, path, data = entry["layer"], entry["precision"], entry["path"], entry["key"]
    if path not in files:
        raise ManifestError(f"{path!r} is not among the files")
    key = EngineKey(
        kind=_name(data["kind"]),
        version=_name(data["version"]),
        graph=_sha256(data["graph"]),
        weights=_sha256(data["weights"]),
        shapes=tuple(_shape_range(shape) for shape in _list(data["shapes"])),
        targets=tuple(map(_name, _list(data["targets"]))),
        gpu=None if data["gpu"] is None else _name(data["gpu"]),
        flags=tuple(map(_name, _list(data["flags"]))),
    )
    variant = next((item for item in variants if (item.layer, item.precision) == (layer, precision)), None)
    if variant is None:
        raise ManifestError(f"no variant belongs to the engine {path!r}")
    graph = variant.graph()
    here, made_from = (files[graph].sha256, files[variant.weights].sha256), (key.graph, key.weights)
    if here != made_from:
        expected, found = (", ".join(sha256[:12] for sha256 in side) for side in (made_from, here))
        raise ManifestError(
            f"the engine {path!r} was built from another graph than {graph!r}: it expects graph and weights with the "
            f"sha256 {expected}, but they have {found}; build the bundle again"
        )
    return EngineEntry(variant.layer, variant.precision, path, key)


def _shape_range(data: dict[str, Any]) -> ShapeRange:
    sizes = [[_whole(size, at_least=1) for size in _list(data[name])] for name in ("min", "opt", "max")]
    if any(len(size) != len(("batch", "tokens")) for size in sizes):
        raise ManifestError(f"expected batch and tokens, got {sizes}")
    return ShapeRange(*((batch, tokens) for batch, tokens in sizes))


def _refuse_constant(name: str) -> NoReturn:
    raise ManifestError(f"{name} is not a number in JSON")


def _path(path: str) -> str:
    """Refuse a path that leads out of the bundle on any operating system, or that could upset a terminal."""
    strange = len(path) > 1024 or not path.isprintable() or set(path) & set("\\:")
    if strange or any(part in ("", ".", "..") for part in path.split("/")):
        raise ManifestError(f"{path[:80]!r} is not a path inside a bundle")
    return path


def _name(value: object) -> str:
    """A string that can be printed: control characters could upset a terminal."""
    if not _string(value).isprintable():
        raise ManifestError(f"expected printable characters, got {value!r}")
    return str(value)


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ManifestError(f"expected a list, got {value!r}")
    return value


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise ManifestError(f"expected a string, got {value!r}")
    value.encode("utf-8")  # JSON can hold lone surrogates, which cannot be printed: this raises
    return value


def _sha256(value: object) -> str:
    if not isinstance(value, str) or len(value) != SHA256_DIGITS or set(value) - set("0123456789abcdef"):
        raise ManifestError(f"expected a sha256, got {value!r}")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ManifestError(f"expected true or false, got {value!r}")
    return value


def _whole(value: object, at_least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value < 1 << 63:
        raise ManifestError(f"expected a whole number of at least {at_least}, got {value!r}")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not -1 << 63 <= value < 1 << 63:
        raise ManifestError(f"expected a number, got {value!r}")
    return value
