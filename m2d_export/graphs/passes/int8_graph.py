"""What is done to a graph before and after NNCF quantizes it, so that processors multiply all of it in int8, alike."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from m2d_export.graphs.passes.fold_prologue import constant
from m2d_export.graphs.passes.fuse_attention import HEADS_FIRST, HEADS_FIRST_TURNED

PAIR = 128  # 255 x 128 is the most that a signed 16-bit number holds of an activation times a sum of weights
SCALES = 9  # how many are tried for a column of weights, from its own to the one that needs no cutting


def products_of_one_input_joined(model: ir.Model) -> ir.Model:
    """The same model, where linear layers of one input (query, key, value) are one, whose result is split.

    Of products that share their quantized input, ONNX Runtime does all in float and scales their weights in every
    call: half of an encoder's. Changed in place.
    """
    for source in list(model.graph):
        for value in source.outputs:
            layers = [layer for user in value.consumers() if (layer := _linear(user, value)) is not None]
            if len(layers) < 2:
                continue
            parts = {
                "weights": np.concatenate([layer.weights for layer in layers], axis=1),
                "biases": np.concatenate([layer.biases for layer in layers]),
                "widths": np.array([len(layer.biases) for layer in layers]),
            }
            weights, biases, widths = (
                constant(model.graph, array, f"{value.name}_{name}") for name, array in parts.items()
            )
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
    added = [term for term in total.inputs if term is not product.outputs[0]]  # on either side of the product
    if total.op_type != "Add" or not added:
        return None
    weights, biases = (value.const_value if value is not None else None for value in (product.inputs[1], added[0]))
    if weights is None or len(weights.shape) != 2 or biases is None or len(biases.shape) != 1:
        return None
    return _Linear(product, total, weights.numpy(), biases.numpy())


def heads_split_last(model: ir.Model) -> ir.Model:
    """The same model, where joined query, key and value become heads in one transposition, and are split afterwards.

    Split by the last axis they are copied, and each is then transposed; by the first axis they lie apart already: 5 %
    of OpenVINO's time for long texts. Changed in place.
    """
    for split in [node for node in model.graph if node.op_type == "Split" and _of_equal_widths(node)]:
        views = [users[0] for value in split.outputs if len(users := value.consumers()) == 1]
        turned = [users[0] for view in views if len(users := view.outputs[0].consumers()) == 1]
        if len(turned) < len(split.outputs) or {node.op_type for node in views} != {"Reshape"}:
            continue
        if {node.op_type for node in turned} != {"Transpose"}:
            continue
        orders = [tuple(node.attributes.get_ints("perm", ())) for node in turned]
        shapes = {tuple(view.outputs[0].shape or ())[2:] for view in views}
        if not set(orders) <= {HEADS_FIRST, HEADS_FIRST_TURNED} or len(shapes) > 1:
            continue
        (sizes,) = shapes
        if len(sizes) != 2 or not all(isinstance(size, int) for size in sizes):
            continue
        name, count = split.outputs[0].name, len(views)
        apart = constant(model.graph, np.array([0, 0, count, *sizes]), f"{name}_apart")  # 0: as it was
        ones = constant(model.graph, np.ones(count, np.int64), f"{name}_ones")
        first = constant(model.graph, np.array([0]), f"{name}_first")
        view = ir.node("Reshape", [split.inputs[0], apart])
        together = ir.node("Transpose", [view.outputs[0]], {"perm": [2, 0, 3, 1, 4]})
        parts = ir.node("Split", [together.outputs[0], ones], {"axis": 0}, num_outputs=count)
        added, ends = [view, together, parts], []
        for part, order in zip(parts.outputs, orders, strict=True):
            added.append(ir.node("Squeeze", [part, first]))
            if order == HEADS_FIRST_TURNED:
                added.append(ir.node("Transpose", [added[-1].outputs[0]], {"perm": [0, 1, 3, 2]}))
            ends.append(added[-1].outputs[0])
        model.graph.insert_after(split, added)
        ir.convenience.replace_all_uses_with([node.outputs[0] for node in turned], ends)
        model.graph.remove([*turned, *views, split], safe=True)
    RemoveUnusedNodesPass()(model)  # the shapes that the views had
    return model


def _of_equal_widths(split: ir.Node) -> bool:
    widths = split.inputs[1].const_value if len(split.inputs) > 1 and split.inputs[1] is not None else None
    return split.attributes.get_int("axis", 0) == -1 and widths is not None and len(set(widths.numpy().tolist())) == 1


def looked_up_before_scaled(model: ir.Model) -> ir.Model:
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
        column = constant(model.graph, scales.numpy()[:, None], f"{lookup.name}_scales")
        rows = ir.node("Gather", [scaled.inputs[0], ids], {"axis": 0})
        numbers = ir.node("Cast", [rows.outputs[0]], {"to": ir.DataType.FLOAT})
        theirs = ir.node("Gather", [column, ids], {"axis": 0})
        product = ir.node("Mul", [numbers.outputs[0], theirs.outputs[0]])
        ir.convenience.replace_nodes_and_values(
            model.graph, lookup, [lookup], [rows, numbers, theirs, product], lookup.outputs, product.outputs
        )
        if not table.uses():
            model.graph.remove(scaled, safe=True)
    return model


def without_saturation(model: ir.Model) -> ir.Model:
    """The same model, with int8 weights that give the same products on every processor.

    Without int8 dot products (VNNI), x86 adds two neighbouring products in 16 bits, which saturate: all-MiniLM-L6-v2's
    least cosine to the reference fell from 0.992 to 0.988. Weights of neighbours that could are made a little smaller;
    half the range for all, the usual remedy, costs as much as it saves. Changed in place.
    """
    for scaled in [node for node in model.graph if node.op_type == "DequantizeLinear"]:
        users = scaled.outputs[0].uses()
        stored, scales = scaled.inputs[0], scaled.inputs[1]
        if (
            not all(user.op_type == "MatMul" and place == 1 for user, place in users)
            or stored is None
            or scales is None
        ):
            continue
        if stored.const_value is None or scales.const_value is None or stored.dtype != ir.DataType.INT8:
            continue
        weights, factors = _paired(stored.const_value.numpy())
        name, wider = scaled.outputs[0].name, scales.const_value.numpy() * factors
        scaled.replace_input_with(0, constant(model.graph, weights, f"{name}_held"))
        scaled.replace_input_with(1, constant(model.graph, wider, f"{name}_scales"))
    RemoveUnusedNodesPass()(model)
    return model


def _paired(weights: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """int8 weights (in, out), no two neighbours of a column adding up to more than ``PAIR``, and factors of its scales.

    For each column the factor that changes its weights least, some of them cut, all of them rounded anew.
    """
    inner, outer = weights.shape
    pairs = np.pad(weights, ((0, inner % 2), (0, 0))).reshape(-1, 2, outer).astype(np.float32)
    sums = np.maximum(np.maximum(pairs, 0).sum(1), np.maximum(-pairs, 0).sum(1)).max(0)
    kept, factors, least = pairs, np.ones(outer, np.float32), np.full(outer, np.inf)
    for share in np.linspace(0, 1, SCALES):
        factor = (1 + (np.maximum(1, sums / PAIR) - 1) * share).astype(np.float32)
        cut = _cut(np.round(pairs / factor))
        error = ((pairs - cut * factor) ** 2).sum((0, 1))
        better = error < least
        kept, factors, least = (np.where(better, *both) for both in ((cut, kept), (factor, factors), (error, least)))
    return kept.reshape(-1, outer)[:inner].astype(np.int8), factors


def _cut(pairs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Pairs (pairs, 2, columns); where a sum is over ``PAIR``, in either sign, each gives half of what is over."""
    for sign in (1, -1):
        over = np.maximum(np.maximum(sign * pairs, 0).sum(1, keepdims=True) - PAIR, 0)
        pairs = pairs - sign * np.concatenate([np.ceil(over / 2), np.floor(over / 2)], axis=1)
    return pairs
