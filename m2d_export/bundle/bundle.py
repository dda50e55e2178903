"""The bundle on disk: its layout, its manifest, and the checks before anything of it is loaded.

The format is specified in docs/bundle-format.md; this is the only module that knows its paths.
"""

import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, Self

from m2d_export.errors import BundleError, IntegrityError, ManifestError, SpecError
from m2d_export.host.files import sha256_of
from m2d_export.spec import RUNTIMES, Engine, EngineKey, Grid, Origin, Pooling, Precision, ShapeRange, TextSpec, Variant
from m2d_export.text.batches import Tokenizer

FORMAT = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
GRAPHS = "graphs"
ENGINES = "engines"
KEPT = ".m2d-kept-"  # beside a bundle, which nothing is ever written to
MAX_MANIFEST_BYTES = 16 << 20
SHA256_DIGITS = 64
PARITY = {"texts", "finite", "cosine_min", "cosine_mean", "max_abs_diff", "invariance", "distinction"}
REASON_LENGTH = 200  # of a message that quotes a manifest


def graph_path(layer: int, precision: Precision, runtime: str = "") -> str:
    """Where the graph of an exit lies in a bundle, or the one that ``runtime`` has for itself."""
    return f"{GRAPHS}/layer-{layer:02d}.{precision}{runtime and f'.{runtime}'}.onnx"


def engine_path(layer: int, precision: Precision, kind: str) -> str:
    """Where the engine of an exit lies."""
    return f"{ENGINES}/layer-{layer:02d}.{precision}.{kind}.engine"


def weights_path(precision: Precision) -> str:
    """Where the weights of all graphs of a precision lie."""
    return f"{GRAPHS}/weights.{precision}.bin"


@dataclass(frozen=True)
class FileEntry:
    """What a file must be: ``size`` in bytes and sha256."""

    size: int
    sha256: str


@dataclass(frozen=True)
class VariantEntry:
    """A graph, the weights beside it, and the parity figures it was published with.

    ``onnxrt`` is the graph of the same numbers that ONNX Runtime is quicker with, where there is one.
    """

    layer: int
    precision: Precision
    path: str
    weights: str
    parity: Mapping[str, Any]
    onnxrt: str | None = None

    def graph(self, runtime: str = "") -> str:
        """The graph that ``runtime`` takes."""
        return self.onnxrt if runtime == "onnxrt" and self.onnxrt else self.path


@dataclass(frozen=True)
class EngineEntry:
    """An engine made from a variant's graph, and all that it hangs on."""

    layer: int
    precision: Precision
    path: str
    key: EngineKey


