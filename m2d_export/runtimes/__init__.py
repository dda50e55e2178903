"""What runs a variant. A runtime is a context manager with one method; nothing is loaded before it is opened."""

from types import TracebackType
from typing import Protocol, Self

from m2d_export.batching import Batch
from m2d_export.errors import SpecError
from m2d_export.extras import require
from m2d_export.spec import RUNTIMES, Variant
from m2d_export.vectors import FloatArray

PACKAGES = {"onnxrt": ("onnxruntime", "cpu"), "pytorch": ("torch", "build")}  # and the extra that installs each


class Runtime(Protocol):
    """Owns a loaded variant, and the device it runs on, from opening to ``close``."""

    name: str
    provider: str  # the device code that really runs, for every result row

    def vectors(self, batch: Batch) -> FloatArray:
        """Full-width vectors of a batch, not normalised: (batch, width) float32."""
        ...

    def close(self) -> None:
        """Free the model; using the runtime afterwards is an error."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def check_runtime(name: str, compute: str) -> None:
    """Raise SpecError for a runtime or a compute it does not have, RuntimeUnavailable where its package is missing."""
    if name not in RUNTIMES:
        raise SpecError(f"no runtime {name!r}: there are {', '.join(RUNTIMES)}")
    if compute not in RUNTIMES[name]:
        raise SpecError(f"{name} does not compute in {compute!r}: it computes in {', '.join(RUNTIMES[name])}")
    require(*PACKAGES[name])


def open_runtime(name: str, variant: Variant, threads: int | None = None) -> Runtime:
    """Open ``variant`` in the runtime called ``name`` with ``threads`` threads, None for its own choice.

    Raises SpecError for an unknown name or count, RuntimeUnavailable where the package is missing.
    """
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise SpecError(f"threads must be a whole number from 1, got {threads!r}")
    if name == "onnxrt":
        from m2d_export.runtimes.onnxrt import OnnxRuntime

        return OnnxRuntime(variant, threads)
    if name == "pytorch":
        from m2d_export.runtimes.pytorch import PytorchRuntime

        return PytorchRuntime(variant, threads)
    raise SpecError(f"no runtime {name!r}: there are {', '.join(RUNTIMES)}")
