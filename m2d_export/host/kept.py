"""Finished parts of a build: kept in a private folder next to its target until it is published.

If a build fails or is killed, the next one of that target takes them. A part is found by its key, the digest of all
that it depends on, and is taken only if its checksums are right.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from m2d_export.errors import OutputError
from m2d_export.host.files import is_private, output_file, sha256_of


def digest_of(*facts: Any) -> str:
    """A key: the sha256 of what JSON says of ``facts``."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class Kept:
    """The parts that are kept for the build of ``target``.

    Nothing is kept if the folder cannot be private, as on a file system without modes, because engines are native code.
    Parts are copies, because the library of ONNX refuses weights with a second link. One that cannot be written is not
    kept: that is no failure of the build.
    """

    def __init__(self, target: Path) -> None:
        self.folder = target.with_name(f".m2d-kept-{target.name}")

    def store(self, key: str, value: Any, files: Sequence[Path] = ()) -> None:
        """Keep ``value``, which JSON can hold, and copies of ``files``."""
        try:
            if self.opened():
                for file in files:
                    shutil.copyfile(file, self._place(key, file.name))
                text = json.dumps({"value": value, "files": {file.name: sha256_of(file) for file in files}})
                with output_file(self._place(key, "json")) as note:
                    note.write(f"{digest_of(text)}\n{text}".encode())
        except (OSError, OutputError):
            for file in files:
                self._place(key, file.name).unlink(missing_ok=True)

    def take(self, key: str, into: Path) -> Any:
        """The value of ``key``, after its files were copied into the folder ``into``; None if anything is not whole."""
        files: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError):
            if is_private(self.folder):
                digest, _, text = self._place(key, "json").read_text(encoding="utf-8").partition("\n")
                if digest == digest_of(text):
                    note = json.loads(text)
                    files = note["files"]
                    into.mkdir(exist_ok=True)
                    for name in files:
                        shutil.copyfile(self._place(key, name), into / name)
                    if all(sha256_of(into / name) == sha256 for name, sha256 in files.items()):
                        return note["value"]
        for name in files:
            (into / name).unlink(missing_ok=True)
        return None

    def opened(self) -> bool:
        """Whether the folder belongs to this user only; it is made if it does not exist."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(mode=0o700, exist_ok=True)
        return self.folder.is_dir() and is_private(self.folder)

    def clear(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _place(self, key: str, name: str) -> Path:
        return self.folder / f"{key}.{name}"
