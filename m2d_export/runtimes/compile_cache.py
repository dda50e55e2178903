"""Compiled code kept between processes, each under a hash of all that it depends on."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from m2d_export.host.files import atomic_file, writing

DIGEST = hashlib.sha256().digest_size


def compiled_bytes(folder: Path, depends_on: Mapping[str, object], make: Callable[[], bytes]) -> bytes:
    """What is kept for ``depends_on``, or what ``make`` gives, which is then kept; OutputError where it cannot be.

    Compiled models are code, so ``folder`` must be one that nobody else writes to.
    """
    path = place_of(folder, depends_on)
    kept = read_kept(path)
    if not kept:
        kept = make()
        keep(path, kept)
    return kept


def place_of(folder: Path, depends_on: Mapping[str, object]) -> Path:
    """Where in ``folder`` something is kept."""
    return folder / f"{hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()}.compiled"


def read_kept(path: Path) -> bytes:
    """What is kept at ``path``; nothing where it was cut short or altered: its own hash stands before it."""
    with writing(path):
        written = path.read_bytes() if path.is_file() else b""
    whole = written and hashlib.sha256(written[DIGEST:]).digest() == written[:DIGEST]
    return written[DIGEST:] if whole else b""


def keep(path: Path, made: bytes) -> None:
    """Keep ``made`` at ``path``, whole or not at all; a folder that is made for it is open to nobody else."""
    with writing(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_file(path) as unfinished:
            unfinished.write_bytes(hashlib.sha256(made).digest() + made)


def is_private(folder: Path) -> bool:
    """Whether nobody else may have put code into ``folder``: it is not there yet, or this user's alone."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return True
    return found.st_uid == os.getuid() and not found.st_mode & 0o077
