"""What a dim is: the first numbers of a vector, normalised after the cut. The only place that says so."""

from collections.abc import Iterable
from typing import IO, Any, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
EPSILON = 1e-12  # torch.nn.functional.normalize's own, so that a zero vector stays zero instead of NaN


def truncate(vectors: NDArray[Any], dim: int, normalize: bool = True) -> FloatArray:
    """Keep the first ``dim`` numbers of each row, then scale rows to unit length: (n, width) -> (n, dim) float32.

    The order matters: a prefix of a unit vector is not a unit vector.
    """
    prefix = np.ascontiguousarray(vectors[:, :dim], dtype=np.float32)
    if not normalize:
        return prefix
    # As np.linalg.norm does it, in fewer calls: after a model has run, each finds the processor's caches emptied.
    lengths = np.sqrt(np.add.reduce(prefix * prefix, axis=1, keepdims=True))
    return cast(FloatArray, prefix / np.maximum(lengths, EPSILON))


def cosine(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float64]:
    """Cosine of each pair of rows, in float64: (n, dim), (n, dim) -> (n,)."""
    left64, right64 = np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)
    lengths = np.linalg.norm(left64, axis=1) * np.linalg.norm(right64, axis=1)
    return np.asarray((left64 * right64).sum(axis=1) / np.maximum(lengths, EPSILON), dtype=np.float64)


def write_npy(file: IO[bytes], parts: Iterable[FloatArray], dim: int) -> int:
    """Write parts (n, dim) float32 as one array in NumPy's format, holding one at a time; returns its rows.

    ``file`` can seek. NumPy leaves room in a header for the first axis to grow into.
    """
    rows = 0
    _write_header(file, rows, dim)
    for part in parts:
        file.write(np.ascontiguousarray(part, dtype="<f4").tobytes())
        rows += len(part)
    file.seek(0)
    _write_header(file, rows, dim)
    return rows


def _write_header(file: IO[bytes], rows: int, dim: int) -> None:
    npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)})
