"""A cell as a small CMake project: texts in, vectors out, in C++17."""

RUNTIMES = ("openvino", "onnxruntime")  # what the C++ can be written for
