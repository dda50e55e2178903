"""What an exported graph does before its layers, less what no token can change: every operator costs its call.

torch.export leaves in what transformers computes by index: token types that are all the same one, positions that count
up, a padding mask picked number by number; in all 33 of the 258 operators of all-MiniLM-L6-v2 in int8.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

SAME = ("Expand", "GatherElements", "Reshape", "Slice", "Squeeze", "Unsqueeze")  # of equal numbers they make equal ones


def prologue_reduced(model: ir.Model) -> ir.Model:
    """The same model, its vectors equal up to the order of three additions; what is built otherwise stays as it is.

    Changed in place.
    """
    for lookup in [node for node in model.graph if node.op_type == "Gather"]:
        _look_up_once(model.graph, lookup)
    for total in [node for node in model.graph if node.op_type == "Add"]:
        _add_rows_beforehand(model.graph, total)
    for picked in [node for node in model.graph if node.op_type == "GatherND"]:
        _take_whole_mask(model.graph, picked)
    for both in [node for node in model.graph if node.op_type == "And"]:
        _leave_out_what_always_holds(both)
    RemoveUnusedNodesPass()(model)
    return model


def _look_up_once(graph: ir.Graph, lookup: ir.Node) -> None:
    """Turn rows of a table by equal indices into one row, by 0, 1, 2, .. into its beginning."""
    table, indices, rows = _array(lookup.inputs[0]), lookup.inputs[1], lookup.outputs[0]
    if table is None or table.ndim != 2 or indices is None or lookup.attributes.get_int("axis", 0) != 0:
        return
    if (index := _equal_number(indices)) is not None and _only_added_to_their_like(rows):
        _replace(graph, lookup, constant(graph, table[int(index)], f"{rows.name}_row"))
        return
    part = indices.producer()
    if part is None or part.op_type != "Slice" or len(part.inputs) != 5:
        return
    counted, start, _, axis, step = (_array(value) for value in part.inputs)
    if counted is None or counted.ndim != 2 or not np.array_equal(counted, [np.arange(counted.shape[1])]):
        return
    if not all(_is(value, number) for value, number in ((start, 0), (axis, 1), (step, 1))):
        return
    begin = constant(graph, table[None, : counted.shape[1]], f"{rows.name}_rows")
    beginning = ir.node("Slice", [begin, *part.inputs[1:]])
    graph.insert_before(lookup, beginning)
    _replace(graph, lookup, beginning.outputs[0])


def _add_rows_beforehand(graph: ir.Graph, total: ir.Node) -> None:
    """Turn (x + row) + rows of a table into x + rows of their sum."""
    for first, second in (total.inputs, total.inputs[::-1]):
        inner, part = (value.producer() if value is not None else None for value in (first, second))
        if inner is None or part is None or inner.op_type != "Add" or not _takes_rows(part):
            continue
        table, (x, added) = _array(part.inputs[0]), inner.inputs
        row = _array(added)
        if table is None or row is None or row.shape != table.shape[-1:] or len(inner.outputs[0].uses()) != 1:
            continue
        whole = constant(graph, table + row, f"{total.outputs[0].name}_rows")
        rows = ir.node(part.op_type, [whole, *part.inputs[1:]], part.attributes)
        rows.outputs[0].shape, rows.outputs[0].type = part.outputs[0].shape, part.outputs[0].type
        graph.insert_before(total, rows)
        for place, operand in enumerate((x, rows.outputs[0])):
            total.replace_input_with(place, operand)
        return


def _takes_rows(node: ir.Node) -> bool:
    """Whether it takes whole rows of a table: by indices, or from a place on."""
    if node.op_type == "Slice":
        axes = _array(node.inputs[3]) if len(node.inputs) > 3 else None
        return axes is not None and axes.tolist() == [1]
    return node.op_type == "Gather" and node.attributes.get_int("axis", 0) == 0


def _take_whole_mask(graph: ir.Graph, picked: ir.Node) -> None:
    """Turn mask[i, j] of every i and every j, (batch, 1, 1, tokens), into the mask with two axes more."""
    mask, indices = picked.inputs
    pair = indices.producer() if indices is not None else None
    if mask is None or mask.shape is None or not _known(mask.shape, 2) or pair is None or pair.op_type != "Concat":
        return
    batch, tokens = mask.shape
    counts = [_counts(value) for value in pair.inputs]
    if counts != [ir.Shape([batch, 1, 1, 1]), ir.Shape([1, 1, 1, tokens])]:
        return
    if picked.outputs[0].shape != ir.Shape([batch, 1, 1, tokens]) or picked.attributes.get_int("batch_dims", 0) != 0:
        return
    wider = ir.node("Unsqueeze", [mask, constant(graph, np.array([1, 2]), f"{picked.outputs[0].name}_axes")])
    graph.insert_before(picked, wider)
    _replace(graph, picked, wider.outputs[0])


def _leave_out_what_always_holds(both: ir.Node) -> None:
    """Of two conditions, leave out the one that is always true, where their common shape is added to its like."""
    for first, second in (both.inputs, both.inputs[::-1]):
        if first is None or second is None or not _always(first):
            continue
        users = both.outputs[0].consumers()
        if all(map(_chooses_between_numbers, users)) and all(
            _only_added_to_their_like(user.outputs[0]) for user in users
        ):
            both.outputs[0].replace_all_uses_with(second)
            for user in users:
                user.outputs[0].shape = None if second.shape is None else ir.Shape(second.shape)
        return


def _chooses_between_numbers(node: ir.Node) -> bool:
    """Whether its output has the shape of its condition."""
    return node.op_type == "Where" and all(
        value is not None and value.shape == ir.Shape([]) for value in node.inputs[1:]
    )


def _always(value: ir.Value) -> bool:
    """Whether a condition is seen to hold everywhere: a constant, or a count that is at least 0, or both of them."""
    known, node = _array(value), value.producer()
    if known is not None or node is None:
        return known is not None and known.dtype == bool and bool(known.all())
    if node.op_type == "And":
        return all(operand is not None and _always(operand) for operand in node.inputs)
    least = _array(node.inputs[1]) if node.op_type == "GreaterOrEqual" else None
    return least is not None and least.size == 1 and least.item() <= 0 and _counts(node.inputs[0]) is not None


def _counts(value: ir.Value | None) -> ir.Shape | None:
    """The shape of 0, 1, 2, .. along its only long axis, before it is expanded; None of anything else."""
    shape = None
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "Range":
            start, _, step = map(_array, node.inputs)
            return shape or value.shape if _is(start, 0) and _is(step, 1) else None
        if node.op_type not in ("Expand", "Unsqueeze"):
            return None
        value = node.inputs[0]
        if node.op_type == "Expand":
            shape = value.shape if value is not None else None
    return None


def _equal_number(value: ir.Value) -> float | None:
    """The number that every element of ``value`` is, whatever its shape turns out to be."""
    known, node = _array(value), value.producer()
    if known is not None:
        return float(known.flat[0]) if known.size and (known == known.flat[0]).all() else None
    if node is None or node.op_type not in SAME or node.inputs[0] is None:
        return None
    return _equal_number(node.inputs[0])


def _only_added_to_their_like(value: ir.Value) -> bool:
    """Whether it is only ever added to something that has the shape of the sum already."""
    for user, place in value.uses():
        other = user.inputs[1 - place] if user.op_type == "Add" else None
        total = user.outputs[0].shape
        if other is None or total is None or not _known(other.shape, len(total)) or other.shape != total:
            return False
    return True


def _known(shape: ir.Shape | None, rank: int) -> bool:
    """Whether it has ``rank`` axes, each with a size or a name: two without one look alike, and may differ."""
    return shape is not None and len(shape) == rank and all(isinstance(axis, int) or axis.value for axis in shape)


def _array(value: ir.Value | None) -> "np.ndarray[Any, Any] | None":
    return value.const_value.numpy() if value is not None and value.const_value is not None else None


def _is(array: "np.ndarray[Any, Any] | None", number: int) -> bool:
    return array is not None and array.size == 1 and array.item() == number


def constant(graph: ir.Graph, array: "np.ndarray[Any, Any]", name: str) -> ir.Value:
    """A new initializer of ``graph``, with its type and shape, which onnx-ir does not take from its tensor."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _replace(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Give ``value`` to all who took the output of ``node``, with what is known of it."""
    output = node.outputs[0]
    if value.producer() is not None:
        value.shape, value.type = output.shape, output.type
    output.replace_all_uses_with(value)
    graph.remove(node, safe=True)
