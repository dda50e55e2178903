"""int8 graphs: static quantization (Q/DQ), calibrated on the graph of all exits, so that every exit is covered.

Static, because dynamic quantization takes one scale from the whole padded batch: the vector of a text would depend on
the other texts of its batch.
"""

import contextlib
import io
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from m2d_export.errors import ExportError, first_line
from m2d_export.graphs.passes.common import constant_array
from m2d_export.graphs.passes.dequantize_after_gather import dequantize_after_gather
from m2d_export.graphs.passes.fuse_attention import fuse_attention
from m2d_export.graphs.passes.fuse_qkv import fuse_qkv
from m2d_export.graphs.passes.prevent_saturation import prevent_saturation
from m2d_export.graphs.passes.split_heads_last import split_heads_last
from m2d_export.host.extras import require
from m2d_export.spec import DEFAULT, Precision
from m2d_export.text.batches import IntArray, pad
from m2d_export.text.tokenizer import Tokenizer

PARAGRAPH = 8  # texts joined into one sample, because long texts have other activation ranges than short ones


def calibration_samples(texts: Sequence[str], tokenizer: Tokenizer) -> list[dict[str, IntArray]]:
    """Inputs of the graph for each text and for paragraphs of them, without padding, which would join the ranges."""
    paragraphs = [" ".join(texts[start : start + PARAGRAPH]) for start in range(0, len(texts), PARAGRAPH)]
    tokens = tokenizer.encode([*texts, *paragraphs], tokenizer.spec.prompt())
    return [pad([item], tokenizer.spec, [0]).inputs() for item in tokens]


def int8_graphs(
    model: ir.Model, precision: Precision, samples: Sequence[Mapping[str, Any]] | None
) -> dict[str, ir.Model]:
    """All exits with int8 weights and static activation ranges; ``model`` stays as it was.

    The default graph is standard ONNX and fastest in OpenVINO. The graph for "onnxrt" is fastest in ONNX Runtime, and
    exists only if attentions can be fused. NNCF quantizes with SmoothQuant (Xiao et al. 2023). Ranges reach from the
    smallest to the largest value: NNCF's default clips the rarest values, which ruins the vectors of some texts.

    Raises ExportError if NNCF fails, RuntimeUnavailable without the ``int8`` extra.
    """
    assert precision is Precision.INT8 and samples is not None  # noqa: S101, PT018 - a plan with int8 has samples
    fused = model.clone()
    fuse_qkv(fused)
    default = _quantized(fused, samples)
    dequantize_after_gather(default)
    prevent_saturation(default)
    onnxrt = default.clone()
    split_heads_last(default)
    return {DEFAULT: default, "onnxrt": onnxrt} if fuse_attention(onnxrt) else {DEFAULT: default}


def _quantized(model: ir.Model, samples: Sequence[Mapping[str, Any]]) -> ir.Model:
    os.environ.setdefault("NNCF_CI", "1")  # turns NNCF's telemetry off
    nncf = require("nncf", "int8")
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    logging.getLogger("nncf").setLevel(logging.ERROR)
    # Matmuls without weights are attention's own. Quantizing their inputs costs more time than int8 saves.
    attention = [
        str(node.name)
        for node in model.graph
        if node.op_type == "MatMul" and all(constant_array(value) is None for value in node.inputs)
    ]
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # NNCF prints progress bars
            quantized = nncf.quantize(
                ir.serde.serialize_model(model),
                nncf.Dataset(list(samples)),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(samples),
                ignored_scope=nncf.IgnoredScope(names=attention),
                advanced_parameters=AdvancedQuantizationParameters(
                    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
                ),
            )
    except Exception as error:  # NNCF raises many types
        raise ExportError(f"NNCF cannot quantize this graph: {first_line(error)}") from error
    return ir.serde.deserialize_model(quantized)
