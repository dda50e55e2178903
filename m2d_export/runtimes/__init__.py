"""What runs a variant: batches in, vectors out, until it is closed. Nothing is loaded before it is opened."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from m2d_export.batching import Batch
from m2d_export.errors import SpecError
from m2d_export.extras import require
from m2d_export.spec import RUNTIMES, Variant
from m2d_export.vectors import FloatArray

PACKAGES = {  # and the extra that installs each
    "onnxrt": ("onnxruntime", "cpu"),
    "openvino": ("openvino", "openvino"),
    "pytorch": ("torch", "build"),
}


class Closing(Protocol):
    """Whatever owns something until ``close``, which leaving a ``with`` block calls."""

    def close(self) -> None:
        """Free what is owned; using it afterwards is an error."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Runtime(Closing, Protocol):
    """Owns a loaded variant, and the device it runs on, from opening to ``close``."""

    name: str
    provider: str  # the device code that really runs, for every result row

    def vectors(self, batch: Batch) -> FloatArray:
        """Full-width vectors of a batch, not normalised: (batch, width) float32."""
        ...

    def each(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, FloatArray]]:
        """Each batch with its vectors, in any order: one after the other, or several at once where that pays."""
        return ((batch, self.vectors(batch)) for batch in batches)


def check_runtime(name: str, precision: str, compute: str) -> None:
    """Raise SpecError for a runtime that does not exist or cannot do this, RuntimeUnavailable without its package."""
    if name not in RUNTIMES:
        raise SpecError(f"no runtime {name!r}: there are {', '.join(RUNTIMES)}")
    able = RUNTIMES[name]
    if precision not in able.precisions:
        others = ", ".join(other for other, spec in RUNTIMES.items() if precision in spec.precisions)
        hint = f"; {others} can" if others else ""
        raise SpecError(f"{name} does not run {precision}: it runs {', '.join(able.precisions)}{hint}")
    if compute not in able.computes:
        raise SpecError(f"{name} does not compute in {compute!r}: it computes in {', '.join(able.computes)}")
    require(*PACKAGES[name])
    if name == "openvino":
        from m2d_export.runtimes.openvino import check_compute

        check_compute(compute)


def open_runtime(
    name: str, variant: Variant, threads: int | None = None, compute: str = "fp32", cache: Path | None = None
) -> Runtime:
    """Open ``variant`` in the runtime called ``name`` with ``threads`` threads, None for every core.

    ``cache`` is a folder where a runtime that compiles keeps what it has compiled, and finds it the next time.
    Raises SpecError for an unknown name, precision, compute or count, RuntimeUnavailable where the package is missing
    or the machine cannot compute so.
    """
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise SpecError(f"threads must be a whole number from 1, got {threads!r}")
    check_runtime(name, variant.precision, compute)
    if cache is not None and name != "openvino":
        raise SpecError(f"{name} compiles nothing that could be kept: leave out cache, or use openvino")
    if name == "onnxrt":
        from m2d_export.runtimes.onnxrt import OnnxRuntime

        return OnnxRuntime(variant, threads)
    if name == "openvino":
        from m2d_export.runtimes.openvino import OpenvinoRuntime

        return OpenvinoRuntime(variant, threads, compute, cache)
    from m2d_export.runtimes.pytorch import PytorchRuntime

    return PytorchRuntime(variant, threads)
