"""What is compared: every system, the environment it runs in, the weights it runs on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WEIGHTS = "all-MiniLM-L6-v2"
REFERENCE = "minilm-l6-sts-2d"  # of models/: the same encoder, trained for its exits
OURS = ""  # the environment that runs the benchmark itself


@dataclass(frozen=True, eq=False)
class System:
    """One row: ``settings`` go to its worker; ``exports`` are steps of exports.py that its files need, in order."""

    name: str
    weights: str
    environment: str
    folder: str  # which of the benchmark's folders its worker opens
    settings: Mapping[str, Any]
    exports: tuple[str, ...] = ()
    needs: str = ""  # a flag of the CPU without which it is not run


def _torch(dtype: str, name: str) -> System:
    settings = {"load": "torch", "dtype": dtype}
    return System(f"sentence-transformers torch {name}", f"{WEIGHTS} {name}", "st", "checkpoint", settings)


def _backend(backend: str, name: str, weights: str, file: str, *exports: str, needs: str = "") -> System:
    settings = {"load": "backend", "backend": backend, "file": file}
    return System(f"sentence-transformers {name}", f"{WEIGHTS} {weights}", "st5", "st5", settings, exports, needs)


def _ours(runtime: str, name: str, precision: str, compute: str = "", needs: str = "") -> System:
    settings = {"load": "bundle", "runtime": runtime, "precision": precision}
    settings |= {"compute": compute} if compute else {}
    title = f"m2d-export {name} {precision}" + (f" in {compute}" if compute else "")
    return System(title, f"{WEIGHTS} {precision}", OURS, WEIGHTS, settings, needs=needs)


def _exit(layer: int, runtime: str, name: str, precision: str, compute: str = "", needs: str = "") -> System:
    """An exit of the reference checkpoint, which has weights of its own."""
    settings = {"load": "bundle", "runtime": runtime, "precision": precision, "layer": layer}
    settings |= {"compute": compute} if compute else {}
    title = f"m2d-export {name} {precision}" + (f" in {compute}" if compute else "") + f" at exit {layer}"
    return System(title, f"{REFERENCE} {precision}", OURS, REFERENCE, settings, needs=needs)


DYNAMIC, STATIC = "int8, dynamic", "int8, static"
BF16, VNNI, QUANTIZED = "avx512_bf16", "avx512_vnni", "openvino/openvino_model_qint8_quantized.xml"
DISTILLED = f"token vectors distilled from {WEIGHTS}"
# torch asks for no flag: it runs in bf16 anywhere, slowly where the CPU cannot.
SYSTEMS = (
    _torch("float32", "fp32"),
    _torch("bfloat16", "bf16"),
    _backend("onnx", "ONNX fp32", "fp32", "onnx/model.onnx", "onnx"),
    _backend("onnx", "ONNX O3", "fp32", "onnx/model_O3.onnx", "onnx", "O3"),
    _backend("onnx", "ONNX qint8 avx2", DYNAMIC, "onnx/model_avx2.onnx", "onnx", "avx2"),
    _backend("onnx", f"ONNX qint8 {VNNI}", DYNAMIC, f"onnx/model_{VNNI}.onnx", "onnx", VNNI, needs=VNNI),
    _backend("openvino", "OpenVINO", "fp32", "openvino/openvino_model.xml", "openvino"),
    _backend("openvino", "OpenVINO static qint8", STATIC, QUANTIZED, "openvino", "static"),
    System("fastembed", f"{WEIGHTS} fp32", "fastembed", "st5", {"load": "fastembed"}, ("onnx",)),
    System("model2vec", DISTILLED, "model2vec", "model2vec", {"load": "model2vec"}, ("model2vec",)),
    _ours("onnxrt", "ONNX Runtime", "fp32"),
    _ours("onnxrt", "ONNX Runtime", "int8"),
    _ours("openvino", "OpenVINO", "fp32"),
    _ours("openvino", "OpenVINO", "fp32", "bf16", needs=BF16),
    _ours("openvino", "OpenVINO", "int8"),
    _ours("openvino", "OpenVINO", "int8", "bf16", needs=BF16),
    _exit(3, "onnxrt", "ONNX Runtime", "fp32"),
    _exit(3, "onnxrt", "ONNX Runtime", "int8"),
    _exit(3, "openvino", "OpenVINO", "int8"),
    _exit(3, "openvino", "OpenVINO", "int8", "bf16", needs=BF16),
)
