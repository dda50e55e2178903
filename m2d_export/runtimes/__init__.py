"""What runs a variant: batches in, vectors out, until it is closed. Nothing is loaded before it is opened."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from m2d_export.engines.engine import LIBRARIES, library
from m2d_export.errors import SpecError
from m2d_export.host.extras import require
from m2d_export.host.gpu import first_gpu
from m2d_export.spec import RUNTIMES, Variant
from m2d_export.text.batches import TOKEN_BUDGET, Batch
from m2d_export.vectors import FloatArray

PACKAGES = {  # and the extra that installs each
    "onnxrt": ("onnxruntime", "cpu"),
    "openvino": ("openvino", "openvino"),
    "pytorch": ("torch", "build"),
    "onnxrt-cuda": ("onnxruntime", "gpu"),
    "onnxrt-trt": ("onnxruntime", "gpu"),
    "pytorch-cuda": ("torch", "build"),
}
KEEPING = ("openvino", "onnxrt-trt", "trt-rtx")  # they compile, and can keep what they have compiled
INSTEAD = f"{', '.join(name for name, able in RUNTIMES.items() if not able.gpu)} run on the processor"
CLOSED = "this runtime is closed: open it again"
GPU_TOKENS = 1 << 14  # a batch, until Encoder.tune measures: 128 texts of 128 tokens, which a default profile holds


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
    token_budget: int = TOKEN_BUDGET  # tokens a batch, padding included, that suit it where nothing was measured

    def vectors(self, batch: Batch) -> FloatArray:
        """Full-width vectors of a batch, not normalised: (batch, width) float32, an array of the caller's own."""
        ...

    def settle(self, batch: Batch) -> None:
        """Bring about what a runtime does in its first many runs of such a batch, so that those after it are alike."""
        return

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
    if compute not in (able.computes or (precision,)):
        computes = ", ".join(able.computes) or f"what its graph is typed in, here {precision}"
        raise SpecError(f"{name} does not compute in {compute!r}: it computes in {computes}")
    if able.gpu:
        first_gpu(f"--runtime {name}", INSTEAD)
    if name in LIBRARIES:
        library(name)
        require("cuda.bindings.runtime", name)
    else:
        require(*PACKAGES[name])
    if name == "openvino":
        from m2d_export.runtimes.openvino import check_compute

        check_compute(compute)


def open_runtime(
    name: str, variant: Variant, threads: int | None = None, compute: str | None = None, cache: Path | None = None
) -> Runtime:
    """Open ``variant`` in the runtime called ``name`` with ``threads`` threads, None for every core.

    ``compute`` None is what the runtime multiplies floats in untold. ``cache`` is a folder where a runtime that
    compiles keeps what it has compiled, and finds it the next time. Raises SpecError for an unknown name, precision,
    compute or count, and where the bundle lacks the engine; RuntimeUnavailable where package or GPU is missing or the
    machine cannot compute so.
    """
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise SpecError(f"threads must be a whole number from 1, got {threads!r}")
    if compute is None and name in RUNTIMES:
        compute = RUNTIMES[name].compute(variant.precision)
    check_runtime(name, variant.precision, compute or "")
    if cache is not None and name not in KEEPING:
        raise SpecError(f"{name} compiles nothing that could be kept: leave out cache, or use {', '.join(KEEPING)}")
    if name in LIBRARIES:
        from m2d_export.runtimes.trt import TensorrtRuntime

        return TensorrtRuntime(variant, name, cache)
    if name == "openvino":
        from m2d_export.runtimes.openvino import OpenvinoRuntime

        return OpenvinoRuntime(variant, threads, compute or "", cache)
    if name == "onnxrt":
        from m2d_export.runtimes.onnxrt import OnnxRuntime

        return OnnxRuntime(variant, threads)
    if name.startswith("onnxrt"):
        from m2d_export.runtimes.onnxrt_gpu import OnnxGpuRuntime

        return OnnxGpuRuntime(variant, name, cache)
    from m2d_export.runtimes.pytorch import PytorchRuntime

    return PytorchRuntime(variant, threads, compute or "", on_gpu=RUNTIMES[name].gpu)
