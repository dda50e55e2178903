"""Cut vectors to a dim: keep the first numbers, and normalise these. Only this module defines what a dim means."""

from collections.abc import Iterable
from typing import IO, Any, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
EPSILON = 1e-12  # as in torch.nn.functional.normalize: a zero vector stays zero and does not become NaN


def truncate(vectors: NDArray[Any], dim: int, normalize: bool = True) -> FloatArray:
    """Keep the first ``dim`` numbers of each row, then scale rows to unit length: (n, width) -> (n, dim) float32.

    Rows are scaled after the cut, because the first numbers of a unit vector are not a unit vector.
    """
    return truncate_with_lengths(vectors, dim, normalize)[0]


def truncate_with_lengths(vectors: NDArray[Any], dim: int, normalize: bool = True) -> tuple[FloatArray, FloatArray]:
    """Do the same as ``truncate``, and also return the lengths of the rows before they are scaled: (n, 1).

    A length is NaN or infinity if a number of its row is NaN or infinity, or if its square is too large for float32.
    """
    prefix = np.ascontiguousarray(vectors[:, :dim], dtype=np.float32)
    # The same as np.linalg.norm, but with fewer calls. If there is only one text, the time of each call matters.
    with np.errstate(all="ignore"):
        lengths = np.sqrt(np.add.reduce(prefix * prefix, axis=1, keepdims=True))
        return cast(FloatArray, prefix / np.maximum(lengths, EPSILON) if normalize else prefix), lengths


def cosine(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float64]:
    """Compute the cosine of each pair of rows, in float64: (n, dim), (n, dim) -> (n,)."""
    left64, right64 = np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)
    lengths = np.linalg.norm(left64, axis=1) * np.linalg.norm(right64, axis=1)
    return np.asarray((left64 * right64).sum(axis=1) / np.maximum(lengths, EPSILON), dtype=np.float64)


def write_npy(file: IO[bytes], parts: Iterable[FloatArray], dim: int) -> int:
    """Write parts (n, dim) float32 as one array in NumPy's format. Returns the number of rows.

    Only one part is in memory. The header is written again at the end, so ``file`` must be seekable. NumPy's header
    has room for a larger number of rows.
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
