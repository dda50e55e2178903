"""Keep compiled code in a folder for the next process. A file's name is a hash of all that the code depends on."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from m2d_export.host.files import output_file, writing

DIGEST = hashlib.sha256().digest_size


def compiled_bytes(folder: Path, depends_on: Mapping[str, object], compile_code: Callable[[], bytes]) -> bytes:
    """The code in ``folder`` that depends on ``depends_on``. If there is none, it is compiled and stored.

    A compiled model is native code, so nobody else must be able to write to ``folder``. Raises OutputError if the cache
    cannot be read or written.
    """
    path = cache_path(folder, depends_on)
    code = read_cached(path)
    if not code:
        code = compile_code()
        store(path, code)
    return code


def cache_path(folder: Path, depends_on: Mapping[str, object]) -> Path:
    """The path in ``folder`` of the code that depends on ``depends_on``."""
    return folder / f"{hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()}.compiled"


def read_cached(path: Path) -> bytes:
    """The code in a cache file; empty if the file is missing or damaged. The file begins with the code's sha256."""
    with writing(path):
        content = path.read_bytes() if path.is_file() else b""
    is_whole = content and hashlib.sha256(content[DIGEST:]).digest() == content[:DIGEST]
    return content[DIGEST:] if is_whole else b""


def store(path: Path, code: bytes) -> None:
    """Write ``code`` to a cache file, whole or not at all. If its folder is new, it is private to this user."""
    with writing(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with output_file(path) as file:
            file.write(hashlib.sha256(code).digest() + code)
