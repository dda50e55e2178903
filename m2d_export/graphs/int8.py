"""Make int8 graphs by static quantization (Q/DQ) of the one graph that has all exits.

The ranges of activations are constants. Dynamic quantization has one scale per padded batch, so the vector of a text
would depend on the other texts in the batch.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from m2d_export.graphs.activations import Activations, joined, observe
from m2d_export.graphs.passes.common import constant, constant_array
from m2d_export.graphs.passes.dequantize_after_gather import dequantize_after_gather
from m2d_export.graphs.passes.fuse_attention import fuse_attention
from m2d_export.graphs.passes.fuse_qkv import fuse_qkv
from m2d_export.graphs.passes.prevent_saturation import prevent_saturation
from m2d_export.graphs.passes.split_heads_last import split_heads_last
from m2d_export.graphs.smoothing import Smoothing, activation_scale, best_smoothing, quantized_weights
from m2d_export.spec import DEFAULT, Precision
from m2d_export.text.batches import IntArray, pad
from m2d_export.text.tokenizer import Tokenizer
from m2d_export.vectors import FloatArray

PARAGRAPH = 8  # how many texts are joined into a paragraph: long texts have other activations than short texts


def calibration_samples(texts: Sequence[str], tokenizer: Tokenizer) -> list[dict[str, IntArray]]:
    """Make the graph's inputs for each text and each paragraph. Padding would change the ranges, so there is none."""
    paragraphs = [" ".join(texts[start : start + PARAGRAPH]) for start in range(0, len(texts), PARAGRAPH)]
    tokens = tokenizer.encode([*texts, *paragraphs], tokenizer.spec.prompt())
    return [pad([item], tokenizer.spec, [0]).inputs() for item in tokens]


def int8_graphs(
    model: ir.Model,
    precision: Precision,
    samples: Sequence[Mapping[str, Any]] | None,
    progress: Callable[[str], None] = lambda step: None,
) -> dict[str, ir.Model]:
    """Make graphs with int8 weights and static activation ranges. Each has all exits. ``model`` is not changed.

    The default graph is standard ONNX, and is the fastest one in OpenVINO. The graph for "onnxrt" is the fastest one in
    ONNX Runtime. It exists only if the attention can be fused. A range goes from the smallest to the largest value,
    because some texts get wrong vectors if rare values are clipped. If columns of a product's activations are
    multiplied in float, ``progress`` gets a message about it. Raises ExportError if the calibration fails.
    """
    assert precision is Precision.INT8 and samples is not None  # noqa: S101, PT018 - a plan with int8 has samples
    default = model.clone()
    fuse_qkv(default)
    _quantize_products(default, samples, progress)
    _quantize_tables(default)
    RemoveUnusedNodesPass()(default)
    dequantize_after_gather(default)
    prevent_saturation(default)
    onnxrt = default.clone()
    split_heads_last(default)
    return {DEFAULT: default, "onnxrt": onnxrt} if fuse_attention(onnxrt) else {DEFAULT: default}


def products(model: ir.Model) -> list[tuple[ir.Node, NDArray[Any]]]:
    """Find every MatMul of activations and constant float weights (in, out), and return it with the weights."""
    found = ((node, constant_array(node.inputs[1])) for node in model.graph if node.op_type == "MatMul")
    return [(node, weights) for node, weights in found if weights is not None and weights.ndim == 2]


def _quantize_products(model: ir.Model, samples: Sequence[Mapping[str, Any]], progress: Callable[[str], None]) -> None:
    """Quantize every MatMul of tokens and weights.

    Products with equal weights are smoothed by the same factors, so that their int8 weights are equal too. A MatMul
    without weights belongs to attention, and is not quantized, because it would become slower. A Gemm is not quantized
    either: it is a head, which runs once per text.
    """
    groups: dict[bytes, list[ir.Node]] = {}
    for node, weights in products(model):
        groups.setdefault(hashlib.sha256(weights.tobytes()).digest(), []).append(node)
    inputs = dict.fromkeys(_name(node.inputs[0]) for nodes in groups.values() for node in nodes)
    found = observe(model, list(inputs), samples) if inputs else {}  # exit 0 has no product
    for nodes in groups.values():
        weights = np.asarray(constant_array(nodes[0].inputs[1]))
        activations = joined([found[_name(node.inputs[0])] for node in nodes])
        smoothing = best_smoothing(activations, weights)
        if smoothing is None or len(smoothing.outliers):
            share = "all" if smoothing is None else f"{len(smoothing.outliers)} of {len(weights)}"
            progress(f"{', '.join(_layer_name(node) for node in nodes)}: {share} columns are multiplied in float")
        if smoothing is not None:
            for node in nodes:
                _quantize(model.graph, node, weights, activations, smoothing)


