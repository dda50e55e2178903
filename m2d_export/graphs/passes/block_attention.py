"""Compute every attention in blocks of queries, so that long texts need no whole matrix (tokens, tokens) of scores.

A row of scores belongs to one query. No step before the product with the values uses several rows together. So the rows
of one block are computed, used and freed before the next block begins. ONNX Runtime runs the nodes in this order.
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from m2d_export.graphs.passes.common import constant

BLOCKS = 16  # in a text of 8,192 tokens, each block has 512 queries
ROW_WISE = frozenset(
    "Abs Add And Cast Div Equal Greater GreaterOrEqual IsNaN Less LessOrEqual Max Min Mul Neg Not Or Sub Where".split()
)


def block_attention(model: ir.Model) -> bool:
    """Split the queries of every attention into 16 blocks; returns False if no attention has a known form.

    The attention of DeBERTa has another form: it computes a position for every pair of tokens.
    """
    graph = model.graph
    found = [(node, use) for node in graph if (use := _product_with_values(graph, node)) is not None]
    if not found:
        return False
    bounds = _bounds(graph)
    for number, (softmax, weighted) in enumerate(found):
        parts = []
        for place, block in enumerate(pairwise(bounds)):
            rows = _Rows(graph, weighted, block, f"block_{number}_{place}")
            part = rows.node("MatMul", [rows.of(softmax.outputs[0]), weighted.inputs[1]], {}, weighted.outputs[0])
            parts.append(part)
        joined = ir.node("Concat", parts, {"axis": 2}, name=f"block_{number}_joined")
        old, new = weighted.outputs[0], joined.outputs[0]
        new.name, new.shape, new.type = f"block_{number}_joined", old.shape, old.type
        graph.insert_before(weighted, joined)
        ir.convenience.replace_all_uses_with(old, new)
    RemoveUnusedNodesPass()(model)
    return True


def _product_with_values(graph: ir.Graph, node: ir.Node) -> ir.Node | None:
    """The one MatMul that reads the result of ``node``, if this is the Softmax of an attention; otherwise None."""
    if node.op_type != "Softmax" or node.attributes.get_int("axis", -1) not in (-1, 3):
        return None
    uses = [use.node for use in node.outputs[0].uses()]
    if len(uses) != 1 or uses[0].op_type != "MatMul" or uses[0].inputs[0] is not node.outputs[0]:
        return None
    shape = node.outputs[0].shape
    return uses[0] if shape is not None and len(shape) == 4 and _is_matrix(graph, node.outputs[0]) else None


def _bounds(graph: ir.Graph) -> list[ir.Value]:
    """The first query of each block, and the end of the last block: tokens x number / ``BLOCKS``."""
    first = graph[0]
    tokens = ir.node("Shape", [graph.inputs[0]], {"start": 1, "end": 2}, name="block_tokens")
    tokens.outputs[0].name = "block_tokens"
    graph.insert_before(first, tokens)
    count = constant(graph, np.array([BLOCKS]), "block_count")
    bounds = []
    for number in range(BLOCKS + 1):
        times = ir.node("Mul", [tokens.outputs[0], constant(graph, np.array([number]), f"block_number_{number}")])
        bound = ir.node("Div", [times.outputs[0], count])
        times.outputs[0].name, bound.outputs[0].name = f"block_times_{number}", f"block_bound_{number}"
        graph.insert_before(first, [times, bound])
        bounds.append(bound.outputs[0])
    return bounds


class _Rows:
    """Adds nodes that compute only the rows of one block of queries, for each value that an attention needs."""

    def __init__(self, graph: ir.Graph, before: ir.Node, block: tuple[ir.Value, ir.Value], prefix: str) -> None:
        self._graph, self._before, self._block, self._prefix = graph, before, block, prefix
        self._made: dict[ir.Value, ir.Value] = {}
        self._axis = graph.initializers.get("block_axis") or constant(graph, np.array([-2]), "block_axis")

    def of(self, value: ir.Value) -> ir.Value:
        """The block's rows of ``value``: computed if it is a (tokens, tokens) matrix, and otherwise cut from it."""
        if value not in self._made:
            self._made[value] = self._rows(value)
        return self._made[value]

    def _rows(self, value: ir.Value) -> ir.Value:
        producer, shape = value.producer(), value.shape
        if _is_matrix(self._graph, value) and producer is not None:
            if producer.op_type in ("MatMul", "Softmax"):
                inputs = [self._input(producer.inputs[0]), *producer.inputs[1:]]
                return self.node(producer.op_type, inputs, producer.attributes, value)
            if producer.op_type in ROW_WISE:
                return self.node(producer.op_type, map(self._input, producer.inputs), producer.attributes, value)
        if shape is None or len(shape) < 2 or shape[-2] != self._tokens():
            return value
        return self.node("Slice", [value, *self._block, self._axis], {}, value)

    def _input(self, value: ir.Value | None) -> ir.Value | None:
        return None if value is None else self.of(value)

    def _tokens(self) -> object:
        shape = self._graph.inputs[0].shape
        return None if shape is None else shape[1]

    def node(
        self, kind: str, inputs: Iterable[ir.Value | None], attributes: Mapping[str, ir.Attr], like: ir.Value
    ) -> ir.Value:
        """Add a node that computes the rows of ``like``, and return these rows."""
        made = ir.node(kind, list(inputs), attributes, name=f"{self._prefix}_{like.name}")
        result = made.outputs[0]
        result.name, result.type = f"{self._prefix}_{like.name}", like.type
        self._graph.insert_before(self._before, made)
        return result


def _is_matrix(graph: ir.Graph, value: ir.Value) -> bool:
    """Whether the last two axes of ``value`` are (tokens, tokens)."""
    tokens, shape = graph.inputs[0].shape, value.shape
    return tokens is not None and shape is not None and len(shape) > 1 and shape[-2] == shape[-1] == tokens[1]
