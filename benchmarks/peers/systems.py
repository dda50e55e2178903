"""The systems that are compared, each with its environment and its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WEIGHTS = "all-MiniLM-L6-v2"
SHIPPED = "minilm-l6-2d"  # in models/: the same encoder, trained for its exits
BF16, VNNI = "avx512_bf16", "avx512_vnni"  # flags of the CPU
RUNTIMES = {"onnxrt": "ONNX Runtime", "openvino": "OpenVINO"}
OURS = ""  # the environment that runs the benchmark


@dataclass(frozen=True, eq=False)
class System:
    """A system. Its worker gets ``settings``. Its files need the steps ``exports`` of exports.py, in this order."""

    name: str
    weights: str
    environment: str
    folder: str  # that its worker opens
    settings: Mapping[str, Any]
    exports: tuple[str, ...] = ()
    needs: str = ""  # a flag of the CPU


def _torch(dtype: str, name: str) -> System:
    settings = {"load": "torch", "dtype": dtype}
    return System(f"sentence-transformers torch {name}", f"{WEIGHTS} {name}", "st", "checkpoint", settings)


def _backend(backend: str, name: str, weights: str, file: str, *exports: str, needs: str = "") -> System:
    settings = {"load": "backend", "backend": backend, "file": file}
    return System(f"sentence-transformers {name}", f"{WEIGHTS} {weights}", "st5", "st5", settings, exports, needs)


def _ours(runtime: str, precision: str, compute: str = "", exit_layer: int | None = None) -> System:
    """This package at full depth, or at an exit of the shipped checkpoint, which has its own weights."""
    weights = WEIGHTS if exit_layer is None else SHIPPED
    title = f"m2d-export {RUNTIMES[runtime]} {precision}"
    settings: dict[str, Any] = {"load": "bundle", "runtime": runtime, "precision": precision}
    if compute:
        settings["compute"], title = compute, f"{title} in {compute}"
    if exit_layer is not None:
        settings["layer"], title = exit_layer, f"{title} at exit {exit_layer}"
    return System(title, f"{weights} {precision}", OURS, weights, settings, needs=BF16 if compute else "")


DYNAMIC, STATIC = "int8, dynamic", "int8, static"
QUANTIZED = "openvino/openvino_model_qint8_quantized.xml"
DISTILLED = f"token vectors distilled from {WEIGHTS}"
# torch in bf16 needs no flag: it runs on every CPU, slowly if the CPU has no bf16.
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
    _ours("onnxrt", "fp32"),
    _ours("onnxrt", "int8"),
    _ours("openvino", "fp32"),
    _ours("openvino", "fp32", "bf16"),
    _ours("openvino", "int8"),
    _ours("openvino", "int8", "bf16"),
    _ours("onnxrt", "fp32", exit_layer=3),
    _ours("onnxrt", "int8", exit_layer=3),
    _ours("openvino", "int8", exit_layer=3),
    _ours("openvino", "int8", "bf16", exit_layer=3),
)