def _name(value: ir.Value | None) -> str:
    return str(value.name) if value is not None else ""


def _bias(product: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """Find the Add after a product and the constant that it adds. None if there is no such Add."""
    for add in product.outputs[0].consumers():
        for value in add.inputs:
            if add.op_type == "Add" and value is not None and constant_array(value) is not None:
                return add, value
    return None


def _layer_name(product: ir.Node) -> str:
    bias = _bias(product)
    return _name(bias[1]).removesuffix(".bias") if bias else str(product.name)


def _quantize(
    graph: ir.Graph, product: ir.Node, weights: FloatArray, activations: Activations, smoothing: Smoothing
) -> None:
    """Put Mul, QuantizeLinear and DequantizeLinear before ``product``, and make its weights (in, out) int8.

    The outlying columns are multiplied in float. Their product is added after the bias, because ONNX Runtime fuses an
    int8 product only with a bias that comes directly after it.
    """
    value, prefix = product.inputs[0], str(product.name)
    within = np.ones(len(weights), np.float32)
    within[smoothing.outliers] = 0
    factors = within / smoothing.scales
    parameters = activation_scale(activations.low * factors, activations.high * factors)
    scale, zero = (
        constant(graph, np.array(number), f"{prefix}_input_{name}")
        for number, name in zip(parameters, ("scale", "zero"), strict=True)
    )
    stored, scales = quantized_weights(weights * (within * smoothing.scales)[:, None])
    smooth = ir.node("Mul", [value, constant(graph, factors, f"{prefix}_factors")])
    quantize = ir.node("QuantizeLinear", [smooth.outputs[0], scale, zero])
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], scale, zero])
    weight = _dequantized(graph, stored, scales.ravel(), 1, f"{prefix}_weights")
    graph.insert_before(product, [smooth, quantize, dequantize, weight])
    product.replace_input_with(0, dequantize.outputs[0])
    product.replace_input_with(1, weight.outputs[0])
    if len(smoothing.outliers):
        picked = ir.node("Gather", [value, constant(graph, smoothing.outliers, f"{prefix}_outliers")], {"axis": -1})
        rows = constant(graph, weights[smoothing.outliers], f"{prefix}_outlier_weights")
        outlying = ir.node("MatMul", [picked.outputs[0], rows])
        bias = _bias(product)
        last = bias[0] if bias else product
        total = ir.node("Add", [last.outputs[0], outlying.outputs[0]])
        ir.convenience.replace_all_uses_with(last.outputs[0], total.outputs[0])
        total.replace_input_with(0, last.outputs[0])
        graph.insert_after(last, [picked, outlying, total])


def _dequantized(graph: ir.Graph, stored: NDArray[np.int8], scales: FloatArray, axis: int, prefix: str) -> ir.Node:
    values = [
        constant(graph, array, f"{prefix}_{name}")
        for array, name in ((stored, "int8"), (scales, "scales"), (np.zeros(len(scales), np.int8), "zeros"))
    ]
    return ir.node("DequantizeLinear", values, {"axis": axis})


def _quantize_tables(model: ir.Model) -> None:
    """Store tables of token embeddings as int8, with one scale for each row."""
    tables: dict[ir.Value, ir.Node] = {}
    for lookup in [node for node in model.graph if node.op_type == "Gather"]:
        table, ids = lookup.inputs
        weights = constant_array(table)
        if table is None or ids not in model.graph.inputs or weights is None or weights.ndim != 2:
            continue
        if table not in tables:
            stored, scales = quantized_weights(weights, axis=1)
            tables[table] = _dequantized(model.graph, stored, scales.ravel(), 0, str(table.name))
            model.graph.insert_before(lookup, tables[table])
        lookup.replace_input_with(0, tables[table].outputs[0])
