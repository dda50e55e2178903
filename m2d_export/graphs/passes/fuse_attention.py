"""Replace every attention by ONNX's Attention operator (opset 23). ONNX Runtime runs this operator faster.

Without it, one attention is a dozen operators, and most of them only move numbers. If a text is short, the calls of
operators take most of the time.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from m2d_export.graphs.passes.common import HEADS_FIRST, KEYS_TRANSPOSED, axis_order, constant

OPSET = 23
# The operators of an attention, from the last node to the first.
WRITTEN_OUT = ("Reshape", "Transpose", "MatMul", "Softmax", "Add", "Mul", "MatMul")


@dataclass(frozen=True, eq=False)
class _Attention:
    """An attention in a graph. ``inputs`` are query, key and value; each is (batch, tokens, numbers)."""

    last: ir.Node
    inputs: tuple[ir.Value, ...]
    mask: ir.Value
    heads: int
    scale: float


def fuse_attention(model: ir.Model) -> bool:
    """Fuse all attentions and raise the opset to 23. If a Softmax is part of something else, fuse nothing."""
    found = [_find(model.graph, node) for node in model.graph if node.op_type == "Reshape"]
    attentions = [attention for attention in found if attention is not None]
    if not 0 < len(attentions) == sum(node.op_type == "Softmax" for node in model.graph):
        return False
    masks: dict[ir.Value, ir.Value] = {}
    for attention in attentions:
        _fuse(model.graph, attention, masks)
    RemoveUnusedNodesPass()(model)
    model.opset_imports[""] = OPSET
    return True


def _find(graph: ir.Graph, last: ir.Node) -> _Attention | None:
    """Find the attention that ends in the Reshape ``last``. Returns None if there is none."""
    chain = _chain(last.outputs[0], WRITTEN_OUT)
    if chain is None:
        return None
    _, transpose, weighted, softmax, masked, scaled, scores = chain
    sides = ((scores.inputs[0], HEADS_FIRST), (scores.inputs[1], KEYS_TRANSPOSED), (weighted.inputs[1], HEADS_FIRST))
    split = [_before_heads(graph, side, order) for side, order in sides]
    inputs = tuple(value for value, _ in split if value is not None)
    heads = {count for _, count in split}
    if len(inputs) < len(sides) or len(heads) > 1 or axis_order(transpose) != HEADS_FIRST:
        return None
    factor, mask = scaled.inputs[1], masked.inputs[1]
    scale = factor.const_value if factor is not None else None
    if softmax.attributes.get_int("axis", -1) != -1 or scale is None or scale.size != 1:
        return None
    if mask is None or mask.producer() is None or mask.shape is None or len(mask.shape) != len(HEADS_FIRST):
        return None
    if _shape_by_tokens(graph, last.outputs[0], 3) is None:
        return None
    return _Attention(last, inputs, mask, heads.pop(), float(scale.numpy().item()))


def _before_heads(graph: ir.Graph, side: ir.Value | None, order: tuple[int, ...]) -> tuple[ir.Value | None, int]:
    """Find the value (batch, tokens, numbers) that is split into the heads of ``side``, and the number of heads.

    Returns None and 0 if there is no such value.
    """
    nodes = _chain(side, ("Transpose", "Reshape"))
    if nodes is None or axis_order(nodes[0]) != order:
        return None, 0
    shape = _shape_by_tokens(graph, nodes[1].outputs[0], 4)
    if shape is None or not isinstance(shape[2], int):
        return None, 0
    return nodes[1].inputs[0], shape[2]


def _shape_by_tokens(graph: ir.Graph, value: ir.Value, rank: int) -> ir.Shape | None:
    """The shape of ``value`` if it has ``rank`` axes that begin with (batch, tokens).

    None for any other shape, for example if attention works on windows of tokens.
    """
    tokens, shape = graph.inputs[0].shape, value.shape
    if tokens is None or shape is None or len(shape) != rank or shape[:2] != tokens[:2]:
        return None
    return shape


def _chain(value: ir.Value | None, kinds: tuple[str, ...]) -> list[ir.Node] | None:
    """Find the chain of nodes that computes ``value``. ``kinds`` are their operators, from the last to the first.

    Except for the last node, the result of each node is the first input of the node after it in the graph, and no other
    node uses it. Returns None if there is no chain.
    """
    nodes: list[ir.Node] = []
    for kind in kinds:
        node = value.producer() if value is not None else None
        if node is None or node.op_type != kind or (nodes and len(node.outputs[0].uses()) != 1):
            return None
        nodes.append(node)
        value = node.inputs[0]
    return nodes


def _fuse(graph: ir.Graph, found: _Attention, masks: dict[ir.Value, ir.Value]) -> None:
    settings = {"q_num_heads": found.heads, "kv_num_heads": found.heads, "scale": found.scale}
    attention = ir.node("Attention", [*found.inputs, _with_rows(graph, found.mask, masks)], settings)
    result, old = attention.outputs[0], found.last.outputs[0]
    result.shape, result.type = old.shape, old.type
    graph.insert_before(found.last, attention)
    old.replace_all_uses_with(result)


def _with_rows(graph: ir.Graph, mask: ir.Value, known: dict[ir.Value, ir.Value]) -> ir.Value:
    """Return ``mask`` with one row for each token.

    The standard allows (batch, 1, 1, tokens), but ONNX Runtime refuses it. ``known`` has the masks of earlier calls.
    """
    if mask.shape is None or mask.shape[2] != 1:
        return mask
    if mask not in known:
        one = constant(graph, np.array([1]), f"{mask.name}_one")
        tokens = ir.node("Shape", [graph.inputs[0]], {"start": 1, "end": 2})
        sizes = ir.node("Concat", [one, one, tokens.outputs[0], one], {"axis": 0})
        rows = ir.node("Expand", [mask, sizes.outputs[0]])
        producer = mask.producer()
        assert producer is not None  # noqa: S101 - _find refuses a mask that no node computes
        graph.insert_after(producer, [tokens, sizes, rows])
        known[mask] = rows.outputs[0]
    return known[mask]
