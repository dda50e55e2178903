"""A cell as a CMake project in C++17."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Flavour:
    """How the C++ for one runtime is written.

    ``title`` is the name of the library. The names of its templates begin with ``templates``. ``places`` has the texts
    for the places in them. If ``runs_engine``, the model is the bundle's engine and not a graph.
    """

    title: str
    templates: str
    runs_engine: bool = False
    places: Mapping[str, str] = field(default_factory=dict)


FLAVOURS: Mapping[str, Flavour] = {  # by the names of the runtimes
    "openvino": Flavour("OpenVINO", "openvino"),
    "onnxrt": Flavour("ONNX Runtime", "onnxrt"),
    "trt": Flavour("TensorRT", "trt", True, {"library": "nvinfer", "archive": "TensorRT-[0-9]*.tar.*"}),
    "trt-rtx": Flavour("TensorRT for RTX", "trt", True, {"library": "tensorrt_rtx", "archive": "TensorRT-RTX-*.tar.*"}),
}
