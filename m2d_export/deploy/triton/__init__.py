"""Cells as a model repository for Triton Inference Server."""

BACKENDS = ("python", "onnxruntime", "tensorrt")  # the names are Triton's
PYTHON_RUNTIMES = ("onnxrt", "openvino")  # those that templates/model.py opens
