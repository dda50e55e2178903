"""A bundle on disk: opened by its manifest, and each file checked before a library reads it."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Self

from m2d_export.bundle.graph_check import check_graph
from m2d_export.bundle.manifest import MANIFEST, TOKENIZER, FileEntry, Manifest, VariantEntry, read_manifest
from m2d_export.errors import BundleError, IntegrityError, ManifestError, SpecError
from m2d_export.host.checked import identity, open_regular
from m2d_export.host.files import expanded, sha256_of
from m2d_export.runtimes.table import RUNTIMES
from m2d_export.spec import DEFAULT, LONG, Cell, CheckedFile, Engine, EngineKey, Grid, Precision, Variant
from m2d_export.text.tokenizer import Tokenizer

CACHE = ".m2d-cache-"  # a folder next to a bundle: nothing is ever written into a bundle
MAX_MANIFEST_BYTES = 16 << 20
MAX_GRAPH_BYTES = 64 << 20  # without its weights, a graph has less than a tenth of it


class _Unsound(Exception):  # noqa: N818 - why a file is not what the manifest says, in words that follow its name
    pass


@dataclass(frozen=True)
class Bundle:
    """A published bundle; opening it reads the manifest only, and every file is checked before it is used.

    ``root`` is the folder itself, behind any links. ``checkpoint`` is the folder or the Hub id of the checkpoint, which
    the runtime pytorch needs. It is None if the caller gave none.
    """

    root: Path
    manifest: Manifest
    checkpoint: str | None = None

    @classmethod
    def open(cls, path: str | Path, checkpoint: str | Path | None = None) -> Self:
        """Open the bundle at ``path``; raises BundleError if there is none, ManifestError if its manifest is not valid.

        If ``path`` is a link, it is followed only here, so that two bundles are not mixed if the link changes later.
        """
        root = expanded(path)
        try:
            if root.is_file():
                raise BundleError(f"{path} is a file, and a bundle is a folder: give the folder")
            if not root.is_dir():
                raise BundleError(f"no bundle at {path}: build one with m2d-export build CHECKPOINT -o {path}")
            root = root.resolve()
            file = root / MANIFEST
            if not file.exists() and (root / "config.json").is_file():
                raise BundleError(f"{path} is a checkpoint, not a bundle: build a bundle from it with m2d-export build")
            if file.is_symlink() or not file.is_file():
                raise BundleError(f"{path} has no regular file {MANIFEST}: it is not a bundle, or an unfinished one")
            with open_regular(file) as opened:
                data = opened.read(MAX_MANIFEST_BYTES + 1)
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror}") from error
        if len(data) > MAX_MANIFEST_BYTES:
            raise ManifestError(f"{file} is over {MAX_MANIFEST_BYTES >> 20} MiB: it is not a bundle's manifest")
        try:
            manifest = read_manifest(data.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ManifestError(f"{file} cannot be used: {error}. Build the bundle again") from error
        except ManifestError as error:
            raise ManifestError(f"{file} cannot be used: {error}") from error
        return cls(root, manifest, None if checkpoint is None else str(expanded(checkpoint)))

    @property
    def id(self) -> str:
        """The id of the bundle's content.

        If the same checkpoint is built again, with other threads or on another machine, the id is the same.
        """
        return self.manifest.id

    @property
    def grid(self) -> Grid:
        """The layers and dims of the bundle."""
        return self.manifest.grid

    @property
    def default_cell(self) -> Cell:
        """The cell that is used if none is named: the deepest exit at ``truncate_dim``, or else with all dims."""
        full = self.grid.full
        return Cell(full.layer, self.manifest.truncate_dim or full.dim)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer; raises IntegrityError if its file was changed."""
        return Tokenizer(self.tokenizer_json, self.manifest.text)

    @property
    def tokenizer_json(self) -> str:
        """The text of the tokenizer's file; raises IntegrityError if the file was changed."""
        try:
            return self.read(TOKENIZER).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ManifestError(f"{self.root / TOKENIZER} is not UTF-8: build the bundle again") from error

    def variant(self, layer: int, precision: str = Precision.FP32, runtime: str = DEFAULT) -> Variant:
        """An exit in a precision. Its graph and weights are checked first.

        ``runtime`` picks the graph that was made for it, if there is one. Raises SpecError listing what the bundle has,
        IntegrityError if a file was changed.
        """
        entry = self.entry(layer, precision)
        if runtime not in (DEFAULT, *RUNTIMES):
            raise SpecError(f"no runtime {runtime!r}: there are {', '.join(RUNTIMES)}")
        graph = entry.graph(runtime)
        long = entry.graphs.get(f"{runtime}{LONG}")
        files = tuple(self.checked(name) for name in (graph, entry.weights, long) if name is not None)
        cache = self.root.parent / f"{CACHE}{self.root.name}"
        return Variant(
            layer=layer,
            precision=entry.precision,
            path=files[0].path,
            long=None if long is None else files[-1].path,
            width=self.grid.width,
            origin=self.manifest.origin,
            engines=tuple(
                Engine(self.root / engine.path, self.manifest.files[engine.path].sha256, engine.key, cache)
                for engine in self.manifest.engines
                if (engine.layer, engine.precision) == (layer, precision)
            ),
            sha256=tuple(self.manifest.files[name].sha256 for name in (graph, entry.weights)),
            text=self.manifest.text,
            files=files,
            checkpoint=self.checkpoint,
            pooling=self.manifest.pooling.modes[0] if len(self.manifest.pooling.modes) == 1 else None,
        )

    def entry(self, layer: int, precision: str) -> VariantEntry:
        """What the manifest says about an exit in a precision; raises SpecError that lists what the bundle has."""
        self.grid.check_layer(layer)
        for entry in self.manifest.variants:
            if (entry.layer, entry.precision) == (layer, precision):
                return entry
        built = ", ".join(sorted({entry.precision for entry in self.manifest.variants if entry.layer == layer}))
        raise SpecError(f"{self.root} has layer {layer} in {built}, not in {precision}: build it with --precision")

    def checked(self, name: str) -> CheckedFile:
        """A file that is what the manifest says; raises IntegrityError otherwise."""
        return self._checked(name)[0]

    def read(self, name: str) -> bytes:
        """The bytes of a file, the same ones that were checked; raises IntegrityError as ``checked`` does."""
        return self._checked(name, keep=True)[1]

    def problems(self) -> list[str]:
        """Every file that is missing, changed, foreign or not allowed, in words; empty for a sound bundle."""
        found = []
        for name in self.manifest.files:
            try:
                self._sound(name)
            except _Unsound as problem:
                found.append(f"{name} {problem}")
        known = {*self.manifest.files, MANIFEST}
        foreign = sorted(
            str(path.relative_to(self.root).as_posix())
            for path in self.root.rglob("*")
            if (path.is_symlink() or not path.is_dir()) and path.relative_to(self.root).as_posix() not in known
        )
        return found + [f"{name} does not belong to the bundle: remove it" for name in foreign]

    def _checked(self, name: str, keep: bool = False) -> tuple[CheckedFile, bytes]:
        try:
            return self._sound(name, keep)
        except _Unsound as problem:
            message = f"{self.root / name} {problem}. Build the bundle again, or copy it again"
            with contextlib.suppress(BundleError):
                if Bundle.open(self.root).id != self.id:
                    message = f"another bundle has replaced {self.root} since it was opened: open it again"
            raise IntegrityError(message) from problem

    def _sound(self, name: str, keep: bool = False) -> tuple[CheckedFile, bytes]:
        """A file that is what the manifest says, and its bytes if it is a graph or if they are to be kept."""
        entry, path, weights = self.manifest.files[name], self.root, self._weights.get(name)
        data = b""
        try:
            for part in PurePosixPath(name).parts:
                path = path / part
                if path.is_symlink():
                    raise _Unsound("is a symbolic link, or lies behind one: a bundle holds regular files only")
            with open_regular(path) as file:
                before = os.fstat(file.fileno())
                if before.st_size != entry.size:
                    raise _Unsound(f"has {before.st_size} bytes, but the manifest says {entry.size}")
                if weights and entry.size > MAX_GRAPH_BYTES:
                    raise _Unsound(f"must not be loaded: a graph has at most {MAX_GRAPH_BYTES >> 20} MiB")
                if keep or weights:
                    data = file.read()
                    digest = hashlib.sha256(data)
                else:
                    digest = hashlib.file_digest(file, "sha256")
                after = os.fstat(file.fileno())
        except FileNotFoundError:
            raise _Unsound("is missing") from None
        except OSError as error:
            is_file = error.errno not in (errno.EINVAL, errno.EISDIR, errno.ENOTDIR)
            raise _Unsound(f"cannot be read: {error.strerror}" if is_file else "is not a regular file") from error
        if digest.hexdigest() != entry.sha256 or identity(after) != identity(before):
            raise _Unsound("was changed: its sha256 is not the one in the manifest")
        if weights:
            try:
                size, inputs = self.manifest.files[weights].size, self.manifest.text.input_names
                check_graph(data, PurePosixPath(weights).name, size, inputs, self.grid.width)
            except ValueError as error:
                raise _Unsound(f"must not be loaded: {error}") from error
        return CheckedFile(path, self.root, entry.sha256, identity(after)), data

    @cached_property
    def _weights(self) -> Mapping[str, str]:
        """The weights file of each graph."""
        return {path: entry.weights for entry in self.manifest.variants for path in entry.graphs.values()}


def files_in(folder: Path) -> dict[str, FileEntry]:
    """Every file below ``folder``, by its path in a bundle."""
    return {
        path.relative_to(folder).as_posix(): FileEntry(path.stat().st_size, sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def published_engine(target: Path, key: EngineKey) -> bytes | None:
    """The undamaged engine with ``key`` in the bundle at ``target``; None if there is no such bundle or engine."""
    with contextlib.suppress(BundleError):
        bundle = Bundle.open(target)
        for entry in bundle.manifest.engines:
            if entry.key == key:
                return bundle.read(entry.path)
    return None
