"""Fold nodes before the first layer, if their results are the same for all texts: token types, positions, masks.

transformers computes these values by lookups, and torch.export keeps every operator. Each operator costs time.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from m2d_export.graphs.passes.common import constant, constant_array, is_number

# These operators only move or repeat numbers. If all numbers of the input are equal, all numbers of the output are too.
KEEP_EQUAL = ("Expand", "GatherElements", "Reshape", "Slice", "Squeeze", "Unsqueeze")


def fold_prologue(model: ir.Model) -> bool:
    """Fold lookups, sums and masks that are the same for all texts.

    Numbers differ only by rounding, because some numbers are added in another order.
    """
    graph, changed = model.graph, False
    for fold, kind in (
        (_fold_lookup, "Gather"),
        (_fold_sum, "Add"),
        (_fold_mask_lookup, "GatherND"),
        (_fold_condition, "And"),
    ):
        for node in [node for node in graph if node.op_type == kind]:
            changed |= fold(graph, node)
    if changed:
        RemoveUnusedNodesPass()(model)
    return changed


def _fold_lookup(graph: ir.Graph, lookup: ir.Node) -> bool:
    """Turn a lookup at equal indices into one row, and a lookup at 0, 1, 2, ... into the first rows of the table."""
    table, indices, rows = constant_array(lookup.inputs[0]), lookup.inputs[1], lookup.outputs[0]
    if table is None or table.ndim != 2 or indices is None or lookup.attributes.get_int("axis", 0) != 0:
        return False
    if (index := _common_number(indices)) is not None and _is_broadcast_in_sums(rows):
        _replace(graph, lookup, constant(graph, table[int(index)], f"{rows.name}_row"))
        return True
    part = indices.producer()
    if part is None or part.op_type != "Slice" or len(part.inputs) != 5:
        return False
    counted, (start, _, axis, step) = constant_array(part.inputs[0]), part.inputs[1:]
    if counted is None or counted.ndim != 2 or not np.array_equal(counted, [np.arange(counted.shape[1])]):
        return False
    if not all(is_number(value, number) for value, number in ((start, 0), (axis, 1), (step, 1))):
        return False
    whole = constant(graph, table[None, : counted.shape[1]], f"{rows.name}_rows")
    first_rows = ir.node("Slice", [whole, *part.inputs[1:]])
    graph.insert_before(lookup, first_rows)
    _replace(graph, lookup, first_rows.outputs[0])
    return True


def _fold_sum(graph: ir.Graph, total: ir.Node) -> bool:
    """Turn (x + row) + (rows of a table) into x + (rows of the table with that row added)."""
    for first, second in (total.inputs, total.inputs[::-1]):
        inner, part = (value.producer() if value is not None else None for value in (first, second))
        if inner is None or part is None or inner.op_type != "Add" or not _takes_rows(part):
            continue
        x, added = inner.inputs
        table, row = constant_array(part.inputs[0]), constant_array(added)
        if table is None or row is None or row.shape != table.shape[-1:] or len(inner.outputs[0].uses()) != 1:
            continue
        folded = constant(graph, table + row, f"{total.outputs[0].name}_rows")
        rows = ir.node(part.op_type, [folded, *part.inputs[1:]], part.attributes)
        rows.outputs[0].shape, rows.outputs[0].type = part.outputs[0].shape, part.outputs[0].type
        graph.insert_before(total, rows)
        for index, operand in enumerate((x, rows.outputs[0])):
            total.replace_input_with(index, operand)
        return True
    return False


def _takes_rows(node: ir.Node) -> bool:
    """Whether ``node`` takes whole rows of a table, by indices or by a slice."""
    if node.op_type == "Slice":
        axes = constant_array(node.inputs[3]) if len(node.inputs) > 3 else None
        return axes is not None and axes.tolist() == [1]
    return node.op_type == "Gather" and node.attributes.get_int("axis", 0) == 0


def _fold_mask_lookup(graph: ir.Graph, lookup: ir.Node) -> bool:
    """Turn a lookup of mask[i, j] for every i and j into the mask itself with two more axes: (batch, 1, 1, tokens)."""
    mask, indices = lookup.inputs
    pair = indices.producer() if indices is not None else None
    if mask is None or mask.shape is None or not _has_named_axes(mask.shape, 2):
        return False
    if pair is None or pair.op_type != "Concat":
        return False
    batch, tokens = mask.shape
    if [_counting_shape(value) for value in pair.inputs] != [ir.Shape([batch, 1, 1, 1]), ir.Shape([1, 1, 1, tokens])]:
        return False
    if lookup.outputs[0].shape != ir.Shape([batch, 1, 1, tokens]) or lookup.attributes.get_int("batch_dims", 0) != 0:
        return False
    unsqueeze = ir.node("Unsqueeze", [mask, constant(graph, np.array([1, 2]), f"{lookup.outputs[0].name}_axes")])
    graph.insert_before(lookup, unsqueeze)
    _replace(graph, lookup, unsqueeze.outputs[0])
    return True


def _fold_condition(graph: ir.Graph, both: ir.Node) -> bool:
    """Turn (always true) And x into x.

    x may have a smaller shape than the result. So this is done only if all uses end in sums that broadcast x.
    """
    for first, second in (both.inputs, both.inputs[::-1]):
        if first is None or second is None or not _is_always_true(first):
            continue
        users = both.outputs[0].consumers()
        if not all(_is_choice_of_scalars(user) and _is_broadcast_in_sums(user.outputs[0]) for user in users):
            return False
        both.outputs[0].replace_all_uses_with(second)
        for user in users:
            user.outputs[0].shape = None if second.shape is None else ir.Shape(second.shape)
        return True
    return False


def _is_choice_of_scalars(node: ir.Node) -> bool:
    """Whether ``node`` is a Where between two scalars; then its output has the shape of its condition."""
    return node.op_type == "Where" and all(
        value is not None and value.shape == ir.Shape([]) for value in node.inputs[1:]
    )


def _is_always_true(value: ir.Value) -> bool:
    """Whether a condition is true everywhere.

    Such a condition is a true constant, the comparison (0, 1, 2, ...) >= n for an n of at most 0, or an And of such
    conditions.
    """
    known, node = constant_array(value), value.producer()
    if known is not None or node is None:
        return known is not None and known.dtype == bool and bool(known.all())
    if node.op_type == "And":
        return all(operand is not None and _is_always_true(operand) for operand in node.inputs)
    least = constant_array(node.inputs[1]) if node.op_type == "GreaterOrEqual" else None
    return least is not None and least.size == 1 and least.item() <= 0 and _counting_shape(node.inputs[0]) is not None


def _counting_shape(value: ir.Value | None) -> ir.Shape | None:
    """For a value that counts 0, 1, 2, ... along one axis, its shape before any Expand; None for other values."""
    shape = None
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "Range":
            start, _, step = node.inputs
            return shape or value.shape if is_number(start, 0) and is_number(step, 1) else None
        if node.op_type not in ("Expand", "Unsqueeze"):
            return None
        value = node.inputs[0]
        if node.op_type == "Expand":
            shape = value.shape if value is not None else None
    return None


def _common_number(value: ir.Value) -> float | None:
    """The number that all elements of ``value`` are equal to, whatever its shape is; None if they may differ."""
    known, node = constant_array(value), value.producer()
    if known is not None:
        return float(known.flat[0]) if known.size and (known == known.flat[0]).all() else None
    if node is None or node.op_type not in KEEP_EQUAL or node.inputs[0] is None:
        return None
    return _common_number(node.inputs[0])


def _is_broadcast_in_sums(value: ir.Value) -> bool:
    """Whether ``value`` is only added to values that already have the shape of the sum."""
    for user, index in value.uses():
        other = user.inputs[1 - index] if user.op_type == "Add" else None
        total = user.outputs[0].shape
        if other is None or total is None or not _has_named_axes(other.shape, len(total)) or other.shape != total:
            return False
    return True


def _has_named_axes(shape: ir.Shape | None, rank: int) -> bool:
    """Whether ``shape`` has ``rank`` axes, each with a size or a name; two axes without a name would compare equal."""
    return shape is not None and len(shape) == rank and all(isinstance(axis, int) or axis.value for axis in shape)


def _replace(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Use ``value`` in place of the output of ``node``, and remove ``node``."""
    output = node.outputs[0]
    if value.producer() is not None:
        value.shape, value.type = output.shape, output.type
    output.replace_all_uses_with(value)
    graph.remove(node, safe=True)
