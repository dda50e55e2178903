"""A cell as a small CMake project: texts in, vectors out, in C++17."""

ENGINES = {"tensorrt": "trt", "tensorrt-rtx": "trt-rtx"}  # what runs an engine of the bundle, and of which kind
RUNTIMES = ("openvino", "onnxruntime", *ENGINES)  # what the C++ can be written for
