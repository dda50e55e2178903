"""The base class of all runtimes: what a runtime must do, and what it may rely on."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from m2d_export.errors import RuntimeUnavailable, SpecError
from m2d_export.host.checked import MappedFile
from m2d_export.host.machine import MAX_THREADS, cores
from m2d_export.spec import LARGEST_VOCABULARY, TextSpec, Variant
from m2d_export.text.batches import TOKEN_BUDGET, Batch
from m2d_export.vectors import FloatArray

CLOSED = "this encoder or runtime is closed: open a new one"
INHERITED = (
    "this encoder was opened before os.fork, and its threads are only in the parent process: open it in the child "
    "process, or start that process with multiprocessing's spawn"
)
RUN_FAILED = "if memory is full, encode fewer or shorter texts at a time; if not, use another runtime"
GPU_TOKENS = 1 << 14  # default tokens per batch on a GPU: 128 texts of 128 tokens, like a default profile


class Closing(Protocol):
    """An object that owns something until ``close``. The end of a ``with`` block calls ``close``."""

    def close(self) -> None:
        """Free what this object owns. After that, the object must not be used."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class RuntimeOptions:
    """How a runtime is opened. ``name`` is its name in the table of runtimes.

    ``compute`` is the type that floats are multiplied in. ``cache`` is a folder for compiled code. Raises SpecError if
    ``threads`` is not a whole number from 1 to 1,024.
    """

    name: str
    threads: int = field(default_factory=cores)
    compute: str = "fp32"
    cache: Path | None = None

    def __post_init__(self) -> None:
        if isinstance(self.threads, bool) or not isinstance(self.threads, int) or not 1 <= self.threads <= MAX_THREADS:
            raise SpecError(f"threads must be a whole number from 1 to {MAX_THREADS}, got {self.threads!r}")


class Runtime(Closing, Protocol):
    """A loaded variant on one device. It is open until ``close``.

    A runtime defines ``_vectors`` and ``_close``. It defines ``_each`` too if it can run several batches at the same
    time. When these functions are called, their batches are checked, and the process is the one that opened the
    runtime.
    """

    name: str
    provider: str  # the provider or device that really runs the variant
    token_budget: int = TOKEN_BUDGET  # default tokens per batch, with padding; ``Encoder.tune`` finds a better number
    text: TextSpec = TextSpec(LARGEST_VOCABULARY, 0)  # the limits of batches; ``open_runtime`` sets them
    mapped: MappedFile | None = None  # the file of the weights, if the library reads it while it runs
    is_inherited: bool = False  # whether a parent process opened this runtime before a fork

    def __init__(self, variant: Variant, options: RuntimeOptions) -> None: ...

    @classmethod
    def check(cls, options: RuntimeOptions) -> None:
        """Raise RuntimeUnavailable if this machine cannot run ``options``. Its package must be installed already."""
        return

    def vectors(self, batch: Batch) -> FloatArray:
        """Compute the full vectors of a batch, not normalised: (batch, width) float32. The caller owns the array.

        Raises SpecError if the arrays of the batch have wrong shapes, types or values. Raises RuntimeUnavailable if
        the process was forked after the runtime was opened. Raises IntegrityError if the graph or its weights
        were overwritten meanwhile.
        """
        self.check_process()
        vectors = self._vectors(batch if batch.spec is self.text else self._checked(batch))
        self._check_mapped()
        return vectors

    def each(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, FloatArray]]:
        """Yield each batch with its vectors, in any order. A runtime may run several batches at the same time.

        Raises the same errors as ``vectors``.
        """
        self.check_process()
        for done in self._each(map(self._checked, batches)):
            self._check_mapped()
            yield done
            self.check_process()

    def close(self) -> None:
        """Free what this runtime owns. After that, it must not be used. In a forked process, nothing is freed."""
        if not self.is_inherited:
            self._close()
            self.mapped = None

    def check_process(self) -> None:
        """Raise RuntimeUnavailable if this process was forked after the runtime was opened: the runtime would hang."""
        if self.is_inherited:
            raise RuntimeUnavailable(INHERITED)

    def _check_mapped(self) -> None:
        mapped = self.mapped  # a copy, because another thread can close this runtime meanwhile
        if mapped is not None:
            mapped.check()

    def _vectors(self, batch: Batch) -> FloatArray: ...

    def _each(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, FloatArray]]:
        return ((batch, self._vectors(batch)) for batch in batches)

    def _close(self) -> None: ...

    def _checked(self, batch: Batch) -> Batch:
        """Check a batch and return it. Some libraries repeat a mask that has one row, or read outside of a table."""
        if batch.spec is self.text:
            return batch
        if not all(isinstance(array, np.ndarray) for array in (batch.input_ids, batch.attention_mask)):
            raise SpecError("input_ids and attention_mask must be arrays of numpy, int64 of shape (batch, tokens)")
        limits, shape = {"input_ids": self.text.vocabulary}, batch.input_ids.shape
        if shape and shape[-1] > self.text.max_tokens:
            raise SpecError(f"a text has {shape[-1]} tokens: this encoder reads at most {self.text.max_tokens}")
        for name, array in batch.inputs().items():
            if array.dtype != np.int64 or array.shape != shape or array.ndim != 2 or not array.size:
                raise SpecError(
                    f"{name} is {array.dtype} of shape {array.shape}: expected int64 of shape {shape}, which must be "
                    f"(batch, tokens) without an empty axis"
                )
            limit = limits.get(name, 2)
            if array.view(np.uint64).max() >= limit:  # a negative number becomes a large number
                raise SpecError(
                    f"{name} has values from {array.min()} to {array.max()}, expected 0 to {limit - 1}: the tokenizer "
                    "does not belong to this graph"
                )
        return batch
