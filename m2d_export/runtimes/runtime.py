"""The contract that every runtime keeps."""

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
    "this encoder was opened before os.fork, and its threads stayed in the parent: open it in the child, or start the "
    "process with multiprocessing's spawn"
)
RUN_FAILED = "if memory is short, encode fewer or shorter texts at a time; else use another runtime"
GPU_TOKENS = 1 << 14  # default token budget on a GPU: 128 texts of 128 tokens, as a default profile holds


class Closing(Protocol):
    """An object that owns something until ``close``; leaving a ``with`` block calls it."""

    def close(self) -> None:
        """Free what is owned; using it afterwards is an error."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class RuntimeOptions:
    """How a runtime is opened; ``name`` is its row in the table of runtimes.

    ``compute`` is the type that floats are multiplied in. ``cache`` is a folder for compiled code. Raises SpecError
    where ``threads`` is not a whole number from 1 to 1,024.
    """

    name: str
    threads: int = field(default_factory=cores)
    compute: str = "fp32"
    cache: Path | None = None

    def __post_init__(self) -> None:
        if isinstance(self.threads, bool) or not isinstance(self.threads, int) or not 1 <= self.threads <= MAX_THREADS:
            raise SpecError(f"threads must be a whole number from 1 to {MAX_THREADS}, got {self.threads!r}")


class Runtime(Closing, Protocol):
    """Owns a loaded variant and the device it runs on, from opening to ``close``.

    A runtime fills in ``_vectors``, ``_close`` and, to run several batches at once, ``_each``. What they are given was
    checked, and belongs to this process.
    """

    name: str
    provider: str  # the device that really runs the variant; every result row has it
    token_budget: int = TOKEN_BUDGET  # default tokens per batch, padding included, until ``Encoder.tune`` measures
    text: TextSpec = TextSpec(LARGEST_VOCABULARY, 0)  # the limits of batches; ``open_runtime`` knows those of a bundle
    mapped: MappedFile | None = None  # the weights, if the library reads from their file while it runs
    is_inherited: bool = False  # from the parent of a forked process

    def __init__(self, variant: Variant, options: RuntimeOptions) -> None: ...

    @classmethod
    def check(cls, options: RuntimeOptions) -> None:
        """Raise RuntimeUnavailable if this machine cannot run ``options``; the package is known to be installed."""
        return

    def vectors(self, batch: Batch) -> FloatArray:
        """Full-width vectors of a batch, not normalised: (batch, width) float32, owned by the caller.

        Raises SpecError if the arrays of the batch have other shapes or types than a Batch has, or values that the
        graph does not know; RuntimeUnavailable in a process that was forked after the runtime was opened;
        IntegrityError if the graph or its weights were overwritten meanwhile.
        """
        self.check_process()
        vectors = self._vectors(batch if batch.spec is self.text else self._checked(batch))
        self._check_mapped()
        return vectors

    def each(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, FloatArray]]:
        """Yield each batch with its vectors, in any order; a runtime may run several at once.

        Raises what ``vectors`` raises.
        """
        self.check_process()
        for done in self._each(map(self._checked, batches)):
            self._check_mapped()
            yield done
            self.check_process()

    def close(self) -> None:
        """Free what is owned; using it afterwards is an error. In a forked process nothing is freed."""
        if not self.is_inherited:
            self._close()
            self.mapped = None

    def check_process(self) -> None:
        """Raise RuntimeUnavailable in a process that was forked after the runtime was opened: it would hang."""
        if self.is_inherited:
            raise RuntimeUnavailable(INHERITED)

    def _check_mapped(self) -> None:
        mapped = self.mapped  # another thread may close this runtime meanwhile
        if mapped is not None:
            mapped.check()

    def _vectors(self, batch: Batch) -> FloatArray: ...

    def _each(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, FloatArray]]:
        return ((batch, self._vectors(batch)) for batch in batches)

    def _close(self) -> None: ...

    def _checked(self, batch: Batch) -> Batch:
        """The same batch. Libraries do not check all of it: some repeat a mask of one row, or read beyond the table."""
        if batch.spec is self.text:
            return batch
        if not all(isinstance(array, np.ndarray) for array in (batch.input_ids, batch.attention_mask)):
            raise SpecError("input_ids and attention_mask must be arrays of numpy, int64 of shape (batch, tokens)")
        limits, shape = {"input_ids": self.text.vocabulary}, batch.input_ids.shape
        if shape and shape[-1] > self.text.max_tokens:
            raise SpecError(f"a batch has {shape[-1]} tokens a text: this encoder reads at most {self.text.max_tokens}")
        for name, array in batch.inputs().items():
            if array.dtype != np.int64 or array.shape != shape or array.ndim != 2 or not array.size:
                raise SpecError(
                    f"{name} is {array.dtype} of shape {array.shape}: expected int64, (batch, tokens), without empty "
                    f"axes, the same for all inputs, here {shape}"
                )
            limit = limits.get(name, 2)
            if array.view(np.uint64).max() >= limit:  # a negative number becomes a large one
                raise SpecError(
                    f"{name} has values from {array.min()} to {array.max()}, expected 0 to {limit - 1}: the tokenizer "
                    "does not belong to this graph"
                )
        return batch
