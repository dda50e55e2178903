"""A bundle on disk: opened by its manifest, and each file checked before a library reads it."""

import contextlib
import hashlib
import os
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Self

from m2d_export.bundle.manifest import MANIFEST, TOKENIZER, FileEntry, Manifest, VariantEntry, read_manifest
from m2d_export.errors import BundleError, IntegrityError, ManifestError, SpecError
from m2d_export.host.files import sha256_of
from m2d_export.runtimes.table import RUNTIMES
from m2d_export.spec import DEFAULT, Cell, Engine, EngineKey, Grid, Precision, Variant
from m2d_export.text.tokenizer import Tokenizer

CACHE = ".m2d-cache-"  # a folder next to a bundle: nothing is ever written into a bundle
MAX_MANIFEST_BYTES = 16 << 20
REASON_LENGTH = 200  # characters of a message that quotes a manifest


@dataclass(frozen=True)
class Bundle:
    """A published bundle; opening it reads the manifest only, and every file is checked before it is used.

    ``id`` is the sha256 of the manifest, and so of everything in the bundle.
    """

    root: Path
    manifest: Manifest
    id: str

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open the bundle at ``path``; raises BundleError if there is none, ManifestError if it is unsound."""
        root = Path(os.path.expanduser(path)).absolute()
        file = root / MANIFEST
        try:
            if not root.is_dir():
                raise BundleError(f"no bundle at {path}: build one with m2d-export build CHECKPOINT -o {path}")
            if file.is_symlink() or not file.is_file():
                raise BundleError(f"{path} has no regular file {MANIFEST}: it is not a bundle, or an unfinished one")
            if file.stat().st_size > MAX_MANIFEST_BYTES:
                raise ManifestError(f"{file} is over {MAX_MANIFEST_BYTES >> 20} MiB: it is not a bundle's manifest")
            data = file.read_bytes()
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror}") from error
        try:
            return cls(root, read_manifest(data.decode("utf-8")), hashlib.sha256(data).hexdigest())
        except (ManifestError, UnicodeDecodeError) as error:
            reason = str(error)[:REASON_LENGTH]
            raise ManifestError(f"{file} cannot be used: {reason}. Build the bundle again") from error

    @property
    def grid(self) -> Grid:
        """The layers and dims of the bundle."""
        return self.manifest.grid

    @property
    def default_cell(self) -> Cell:
        """The cell that is used when none is named: the deepest exit at ``truncate_dim``, or else at the full width."""
        full = self.grid.full
        return Cell(full.layer, self.manifest.truncate_dim or full.dim)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer; raises IntegrityError if its file was changed."""
        return Tokenizer(self.checked(TOKENIZER).read_text(encoding="utf-8"), self.manifest.text)

    def variant(self, layer: int, precision: str = Precision.FP32, runtime: str = DEFAULT) -> Variant:
        """An exit in a precision, its graph and weights checked.

        ``runtime`` picks the graph that was made for it, if there is one. Raises SpecError listing what the bundle has,
        IntegrityError if a file was changed.
        """
        entry = self.entry(layer, precision)
        if runtime not in (DEFAULT, *RUNTIMES):
            raise SpecError(f"no runtime {runtime!r}: there are {', '.join(RUNTIMES)}")
        graph = entry.graph(runtime)
        self.checked(entry.weights)
        cache = self.root.parent / f"{CACHE}{self.root.name}"
        return Variant(
            layer=layer,
            precision=entry.precision,
            path=self.checked(graph),
            width=self.grid.width,
            origin=self.manifest.origin,
            engines=tuple(
                Engine(self.root / engine.path, self.manifest.files[engine.path].sha256, engine.key, cache)
                for engine in self.manifest.engines
                if (engine.layer, engine.precision) == (layer, precision)
            ),
            sha256=tuple(self.manifest.files[name].sha256 for name in (graph, entry.weights)),
            text=self.manifest.text,
        )

    def entry(self, layer: int, precision: str) -> VariantEntry:
        """What the manifest says about an exit in a precision; raises SpecError listing what the bundle has."""
        self.grid.check_layer(layer)
        for entry in self.manifest.variants:
            if (entry.layer, entry.precision) == (layer, precision):
                return entry
        built = ", ".join(sorted({entry.precision for entry in self.manifest.variants}))
        raise SpecError(f"{self.root} has layer {layer} in {built}, not in {precision}: build it with --precision")

    def checked(self, name: str) -> Path:
        """The path of a file that is what the manifest says; raises IntegrityError otherwise."""
        problem = self._problem(name)
        if problem:
            raise IntegrityError(f"{self.root / name} {problem}. Build the bundle again, or copy it again")
        return self.root / name

    def problems(self) -> list[str]:
        """Every file that is missing, changed or foreign, in words; empty for a sound bundle."""
        found = [f"{name} {problem}" for name in self.manifest.files if (problem := self._problem(name))]
        known = {*self.manifest.files, MANIFEST}
        foreign = sorted(
            str(path.relative_to(self.root).as_posix())
            for path in self.root.rglob("*")
            if (path.is_symlink() or not path.is_dir()) and path.relative_to(self.root).as_posix() not in known
        )
        return found + [f"{name} does not belong to the bundle: remove it" for name in foreign]

    def _problem(self, name: str) -> str | None:
        entry, path = self.manifest.files[name], self.root
        try:
            for part in PurePosixPath(name).parts:
                path = path / part
                if path.is_symlink():
                    return "is a symbolic link, or lies behind one: a bundle holds regular files only"
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                return "is not a regular file"
            if status.st_size != entry.size:
                return f"has {status.st_size} bytes, but the manifest says {entry.size}"
            if sha256_of(path) != entry.sha256:
                return "was changed: its sha256 is not the one in the manifest"
        except FileNotFoundError:
            return "is missing"
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        return None


def files_in(folder: Path) -> dict[str, FileEntry]:
    """Every file below ``folder``, by its path in a bundle."""
    return {
        path.relative_to(folder).as_posix(): FileEntry(path.stat().st_size, sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def published_engine(target: Path, key: EngineKey) -> Path | None:
    """The sound engine with ``key`` in the bundle at ``target``; None if there is no such bundle or engine."""
    with contextlib.suppress(BundleError):
        bundle = Bundle.open(target)
        for entry in bundle.manifest.engines:
            if entry.key == key:
                return bundle.checked(entry.path)
    return None
