"""One row for each runtime, and the functions that check and open a runtime by its name.

A new runtime needs a row here, a module in this folder, an extra in pyproject.toml, and tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from m2d_export.engines.library import LIBRARIES
from m2d_export.errors import RuntimeUnavailable, SpecError
from m2d_export.host.extras import require
from m2d_export.host.forks import loaded_before_fork, owns_threads
from m2d_export.host.gpu import Gpu, first_gpu
from m2d_export.host.machine import cores
from m2d_export.precisions import WITH_ENGINES
from m2d_export.spec import Precision, Variant

if TYPE_CHECKING:
    from m2d_export.runtimes.runtime import Runtime


@dataclass(frozen=True)
class RuntimeSpec:
    """What a runtime can do, and what it needs.

    ``opens`` is the name of its class, as "module:Class". The module is in this folder. ``package`` is the Python
    module of its library. The extra called ``extra`` installs this library. ``computes`` has the types that it can
    multiply floats in. The first one is the default. If ``computes`` is empty, the runtime computes in the types of the
    graph. ``compiles`` says whether it can store compiled code. ``survives_fork`` is false if the library hangs in a
    forked process after the parent has used it.
    """

    opens: str
    package: str
    extra: str
    precisions: tuple[Precision, ...]
    computes: tuple[str, ...] = ()
    device: Literal["cpu", "gpu"] = "cpu"
    compiles: bool = False
    survives_fork: bool = True

    def default_compute(self, precision: str) -> str:
        """The type that a variant in ``precision`` multiplies floats in, if the caller does not choose a type."""
        return self.computes[0] if self.computes else precision

    def load(self) -> "type[Runtime]":
        """Import the class of the runtime."""
        module, _, name = self.opens.partition(":")
        found: type[Runtime] = getattr(import_module(f"m2d_export.runtimes.{module}"), name)
        return found


FP32, FP16, INT8 = Precision.FP32, Precision.FP16, Precision.INT8
# A runtime's name decides the library and the device. So records have no field for the device.
RUNTIMES: Mapping[str, RuntimeSpec] = {
    "onnxrt": RuntimeSpec("onnxrt:OnnxRuntime", "onnxruntime", "cpu", (FP32, FP16, INT8), ("fp32",)),
    "openvino": RuntimeSpec(
        *("openvino:OpenvinoRuntime", "openvino", "openvino", tuple(Precision), ("fp32", "bf16")),
        compiles=True,
        survives_fork=False,
    ),
    "pytorch": RuntimeSpec("pytorch:PytorchRuntime", "torch", "build", (FP32,), ("fp32",), survives_fork=False),
    "trt": RuntimeSpec("trt:TensorrtRuntime", LIBRARIES["trt"], "trt", WITH_ENGINES, device="gpu"),
    "trt-rtx": RuntimeSpec(
        "trt:TensorrtRuntime", LIBRARIES["trt-rtx"], "trt-rtx", WITH_ENGINES, device="gpu", compiles=True
    ),
    "onnxrt-cuda": RuntimeSpec("onnxrt_gpu:OnnxGpuRuntime", "onnxruntime", "gpu", (FP32, FP16), device="gpu"),
    # No fp32: this provider would compute it in TF32, and no option prevents that.
    "onnxrt-trt": RuntimeSpec("onnxrt_gpu:OnnxGpuRuntime", "onnxruntime", "gpu", (FP16,), device="gpu", compiles=True),
    "pytorch-cuda": RuntimeSpec(
        "pytorch:PytorchRuntime", "torch", "build", (FP32,), ("fp32", "fp16", "bf16"), device="gpu"
    ),
}


def gpu_for(name: str) -> Gpu:
    """Find the GPU that the runtime called ``name`` runs on.

    Raises RuntimeUnavailable if there is none. The error names the runtimes that need no GPU.
    """
    others = ", ".join(other for other, row in RUNTIMES.items() if row.device == "cpu")
    return first_gpu(f"--runtime {name}", f"{others} run on the processor")


def check_runtime(name: str, precision: str, compute: str) -> None:
    """Raise SpecError if the runtime is unknown, cannot run ``precision``, or cannot multiply in ``compute``.

    Raises RuntimeUnavailable if the package is missing or too old, if a GPU is needed and missing, if the library does
    not survive a fork of this process, or if this processor cannot multiply in ``compute``.
    """
    if name not in RUNTIMES:
        raise SpecError(f"no runtime {name!r}: there are {', '.join(RUNTIMES)}")
    row = RUNTIMES[name]
    if precision not in row.precisions:
        others = ", ".join(other for other, able in RUNTIMES.items() if precision in able.precisions)
        hint = f"; these runtimes do: {others}" if others else ""
        raise SpecError(f"{name} does not run {precision}: it runs {', '.join(row.precisions)}{hint}")
    if compute not in (row.computes or (precision,)):
        computes = ", ".join(row.computes) or f"the type of its graph, here {precision}"
        raise SpecError(f"{name} does not compute in {compute!r}: it computes in {computes}")
    if row.device == "gpu":
        gpu_for(name)
    if not row.survives_fork and loaded_before_fork(row.package):
        raise RuntimeUnavailable(
            f"{row.package} was loaded before os.fork, and its threads stayed in the parent: open {name} in a process "
            "that multiprocessing's spawn starts, or use --runtime onnxrt"
        )
    require(row.package, row.extra)
    from m2d_export.runtimes.runtime import RuntimeOptions  # here, because it imports numpy: --help must be fast

    row.load().check(RuntimeOptions(name, compute=compute))


def open_runtime(
    name: str, variant: Variant, threads: int | None = None, compute: str | None = None, cache: Path | None = None
) -> "Runtime":
    """Open ``variant`` in the runtime called ``name``.

    If ``threads`` is None, there is one thread per core. If ``compute`` is None, the runtime's default is used.
    ``cache`` is a folder in which a runtime that compiles stores its code for the next process. Raises SpecError for a
    wrong name, precision, compute or number of threads, and if the bundle has no engine for the runtime. Raises
    RuntimeUnavailable if a package or GPU is missing.
    """
    if compute is None:
        compute = RUNTIMES[name].default_compute(variant.precision) if name in RUNTIMES else ""
    from m2d_export.runtimes.runtime import RuntimeOptions

    options = RuntimeOptions(name, cores() if threads is None else threads, compute, cache)
    check_runtime(name, variant.precision, compute)
    if cache is not None and not RUNTIMES[name].compiles:
        others = ", ".join(other for other, row in RUNTIMES.items() if row.compiles)
        raise SpecError(f"{name} compiles nothing, so it has no cache: leave out cache, or use {others}")
    runtime = RUNTIMES[name].load()(variant, options)
    if variant.text is not None:
        runtime.text = variant.text
    owns_threads(runtime)
    return runtime
