"""Transpose a joined query, key and value before it is split, and not after.

A split along the last axis copies all numbers, and each part must still be transposed. If the whole value is transposed
first, the parts lie one after the other in memory. OpenVINO is then faster for long texts.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from m2d_export.graphs.passes.common import HEADS_FIRST, KEYS_TRANSPOSED, axis_order, constant, constant_array

PARTS_FIRST = [2, 0, 3, 1, 4]  # from (batch, tokens, parts, heads, numbers) to (parts, batch, heads, tokens, numbers)


def split_heads_last(model: ir.Model) -> bool:
    """Turn Split, Reshape, Transpose into Reshape, Transpose, Split if all parts of the Split have equal width."""
    changed = False
    for split in [node for node in model.graph if node.op_type == "Split" and _has_equal_widths(node)]:
        views = [users[0] for value in split.outputs if len(users := value.consumers()) == 1]
        transposes = [users[0] for view in views if len(users := view.outputs[0].consumers()) == 1]
        if len(transposes) < len(split.outputs) or {node.op_type for node in views} != {"Reshape"}:
            continue
        if {node.op_type for node in transposes} != {"Transpose"}:
            continue
        orders = [axis_order(node) for node in transposes]
        shapes = {tuple(view.outputs[0].shape or ())[2:] for view in views}
        if not set(orders) <= {HEADS_FIRST, KEYS_TRANSPOSED} or len(shapes) > 1:
            continue
        (sizes,) = shapes
        if len(sizes) != 2 or not all(isinstance(size, int) for size in sizes):
            continue
        results = _transpose_before_split(model.graph, split, sizes, orders)
        ir.convenience.replace_all_uses_with([node.outputs[0] for node in transposes], results)
        model.graph.remove([*transposes, *views, split], safe=True)
        changed = True
    if changed:
        RemoveUnusedNodesPass()(model)  # removes the shape inputs of the replaced Reshapes
    return changed


def _has_equal_widths(split: ir.Node) -> bool:
    widths = constant_array(split.inputs[1]) if len(split.inputs) > 1 else None
    return split.attributes.get_int("axis", 0) == -1 and widths is not None and len(set(widths.tolist())) == 1


def _transpose_before_split(
    graph: ir.Graph, split: ir.Node, sizes: tuple[object, ...], orders: list[tuple[int, ...]]
) -> list[ir.Value]:
    """Insert the new nodes after ``split``, and return one value per part. ``orders`` has the order of their axes."""
    name, count = split.outputs[0].name, len(orders)
    shape = constant(graph, np.array([0, 0, count, *sizes]), f"{name}_parts")  # 0 means: keep the size of this axis
    ones = constant(graph, np.ones(count, np.int64), f"{name}_ones")
    first = constant(graph, np.array([0]), f"{name}_first")
    view = ir.node("Reshape", [split.inputs[0], shape])
    transpose = ir.node("Transpose", [view.outputs[0]], {"perm": PARTS_FIRST})
    parts = ir.node("Split", [transpose.outputs[0], ones], {"axis": 0}, num_outputs=count)
    nodes, results = [view, transpose, parts], []
    for part, order in zip(parts.outputs, orders, strict=True):
        nodes.append(ir.node("Squeeze", [part, first]))
        if order == KEYS_TRANSPOSED:
            nodes.append(ir.node("Transpose", [nodes[-1].outputs[0]], {"perm": [0, 1, 3, 2]}))
        results.append(nodes[-1].outputs[0])
    graph.insert_after(split, nodes)
    return results
