"""A bundle whose manifest states that its vectors are rotated."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from m2d_export import Bundle
from m2d_export.bundle.manifest import MANIFEST, ROTATION, FileEntry
from m2d_export.vectors import FloatArray
from tests.support.checkpoints import WIDTH


def rotated(bundle: Bundle, folder: Path, seed: int) -> tuple[Bundle, FloatArray]:
    """A copy whose manifest states a rotation; its graphs stay, so its vectors are as if rotated from another space."""
    matrix = np.linalg.qr(np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)))[0].astype(np.float32)
    root = Path(shutil.copytree(bundle.root, folder / f"rotated-{seed}.m2d"))
    np.save(root / ROTATION, matrix)
    content = (root / ROTATION).read_bytes()
    entry = FileEntry(len(content), hashlib.sha256(content).hexdigest())
    digest = hashlib.sha256(np.ascontiguousarray(matrix).tobytes()).hexdigest()
    manifest = replace(bundle.manifest, rotation=digest, files={**bundle.manifest.files, ROTATION: entry})
    (root / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return Bundle.open(root), matrix
