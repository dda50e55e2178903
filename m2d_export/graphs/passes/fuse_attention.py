"""Attention as one operator of ONNX, which came with opset 23: ONNX Runtime is quicker with it."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from m2d_export.graphs.passes.fold_prologue import constant

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
    square: dict[ir.Value, ir.Value] = {}
    softmaxes = sum(node.op_type == "Softmax" for node in model.graph)
    replaced = [_replace(model.graph, node, square) for node in list(model.graph) if node.op_type == "Reshape"]
    if not 0 < softmaxes == sum(replaced):
        return None
    RemoveUnusedNodesPass()(model)
    model.opset_imports[""] = OPSET
    return model


def _replace(graph: ir.Graph, last: ir.Node, square: dict[ir.Value, ir.Value]) -> bool:
    """Replace the attention that ends in the Reshape ``last``, if one does."""
    chain = _made_by(last.outputs[0], WRITTEN_OUT)
    if chain is None:
        return False
    _, turned, weighted, softmax, masked, scaled, scores = chain
    sides = ((scores.inputs[0], HEADS_FIRST), (scores.inputs[1], HEADS_FIRST_TURNED), (weighted.inputs[1], HEADS_FIRST))
    taken = [_before_heads(graph, side, order) for side, order in sides]
    heads = {count for _, count in taken}
    if None in heads or len(heads) > 1 or _order(turned) != HEADS_FIRST or _of_texts(graph, last.outputs[0], 3) is None:
        return False
    factor, mask = scaled.inputs[1], masked.inputs[1]
    scale = factor.const_value if factor is not None else None
    if softmax.attributes.get_int("axis", -1) != -1 or scale is None or scale.size != 1:
        return False
    if mask is None or mask.producer() is None or mask.shape is None or len(mask.shape) != len(HEADS_FIRST):
        return False
    (count,) = heads
    settings = {"q_num_heads": count, "kv_num_heads": count, "scale": float(scale.numpy().item())}
    attention = ir.node("Attention", [*(value for value, _ in taken), _squared(graph, mask, square)], settings)
    result, given = attention.outputs[0], last.outputs[0]
    result.shape, result.type = given.shape, given.type
    graph.insert_before(last, attention)
    given.replace_all_uses_with(result)
    return True


def _before_heads(graph: ir.Graph, side: ir.Value | None, order: tuple[int, ...]) -> tuple[ir.Value | None, int | None]:
    """What was split into heads, (batch, tokens, numbers), and into how many; None where it was done otherwise."""
    nodes = _made_by(side, ("Transpose", "Reshape"))
    shape = _of_texts(graph, nodes[1].outputs[0], 4) if nodes is not None and _order(nodes[0]) == order else None
    if nodes is None or shape is None or not isinstance(shape[2], int):
        return None, None
    return nodes[1].inputs[0], shape[2]


def _of_texts(graph: ir.Graph, value: ir.Value, rank: int) -> ir.Shape | None:
    """The shape of ``value`` if it has ``rank`` axes, first those of the inputs: nothing is cut into windows."""
    texts, shape = graph.inputs[0].shape, value.shape
    if texts is None or shape is None or len(shape) != rank or shape[:2] != texts[:2]:
        return None
    return shape


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


def _squared(graph: ir.Graph, mask: ir.Value, known: dict[ir.Value, ir.Value]) -> ir.Value:
    """``mask`` with a row for every token: ONNX Runtime takes no (batch, 1, 1, tokens), though the standard does."""
    if mask.shape is None or mask.shape[2] != 1:
        return mask
    if mask not in known:
        one = constant(graph, np.array([1]), f"{mask.name}_one")
        tokens = ir.node("Shape", [graph.inputs[0]], {"start": 1, "end": 2})
        sizes = ir.node("Concat", [one, one, tokens.outputs[0], one], {"axis": 0})
        rows = ir.node("Expand", [mask, sizes.outputs[0]])
        producer = mask.producer()
        assert producer is not None  # noqa: S101 - or it would not have been taken
        graph.insert_after(producer, [tokens, sizes, rows])
        known[mask] = rows.outputs[0]
    return known[mask]
