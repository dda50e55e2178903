"""One row per runtime.

A new runtime is a row here, a module in this folder, an extra in pyproject.toml, and its tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from m2d_export.engines.library import LIBRARIES
from m2d_export.host.gpu import Gpu, first_gpu
from m2d_export.precisions import TYPED
from m2d_export.runtimes.runtime import Runtime
from m2d_export.spec import Precision


@dataclass(frozen=True)
class RuntimeSpec:
    """What a runtime can do, and what it needs.

    ``opens`` names its class as "module:Class", the module in this folder. ``package`` is the module of its library,
    which ``extra`` installs. ``computes`` are the types it can multiply floats in, the default first; without any, it
    computes in the types of the graph. ``compiles``: it can store compiled code in a cache.
    """

    opens: str
    package: str
    extra: str
    precisions: tuple[Precision, ...]
    computes: tuple[str, ...] = ()
    device: Literal["cpu", "gpu"] = "cpu"
    compiles: bool = False

    def default_compute(self, precision: str) -> str:
        """The type that floats of a variant in ``precision`` are multiplied in unless ``compute`` is given."""
        return self.computes[0] if self.computes else precision

    def load(self) -> type[Runtime]:
        """The class of the runtime, imported now."""
        module, _, name = self.opens.partition(":")
        found: type[Runtime] = getattr(import_module(f"m2d_export.runtimes.{module}"), name)
        return found


# A name holds library and device, so that records of several runtimes need no further field. No device: the processor.
RUNTIMES: Mapping[str, RuntimeSpec] = {
    "onnxrt": RuntimeSpec(
        opens="onnxrt:OnnxRuntime",
        package="onnxruntime",
        extra="cpu",
        precisions=(Precision.FP32, Precision.FP16, Precision.INT8),
        computes=("fp32",),
    ),
    "openvino": RuntimeSpec(
        opens="openvino:OpenvinoRuntime",
        package="openvino",
        extra="openvino",
        precisions=tuple(Precision),
        computes=("fp32", "bf16"),
        compiles=True,
    ),
    "pytorch": RuntimeSpec(
        opens="pytorch:PytorchRuntime",
        package="torch",
        extra="build",
        precisions=(Precision.FP32,),
        computes=("fp32",),
    ),
    "trt": RuntimeSpec(
        opens="trt:TensorrtRuntime",
        package=LIBRARIES["trt"],
        extra="trt",
        precisions=TYPED,
        device="gpu",
    ),
    "trt-rtx": RuntimeSpec(
        opens="trt:TensorrtRuntime",
        package=LIBRARIES["trt-rtx"],
        extra="trt-rtx",
        precisions=TYPED,
        device="gpu",
        compiles=True,
    ),
    "onnxrt-cuda": RuntimeSpec(
        opens="onnxrt_gpu:OnnxGpuRuntime",
        package="onnxruntime",
        extra="gpu",
        precisions=(Precision.FP32, Precision.FP16),
        device="gpu",
    ),
    "onnxrt-trt": RuntimeSpec(
        opens="onnxrt_gpu:OnnxGpuRuntime",
        package="onnxruntime",
        extra="gpu",
        precisions=(Precision.FP16,),  # fp32 would be TF32: this provider has no switch for it
        device="gpu",
        compiles=True,
    ),
    "pytorch-cuda": RuntimeSpec(
        opens="pytorch:PytorchRuntime",
        package="torch",
        extra="build",
        precisions=(Precision.FP32,),
        computes=("fp32", "fp16", "bf16"),
        device="gpu",
    ),
}


def gpu_for(name: str) -> Gpu:
    """The GPU that the runtime called ``name`` runs on; RuntimeUnavailable names the runtimes that need none."""
    others = ", ".join(other for other, row in RUNTIMES.items() if row.device == "cpu")
    return first_gpu(f"--runtime {name}", f"{others} run on the processor")
