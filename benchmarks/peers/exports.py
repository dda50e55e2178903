"""Make the files that a peer needs from the checkpoint, with the peer's own tools. Runs offline in its environment.

python exports.py STEP CHECKPOINT FOLDER [CALIBRATION]
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ONNX = "onnx/model.onnx"
OPENVINO = "openvino/openvino_model.xml"


def onnx(checkpoint: str, folder: str) -> None:
    """sentence-transformers' own fp32 graph."""
    from sentence_transformers import SentenceTransformer

    options = {"provider": "CPUExecutionProvider", "export": True}
    SentenceTransformer(checkpoint, device="cpu", backend="onnx", model_kwargs=options).save_pretrained(folder)


def _loaded(folder: str, backend: str, file: str) -> Any:
    from sentence_transformers import SentenceTransformer

    options = {"file_name": file} | ({"provider": "CPUExecutionProvider"} if backend == "onnx" else {})
    return SentenceTransformer(folder, device="cpu", backend=backend, model_kwargs=options)


def optimized(checkpoint: str, folder: str) -> None:
    """The same graph, optimized by optimum at level O3."""
    from sentence_transformers import export_optimized_onnx_model

    export_optimized_onnx_model(_loaded(folder, "onnx", ONNX), "O3", folder)


def dynamic(name: str) -> Callable[[str, str], None]:
    """A step: the same graph in dynamic int8, for one kind of CPU."""

    def export(checkpoint: str, folder: str) -> None:
        from sentence_transformers import export_dynamic_quantized_onnx_model

        export_dynamic_quantized_onnx_model(_loaded(folder, "onnx", ONNX), name, folder, file_suffix=name)

    return export


def openvino(checkpoint: str, folder: str) -> None:
    """sentence-transformers' own OpenVINO model."""
    from sentence_transformers import SentenceTransformer

    options = {"export": True}
    SentenceTransformer(checkpoint, device="cpu", backend="openvino", model_kwargs=options).save_pretrained(folder)


def static(checkpoint: str, folder: str, calibration: str) -> None:
    """The same in static int8 with the default calibration, on sentences of a local folder."""
    from sentence_transformers import export_static_quantized_openvino_model

    # All four names of a dataset are required. A folder of CSV files has these.
    export_static_quantized_openvino_model(
        _loaded(folder, "openvino", OPENVINO), None, folder, calibration, "default", "train", "sentence"
    )


def model2vec(checkpoint: str, folder: str) -> None:
    """A static embedding distilled from the checkpoint, 256 dims."""
    from model2vec.distill import distill

    distill(checkpoint, device="cpu", pca_dims=256).save_pretrained(folder)


STEPS: dict[str, Callable[..., None]] = {
    "onnx": onnx,
    "O3": optimized,
    "avx2": dynamic("avx2"),
    "avx512_vnni": dynamic("avx512_vnni"),
    "openvino": openvino,
    "static": static,
    "model2vec": model2vec,
}

if __name__ == "__main__":
    step, *arguments = sys.argv[1:]
    Path(arguments[1]).mkdir(parents=True, exist_ok=True)
    STEPS[step](*arguments)
