"""Compiled models kept between processes, in a folder of the user's, under a hash of all that they depend on."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from m2d_export.files import atomic_file, writing

DIGEST = hashlib.sha256().digest_size


def compiled_bytes(folder: Path, depends_on: Mapping[str, object], make: Callable[[], bytes]) -> bytes:
    """What is kept for ``depends_on``, or what ``make`` gives, which is then kept; OutputError where it cannot be.

    A file that was cut short or altered is made again: its own hash stands before it. Compiled models are code, so
    ``folder`` must be one that nobody else writes to.
    """
    key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
    path = folder / f"{key}.compiled"
    with writing(path):
        written = path.read_bytes() if path.is_file() else b""
        if written and hashlib.sha256(written[DIGEST:]).digest() == written[:DIGEST]:
            return written[DIGEST:]
    made = make()
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as unfinished:
            unfinished.write_bytes(hashlib.sha256(made).digest() + made)
    return made
