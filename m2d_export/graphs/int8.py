"""int8 graphs from fp32 ones: static Q/DQ, calibrated over the uncut graph, so that every exit is covered.

Static, because dynamic int8 takes one scale from the whole padded batch: a text's vector would hang on its neighbours.
"""

import contextlib
import io
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from m2d_export.errors import ExportError, first_line
from m2d_export.graphs.passes.fuse_attention import attention_as_one
from m2d_export.graphs.passes.int8_graph import (
    heads_split_last,
    looked_up_before_scaled,
    products_of_one_input_joined,
    without_saturation,
)
from m2d_export.host.extras import require
from m2d_export.text.batches import Tokenizer, pad

INPUTS = ("input_ids", "attention_mask", "pooling_mask")
LONG = 8  # every so many texts one more sample joins that many of them: long texts have other ranges than short ones


def calibration_samples(texts: Sequence[str], tokenizer: Tokenizer) -> list[dict[str, np.ndarray[Any, Any]]]:
    """The graph's inputs for every text alone, and for paragraphs of them: nothing is padded, so none of it counts."""
    paragraphs = [" ".join(texts[start : start + LONG]) for start in range(0, len(texts), LONG)]
    tokens = tokenizer.encode([*texts, *paragraphs], tokenizer.spec.prompt())
    batches = (pad([item], tokenizer.spec, [0]) for item in tokens)
    return [{name: array for name in INPUTS if (array := getattr(batch, name)) is not None} for batch in batches]


def int8_models(model: ir.Model, samples: Sequence[Mapping[str, Any]]) -> tuple[ir.Model, ir.Model | None]:
    """``model``, all exits in one graph, with int8 weights and static activation ranges; it stays as it was itself.

    Twice, since no one graph is the quickest in both runtimes: as OpenVINO likes it, in operators that every runtime
    knows, and as ONNX Runtime does, where that is another one.

    By NNCF's post-training quantization for transformers (SmoothQuant; Xiao et al. 2023), with ranges from the least
    to the greatest value seen: clipping the rarest ones, its default, loses some texts altogether (all-MiniLM-L6-v2:
    least cosine to the reference over the sentences of STS-B test 0.60 instead of 0.95). Raises ExportError where NNCF
    cannot, RuntimeUnavailable without the extra ``int8``.
    """
    os.environ.setdefault("NNCF_CI", "1")  # what it otherwise does is report to its makers that it runs
    nncf = require("nncf", "int8")
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    logging.getLogger("nncf").setLevel(logging.ERROR)
    joined = products_of_one_input_joined(model.clone())
    # Attention's own products have no weights: in int8 they cost more to quantize than they save, and some precision.
    attention = [
        str(node.name) for node in joined.graph if node.op_type == "MatMul" and not any(map(_constant, node.inputs))
    ]
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its progress bars, in a pipe too
            quantized = nncf.quantize(
                ir.serde.serialize_model(joined),
                nncf.Dataset(list(samples)),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(samples),
                ignored_scope=nncf.IgnoredScope(names=attention),
                advanced_parameters=AdvancedQuantizationParameters(
                    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
                ),
            )
    except Exception as error:  # whatever its passes raise
        raise ExportError(f"NNCF cannot quantize this graph: {first_line(error)}") from error
    whole = without_saturation(looked_up_before_scaled(ir.serde.deserialize_model(quantized)))
    return heads_split_last(whole.clone()), attention_as_one(whole)


def _constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None