@dataclass(frozen=True)
class Manifest:
    """Everything a runtime needs to know of a bundle, and every file that belongs to it."""

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
    calibration: str | None = None  # what int8 took its ranges from, for people
    engines: tuple[EngineEntry, ...] = ()

    def is_trained_layer(self, layer: int) -> bool:
        """Whether training optimised the exit at ``layer``; of a checkpoint without m2d.json, the deepest alone."""
        return layer in self.trained_layers

    def to_json(self) -> str:
        """The manifest as it stands in the file."""
        data = {"format": FORMAT, **asdict(self)}
        if self.calibration is None:
            del data["calibration"]  # what has no int8 looks as it did before there was any
        if not self.engines:
            del data["engines"]
        for variant in data["variants"]:
            if variant["onnxrt"] is None:
                del variant["onnxrt"]
        return json.dumps(data, indent=1, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a manifest; raises ManifestError for anything that format 1 does not allow."""
        try:
            data = json.loads(text, parse_constant=_refuse_constant)
            if not isinstance(data, dict) or "format" not in data:
                raise ManifestError("no format number: this is not a bundle's manifest")
            if data["format"] != FORMAT or isinstance(data["format"], bool):
                raise ManifestError(f"format {data['format']!r} is unknown: this version reads format {FORMAT}")
            return cls._from_dict(data)
        except KeyError as error:
            raise ManifestError(f"field {error} is missing") from error
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ManifestError(str(error) or type(error).__name__) from error

    @classmethod
    def _from_dict(cls, data: dict[str, Any]) -> Self:
        grid, text, origin, pooling = data["grid"], data["text"], data["origin"], data["pooling"]
        files = {
            _relative(path): FileEntry(_whole(entry["size"]), _sha256(entry["sha256"]))
            for path, entry in data["files"].items()
        }
        variants = tuple(_variant_entry(entry, files) for entry in _list(data["variants"]))
        engines = tuple(_engine_entry(entry, files, variants) for entry in _list(data.get("engines", [])))
        if TOKENIZER not in files:
            raise ManifestError(f"{TOKENIZER} is not among the files")
        if {entry.layer for entry in variants} != set(_list(grid["layers"])):
            raise ManifestError("the variants are not those of the grid's layers")
        prompts = {_name(name): _string(prompt) for name, prompt in text["prompts"].items()}
        default = None if text["default_prompt_name"] is None else _string(text["default_prompt_name"])
        revision = None if origin["revision"] is None else _name(origin["revision"])
        return cls(
            origin=Origin(_name(origin["name"]), revision, _sha256(origin["fingerprint"])),
            architecture=_name(data["architecture"]),
            grid=Grid(
                _whole(grid["depth"]),
                _whole(grid["width"]),
                *(tuple(map(_whole, _list(grid[key]))) for key in ("layers", "dims", "trained_dims")),
            ),
            trained_layers=tuple(_whole(layer, least=1) for layer in _list(data["trained_layers"])),
            pooling=Pooling(tuple(map(_string, _list(pooling["modes"]))), _flag(pooling["include_prompt"])),
            heads=tuple(_whole(layer, least=1) for layer in _list(data["heads"])),
            normalize=_flag(data["normalize"]),
            text=TextSpec(
                max_tokens=_whole(text["max_tokens"], least=1),
                pad_id=_whole(text["pad_id"]),
                prompts=prompts,
                default_prompt_name=default,
                include_prompt=_flag(text["include_prompt"]),
            ),
            variants=variants,
            files=files,
            versions={_name(name): _name(version) for name, version in data["versions"].items()},
            similarity=_name(data["similarity"]),
            truncate_dim=None if data["truncate_dim"] is None else _whole(data["truncate_dim"], least=1),
            calibration=None if data.get("calibration") is None else _name(data["calibration"]),
            engines=engines,
        )


@dataclass(frozen=True)
class Bundle:
    """A published bundle. Opening it reads the manifest alone; files are checked as they are taken."""

    root: Path
    manifest: Manifest
    id: str  # sha256 of the manifest, and so of everything in the bundle

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open the bundle at ``path``; raises BundleError if there is none, ManifestError if it is unsound."""
        root = Path(os.path.expanduser(path)).absolute()
        file = root / MANIFEST
        try:
            if not root.is_dir():
                raise BundleError(f"no bundle at {path}: build one with m2d-export build CHECKPOINT -o {path}")
            if file.is_symlink() or not file.is_file():
                raise BundleError(f"{path} has no regular {MANIFEST}: not a bundle, or one that was never finished")
            if file.stat().st_size > MAX_MANIFEST_BYTES:
                raise ManifestError(f"{file} is over {MAX_MANIFEST_BYTES >> 20} MiB: not a bundle's manifest")
            data = file.read_bytes()
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror}") from error
        try:
            return cls(root, Manifest.from_json(data.decode("utf-8")), hashlib.sha256(data).hexdigest())
        except (ManifestError, UnicodeDecodeError) as error:
            reason = str(error)[:REASON_LENGTH]
            raise ManifestError(f"{file} cannot be used: {reason}. Build the bundle again") from error

    @property
    def grid(self) -> Grid:
        """The layers and dims of the bundle."""
        return self.manifest.grid

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer, its file checked."""
        return Tokenizer(self.checked(TOKENIZER).read_text(encoding="utf-8"), self.manifest.text)

    def variant(self, layer: int, precision: str = Precision.FP32, runtime: str = "") -> Variant:
        """The variant of an exit, its graph and weights checked; SpecError lists what there is.

        ``runtime`` picks its own graph where it has one; without it, it is the graph that every runtime takes.
        """
        entry = self.entry(layer, precision)
        if runtime and runtime not in RUNTIMES:
            raise SpecError(f"no runtime {runtime!r}: there are {', '.join(RUNTIMES)}")
        graph = entry.graph(runtime)
        self.checked(entry.weights)
        kept = self.root.parent / f"{KEPT}{self.root.name}"
        engines = tuple(
            Engine(self.root / engine.path, self.manifest.files[engine.path].sha256, engine.key, kept)
            for engine in self.manifest.engines
            if (engine.layer, engine.precision) == (layer, precision)
        )
        hashes = tuple(self.manifest.files[name].sha256 for name in (graph, entry.weights))
        path = self.checked(graph)
        known = (self.grid.width, self.manifest.origin, engines, hashes, self.manifest.text)
        return Variant(layer, entry.precision, path, *known)

    def entry(self, layer: int, precision: str) -> VariantEntry:
        """What the manifest says of a variant, no file looked at; SpecError lists what there is."""
        self.grid.check_layer(layer)
        for entry in self.manifest.variants:
            if (entry.layer, entry.precision) == (layer, precision):
                return entry
        built = ", ".join(sorted({entry.precision for entry in self.manifest.variants}))
        raise SpecError(f"no {precision} variant of layer {layer} in {self.root}: it was built with {built}")

    def checked(self, name: str) -> Path:
        """The path of a file that is what the manifest says; raises IntegrityError otherwise."""
        problem = self._problem(name)
        if problem:
            raise IntegrityError(f"{self.root / name} {problem}. Build the bundle again, or copy it again")
        return self.root / name

    def problems(self) -> list[str]:
        """Everything that is not as the manifest says, extra files among it; empty for a sound bundle."""
        found = [f"{name} {problem}" for name in self.manifest.files if (problem := self._problem(name))]
        known = {*self.manifest.files, MANIFEST}
        extra = sorted(
            str(path.relative_to(self.root).as_posix())
            for path in self.root.rglob("*")
            if (path.is_symlink() or not path.is_dir()) and path.relative_to(self.root).as_posix() not in known
        )
        return found + [f"{name} does not belong to the bundle: remove it" for name in extra]

    def _problem(self, name: str) -> str | None:
        entry, path = self.manifest.files[name], self.root
        try:
            for part in PurePosixPath(name).parts:
                path = path / part
                if path.is_symlink():
                    return "is, or lies behind, a symbolic link: a bundle holds regular files alone"
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                return "is not a regular file"
            if status.st_size != entry.size:
                return f"has {status.st_size} bytes, the manifest says {entry.size}"
            if sha256_of(path) != entry.sha256:
                return "has been altered: its sha256 is not the manifest's"
        except FileNotFoundError:
            return "is missing"
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        return None


def _refuse_constant(name: str) -> NoReturn:
    raise ManifestError(f"{name} is no number that JSON knows")


def _relative(path: str) -> str:
    """Refuse every path that could lead out of the bundle, on any operating system, or could upset a terminal."""
    strange = len(path) > 1024 or not path.isprintable() or set(path) & set("\\:")
    if strange or any(part in ("", ".", "..") for part in path.split("/")):
        raise ManifestError(f"{path[:80]!r} is not a path inside a bundle")
    return path


def _variant_entry(entry: dict[str, Any], files: Mapping[str, FileEntry]) -> VariantEntry:
    for key in ("path", "weights", *(["onnxrt"] if "onnxrt" in entry else [])):
        if entry[key] not in files:
            raise ManifestError(f"{entry[key]!r} is not among the files")
    parity = {_string(name): _figure(figure) for name, figure in entry["parity"].items()}
    for name in sorted(PARITY - parity.keys()):
        raise KeyError(name)
    precision = Precision(entry["precision"])
    return VariantEntry(
        _whole(entry["layer"], least=1), precision, entry["path"], entry["weights"], parity, entry.get("onnxrt")
    )


def _engine_entry(
    entry: dict[str, Any], files: Mapping[str, FileEntry], variants: Sequence[VariantEntry]
) -> EngineEntry:
    layer, precision = _whole(entry["layer"], least=1), Precision(entry["precision"])
    if entry["path"] not in files:
        raise ManifestError(f"{entry['path']!r} is not among the files")
    data = entry["key"]
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
    for variant in variants:
        if (variant.layer, variant.precision) == (layer, precision):
            here, made_from = (files[variant.path].sha256, files[variant.weights].sha256), (key.graph, key.weights)
            if here != made_from:
                sides = [", ".join(sha256[:12] for sha256 in side) for side in (made_from, here)]
                raise ManifestError(
                    f"the engine {entry['path']!r} was made from another graph than {variant.path!r}: sha256 of "
                    f"graph and weights {sides[0]}, here {sides[1]}; build the bundle again"
                )
            return EngineEntry(layer, precision, entry["path"], key)
    raise ManifestError(f"the engine {entry['path']!r} belongs to no variant")


def _shape_range(data: dict[str, Any]) -> ShapeRange:
    sizes = [[_whole(size, least=1) for size in _list(data[name])] for name in ("least", "best", "most")]
    if any(len(size) != len(("batch", "tokens")) for size in sizes):
        raise ManifestError(f"expected batch and tokens, got {sizes}")
    least, best, most = ((batch, tokens) for batch, tokens in sizes)
    return ShapeRange(least, best, most)


def _name(value: object) -> str:
    """A string that can be shown: control characters in it could upset a terminal."""
    if not _string(value).isprintable():
        raise ManifestError(f"expected printable characters alone, got {value!r}")
    return str(value)


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ManifestError(f"expected a list, got {value!r}")
    return value


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise ManifestError(f"expected a string, got {value!r}")
    value.encode("utf-8")  # raises for the lone surrogates that JSON can spell and nothing can print
    return value


def _sha256(value: object) -> str:
    if not isinstance(value, str) or len(value) != SHA256_DIGITS or set(value) - set("0123456789abcdef"):
        raise ManifestError(f"expected a sha256, got {value!r}")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ManifestError(f"expected true or false, got {value!r}")
    return value


def _whole(value: object, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 63:
        raise ManifestError(f"expected a whole number from {least}, got {value!r}")
    return value


def _figure(value: object) -> float:
    if not isinstance(value, int | float) or not -1 << 63 <= value < 1 << 63:
        raise ManifestError(f"expected a number, got {value!r}")
    return value
