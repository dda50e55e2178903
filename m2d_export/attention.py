"""Attention as one operator of ONNX, which came with opset 23: ONNX Runtime is quicker with it."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

OPSET = 23
HEADS_FIRST = (0, 2, 1, 3)  # (batch, tokens, heads, numbers) to (batch, heads, tokens, numbers), and back
HEADS_FIRST_TURNED = (0, 2, 3, 1)  # to (batch, heads, numbers, tokens), as keys are multiplied
WRITTEN_OUT = ("Reshape", "Transpose", "MatMul", "Softmax", "Add", "Mul", "MatMul")  # from what it gives, backwards


def attention_as_one(model: ir.Model) -> ir.Model | None:
    """A copy of ``model`` with one operator for every attention; None unless all are written out as BERT's are.

    Written out, one is a dozen operators, most of which move numbers about; for a short text it is their calls that
    take the time.
    """
    model = model.clone()
    whole_masks: dict[ir.Value, ir.Value] = {}
    softmaxes = sum(node.op_type == "Softmax" for node in model.graph)
    joined = [_join(model.graph, node, whole_masks) for node in list(model.graph) if node.op_type == "Reshape"]
    if not 0 < softmaxes == joined.count(True):
        return None
    RemoveUnusedNodesPass()(model)
    model.opset_imports[""] = OPSET
    return model


def _join(graph: ir.Graph, last: ir.Node, whole_masks: dict[ir.Value, ir.Value]) -> bool:
    """Replace the attention that ends in the Reshape ``last``, if one does."""
    chain = _made_by(last.outputs[0], WRITTEN_OUT)
    if chain is None:
        return False
    _, turned, weighted, softmax, masked, scaled, scores = chain
    sides = (scores.inputs[0], scores.inputs[1], weighted.inputs[1])
    orders = (HEADS_FIRST, HEADS_FIRST_TURNED, HEADS_FIRST)
    views = [_made_by(side, ("Transpose", "Reshape")) for side in sides]
    if any(view is None or _order(view[0]) != order for view, order in zip(views, orders, strict=True)):
        return False
    if _order(turned) != HEADS_FIRST or softmax.attributes.get_int("axis", -1) != -1:
        return False
    factor, mask = scaled.inputs[1], masked.inputs[1]
    if factor is None or factor.const_value is None or factor.const_value.size != 1:
        return False
    if mask is None or mask.producer() is None or mask.shape is None or len(mask.shape) != len(HEADS_FIRST):
        return False
    heads = {side.shape[1] if side is not None and side.shape is not None else None for side in sides}
    count = heads.pop()
    if heads or not isinstance(count, int):
        return False
    attention = ir.node(
        "Attention",
        [*(view[1].inputs[0] for view in views if view is not None), _whole(graph, mask, whole_masks)],
        {"q_num_heads": count, "kv_num_heads": count, "scale": float(factor.const_value.numpy().item())},
    )
    result, given = attention.outputs[0], last.outputs[0]
    result.shape, result.type = given.shape, given.type
    graph.insert_before(last, attention)
    given.replace_all_uses_with(result)
    return True


def _made_by(value: ir.Value | None, kinds: tuple[str, ...]) -> list[ir.Node] | None:
    """The nodes of ``kinds`` that ``value`` comes out of, last one first, each by its first input and for no other."""
    nodes: list[ir.Node] = []
    for kind in kinds:
        node = value.producer() if value is not None else None
        if node is None or node.op_type != kind or (nodes and len(node.outputs[0].uses()) != 1):
            return None
        nodes.append(node)
        value = node.inputs[0]
    return nodes


def _order(transpose: ir.Node) -> tuple[int, ...]:
    return tuple(transpose.attributes.get_ints("perm", ()))


def _whole(graph: ir.Graph, mask: ir.Value, known: dict[ir.Value, ir.Value]) -> ir.Value:
    """``mask`` with a row for every token: ONNX Runtime takes no (batch, 1, 1, tokens), though the standard does."""
    if mask.shape is None or mask.shape[2] != 1:
        return mask
    if mask not in known:
        one = ir.Value(name=f"{mask.name}_one", const_value=ir.tensor(np.array([1]), name=f"{mask.name}_one"))
        graph.register_initializer(one)
        tokens = ir.node("Shape", [graph.inputs[0]], {"start": 1, "end": 2})
        sizes = ir.node("Concat", [one, one, tokens.outputs[0], one], {"axis": 0})
        rows = ir.node("Expand", [mask, sizes.outputs[0]])
        producer = mask.producer()
        assert producer is not None  # noqa: S101 - or there would be no mask to take
        graph.insert_after(producer, [tokens, sizes, rows])
        known[mask] = rows.outputs[0]
    return known[mask]
