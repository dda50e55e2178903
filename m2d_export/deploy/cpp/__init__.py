"""A cell as a CMake project in C++17."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Flavour:
    """How the C++ for one runtime is written.

    ``title`` is the library's name for readers; ``templates`` is how the names of its templates begin; ``places`` fills
    places in them. ``runs_engine``: the model is the bundle's engine for that runtime, not a graph.
    """

    title: str
    templates: str
    runs_engine: bool = False
    places: Mapping[str, str] = field(default_factory=dict)


FLAVOURS: Mapping[str, Flavour] = {  # by the runtimes' names
    "openvino": Flavour("OpenVINO", "openvino"),
    "onnxrt": Flavour("ONNX Runtime", "onnxrt"),
    "trt": Flavour("TensorRT", "trt", True, {"library": "nvinfer", "archive": "TensorRT-[0-9]*.tar.*"}),
    "trt-rtx": Flavour("TensorRT for RTX", "trt", True, {"library": "tensorrt_rtx", "archive": "TensorRT-RTX-*.tar.*"}),
}
