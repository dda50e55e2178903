"""Join the query, key and value layers into one MatMul.

If several MatMuls share one quantized input, ONNX Runtime does not run them in int8. It runs all of them in float and
dequantizes their weights in every call.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from m2d_export.graphs.passes.common import constant


def fuse_qkv(model: ir.Model) -> bool:
    """Replace all linear layers that read the same value by one linear layer, and split its result."""
    changed = False
    for source in list(model.graph):
        for value in source.outputs:
            layers = [layer for user in value.consumers() if (layer := _linear(user, value)) is not None]
            if len(layers) > 1:
                _join(model.graph, source, value, layers)
                changed = True
    if changed:
        RemoveUnusedNodesPass()(model)  # removes the weights of the replaced layers
    return changed


@dataclass(frozen=True, eq=False)
class _Linear:
    """A linear layer: its two nodes, its weights (in, out) and its biases (out)."""

    matmul: ir.Node
    add: ir.Node
    weights: NDArray[Any]
    biases: NDArray[Any]


def _linear(matmul: ir.Node, value: ir.Value) -> _Linear | None:
    """Find the linear layer that starts with the node ``matmul`` and reads ``value``. None if there is none."""
    if matmul.op_type != "MatMul" or matmul.inputs[0] is not value or len(matmul.outputs[0].consumers()) != 1:
        return None
    (add,) = matmul.outputs[0].consumers()
    others = [term for term in add.inputs if term is not matmul.outputs[0]]  # the bias can be either input of the Add
    if add.op_type != "Add" or not others:
        return None
    weights, biases = (value.const_value if value is not None else None for value in (matmul.inputs[1], others[0]))
    if weights is None or len(weights.shape) != 2 or biases is None or len(biases.shape) != 1:
        return None
    return _Linear(matmul, add, weights.numpy(), biases.numpy())


def _join(graph: ir.Graph, source: ir.Node, value: ir.Value, layers: list[_Linear]) -> None:
    """Replace ``layers`` by one layer. All of them read ``value``, an output of the node ``source``."""
    arrays = {
        "weights": np.concatenate([layer.weights for layer in layers], axis=1),
        "biases": np.concatenate([layer.biases for layer in layers]),
        "widths": np.array([len(layer.biases) for layer in layers]),
    }
    weights, biases, widths = (constant(graph, array, f"{value.name}_{name}") for name, array in arrays.items())
    matmul = ir.node("MatMul", [value, weights])
    add = ir.node("Add", [matmul.outputs[0], biases])
    split = ir.node("Split", [add.outputs[0], widths], {"axis": -1}, num_outputs=len(layers))
    graph.insert_after(source, [matmul, add, split])
    ir.convenience.replace_all_uses_with([layer.add.outputs[0] for layer in layers], split.outputs)
    graph.remove([node for layer in layers for node in (layer.add, layer.matmul)], safe=True)
