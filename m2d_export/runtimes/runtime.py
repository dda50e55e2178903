"""The contract that every runtime keeps."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from m2d_export.errors import SpecError
from m2d_export.host.machine import cores
from m2d_export.spec import Variant
from m2d_export.text.batches import TOKEN_BUDGET, Batch
from m2d_export.vectors import FloatArray

CLOSED = "this encoder or runtime is closed: open a new one"
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
    where ``threads`` is not a positive whole number.
    """

    name: str
    threads: int = field(default_factory=cores)
    compute: str = "fp32"
    cache: Path | None = None

    def __post_init__(self) -> None:
        if isinstance(self.threads, bool) or not isinstance(self.threads, int) or self.threads < 1:
            raise SpecError(f"threads must be a whole number from 1, got {self.threads!r}")


class Runtime(Closing, Protocol):
    """Owns a loaded variant and the device it runs on, from opening to ``close``."""

    name: str
    provider: str  # the device that really runs the variant; every result row has it
    token_budget: int = TOKEN_BUDGET  # default tokens per batch, padding included, until ``Encoder.tune`` measures

    def __init__(self, variant: Variant, options: RuntimeOptions) -> None: ...

    @classmethod
    def check(cls, options: RuntimeOptions) -> None:
        """Raise RuntimeUnavailable if this machine cannot run ``options``; the package is known to be installed."""
        return

    def vectors(self, batch: Batch) -> FloatArray:
        """Full-width vectors of a batch, not normalised: (batch, width) float32, owned by the caller."""
        ...

    def each(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, FloatArray]]:
        """Yield each batch with its vectors, in any order; a runtime may run several at once."""
        return ((batch, self.vectors(batch)) for batch in batches)
