"""int8 graphs from fp32 ones: static Q/DQ, calibrated over the uncut graph, so that every exit is covered.

Static, because dynamic int8 takes one scale from the whole padded batch: a text's vector would hang on its neighbours.
"""

import contextlib
import io
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from m2d_export.batching import Tokenizer, pad
from m2d_export.errors import ExportError, first_line
from m2d_export.extras import require

INPUTS = ("input_ids", "attention_mask", "pooling_mask")
LONG = 8  # every so many texts one more sample joins that many of them: long texts have other ranges than short ones


def calibration_samples(texts: Sequence[str], tokenizer: Tokenizer) -> list[dict[str, np.ndarray[Any, Any]]]:
    """The graph's inputs for every text alone, and for paragraphs of them: nothing is padded, so none of it counts."""
    paragraphs = [" ".join(texts[start : start + LONG]) for start in range(0, len(texts), LONG)]
    tokens = tokenizer.encode([*texts, *paragraphs], tokenizer.spec.prompt())
    batches = (pad([item], tokenizer.spec, [0]) for item in tokens)
    return [{name: array for name in INPUTS if (array := getattr(batch, name)) is not None} for batch in batches]


def int8_model(model: ir.Model, samples: Sequence[Mapping[str, Any]]) -> ir.Model:
    """``model``, all exits in one graph, with int8 weights and static activation ranges; it stays as it was itself.

    By NNCF's post-training quantization for transformers (SmoothQuant; Xiao et al. 2023), with ranges from the least
    to the greatest value seen: clipping the rarest ones, its default, loses some texts altogether (all-MiniLM-L6-v2:
    least cosine to the reference 0.60 instead of 0.994). Raises ExportError where NNCF cannot, RuntimeUnavailable
    without the extra ``int8``.
    """
    os.environ.setdefault("NNCF_CI", "1")  # what it otherwise does is report to its makers that it runs
    nncf = require("nncf", "int8")
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    logging.getLogger("nncf").setLevel(logging.ERROR)
    joined = _products_of_one_input_joined(model.clone())
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its progress bars, in a pipe too
            quantized = nncf.quantize(
                ir.serde.serialize_model(joined),
                nncf.Dataset(list(samples)),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(samples),
                advanced_parameters=AdvancedQuantizationParameters(
                    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
                ),
            )
    except Exception as error:  # whatever its passes raise
        raise ExportError(f"NNCF cannot quantize this graph: {first_line(error)}") from error
    return _looked_up_before_scaled(ir.serde.deserialize_model(quantized))


def _products_of_one_input_joined(model: ir.Model) -> ir.Model:
    """The same model, where linear layers of one input (query, key, value) are one, whose result is split.

    Of products that share their quantized input, ONNX Runtime does all in float and scales their weights in every
    call: half of an encoder's. Changed in place.
    """
    for source in list(model.graph):
        for value in source.outputs:
            layers = [layer for user in value.consumers() if (layer := _linear(user, value)) is not None]
            if len(layers) < 2:
                continue
            weights = _constant(np.concatenate([layer.weights for layer in layers], axis=1), f"{value.name}_weights")
            biases = _constant(np.concatenate([layer.biases for layer in layers]), f"{value.name}_biases")
            widths = _constant(np.array([len(layer.biases) for layer in layers]), f"{value.name}_widths")
            for constant in (weights, biases, widths):
                model.graph.register_initializer(constant)
            product = ir.node("MatMul", [value, weights])
            total = ir.node("Add", [product.outputs[0], biases])
            split = ir.node("Split", [total.outputs[0], widths], {"axis": -1}, num_outputs=len(layers))
            model.graph.insert_after(source, [product, total, split])
            ir.convenience.replace_all_uses_with([layer.total.outputs[0] for layer in layers], split.outputs)
            model.graph.remove([node for layer in layers for node in (layer.total, layer.product)], safe=True)
    RemoveUnusedNodesPass()(model)  # the weights that were joined
    return model


@dataclass(frozen=True, eq=False)
class _Linear:
    """A linear layer: its two nodes, weights (in, out) and biases (out)."""

    product: ir.Node
    total: ir.Node
    weights: np.ndarray[Any, Any]
    biases: np.ndarray[Any, Any]


def _linear(product: ir.Node, value: ir.Value) -> _Linear | None:
    """The linear layer of input ``value`` that starts with ``product``; None where there is none."""
    if product.op_type != "MatMul" or product.inputs[0] is not value or len(product.outputs[0].consumers()) != 1:
        return None
    (total,) = product.outputs[0].consumers()
    if total.op_type != "Add" or product.inputs[1] is None or total.inputs[1] is None:
        return None
    weights, biases = product.inputs[1].const_value, total.inputs[1].const_value
    if weights is None or biases is None or len(biases.shape) != 1:
        return None
    return _Linear(product, total, weights.numpy(), biases.numpy())


def _looked_up_before_scaled(model: ir.Model) -> ir.Model:
    """The same model, where only those rows of a table are scaled that are looked up.

    NNCF scales every table as a whole, and ONNX Runtime then does that in every call: all 30,522 rows for a text of ten
    tokens. Scales are one for each row, so they are looked up too. Changed in place.
    """
    for lookup in [node for node in model.graph if node.op_type == "Gather"]:
        table, ids = lookup.inputs
        scaled = table.producer() if table is not None else None
        if table is None or ids is None or scaled is None or scaled.op_type != "DequantizeLinear":
            continue
        stored, scales, zeros = (value.const_value if value is not None else None for value in scaled.inputs)
        by_row = [source.attributes.get_int("axis", other) for source, other in ((lookup, 0), (scaled, 1))] == [0, 0]
        if stored is None or scales is None or zeros is None or not by_row or np.any(zeros.numpy()):
            continue
        last = _constant(np.array([-1]), f"{lookup.name}_last")
        model.graph.register_initializer(last)
        rows = ir.node("Gather", [scaled.inputs[0], ids], {"axis": 0})
        numbers = ir.node("Cast", [rows.outputs[0]], {"to": ir.DataType.FLOAT})
        theirs = ir.node("Gather", [scaled.inputs[1], ids], {"axis": 0})
        column = ir.node("Unsqueeze", [theirs.outputs[0], last])
        product = ir.node("Mul", [numbers.outputs[0], column.outputs[0]])
        ir.convenience.replace_nodes_and_values(
            model.graph, lookup, [lookup], [rows, numbers, theirs, column, product], lookup.outputs, product.outputs
        )
        if not table.uses():
            model.graph.remove(scaled, safe=True)
    return model


def _constant(array: np.ndarray[Any, Any], name: str) -> ir.Value:
    return ir.Value(name=name, const_value=ir.tensor(array, name=name))
