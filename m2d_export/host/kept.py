"""Keep the finished parts of a build in a private folder next to its target, until the build is published.

If a build fails or is killed, the next build of the same target uses these parts. The key of a part is the sha256 of
everything that the part depends on. A part is used only if its checksums are right.
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
    """Make a key: the sha256 of ``facts``, written as JSON."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class Kept:
    """The parts that are kept for the build of ``target``.

    Engines are native code, so nobody else may change them. Nothing is kept if the folder cannot be private, for
    example on a file system without modes. Parts are copies and not hard links, because the package ``onnx`` refuses
    weights with two hard links. If a part cannot be written, the build continues.
    """

    def __init__(self, target: Path) -> None:
        self.folder = target.with_name(f".m2d-kept-{target.name}")

    def store(self, key: str, value: Any, files: Sequence[Path] = ()) -> None:
        """Keep ``value`` and copies of ``files``. ``value`` must be a type that JSON can hold."""
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
        """Copy the files of ``key`` into the folder ``into``, and return the value of ``key``.

        Returns None if nothing is kept for ``key``, or if it is damaged.
        """
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
        """Create the folder if it is missing. Returns whether the folder is private to this user."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(mode=0o700, exist_ok=True)
        return self.folder.is_dir() and is_private(self.folder)

    def clear(self) -> None:
        """Remove the folder and all parts in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _place(self, key: str, name: str) -> Path:
        return self.folder / f"{key}.{name}"
