"""Make fp16 and bf16 graphs. These graphs state the type of every value, so a runtime cannot choose another type.

These are in half: the matmuls over tokens and their weights, the embedding tables, and plain arithmetic between half
values. These are in float32: the sum of embeddings, layer norms, attention scores with mask and softmax, activations,
the residual stream, the pooling and everything after it. ``torch.autocast`` chooses nearly the same types, but leaves
activations in half.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from m2d_export.graphs.passes.common import constant, constant_array
from m2d_export.precisions import PRECISIONS
from m2d_export.spec import DEFAULT, Precision

MATMULS = {"MatMul", "Gemm"}
ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Neg"}
MOVEMENT = {"Reshape", "Transpose", "Slice", "Split", "Concat", "Squeeze", "Unsqueeze", "Expand", "Identity", "Tile"}
LOOKUPS = {"Gather"}


def half_graphs(
    model: ir.Model, precision: Precision, samples: Sequence[Any] | None = None, progress: Any = None
) -> dict[str, ir.Model]:
    """Make the graph of all exits in ``precision``. All runtimes use the same graph.

    ``model`` is not changed. ``samples`` and ``progress`` are not used. Inputs and outputs keep their types. A weight
    that is too large for fp16 becomes infinity. Then the gate refuses the graph.
    """
    typed, dtype = model.clone(), half_type(precision)
    copies: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for node in list(typed.graph):
        if not any(value.dtype == ir.DataType.FLOAT for value in node.outputs):
            for index, value in enumerate(node.inputs):  # both inputs of a comparison need the same float type
                if value is not None and value.dtype == dtype and node.op_type != "Shape":
                    node.replace_input_with(index, _in_type(typed, value, ir.DataType.FLOAT, copies))
            continue
        target = dtype if _runs_in_half(node, dtype) else ir.DataType.FLOAT
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in (dtype, ir.DataType.FLOAT) and node.op_type != "Cast":
                node.replace_input_with(index, _in_type(typed, value, target, copies))
        for value in node.outputs:
            value.type = ir.TensorType(target)  # a new object, because ``model`` shares the old one
    for index, value in enumerate(typed.graph.outputs):
        typed.graph.outputs[index] = _in_type(typed, value, ir.DataType.FLOAT, copies)
    unused = [name for name, value in typed.graph.initializers.items() if not value.uses()]
    for name in unused:
        del typed.graph.initializers[name]
    return {DEFAULT: typed}


def half_type(precision: Precision) -> ir.DataType:
    """The type of the half values of a graph in ``precision``."""
    return ir.DataType[PRECISIONS[precision].onnx]


def matmuls(model: ir.Model) -> dict[str, int]:
    """Count the matmuls of a graph by the type of their result: FLOAT, FLOAT16 or BFLOAT16."""
    kinds = [node.outputs[0].dtype for node in model.graph.all_nodes() if node.op_type in MATMULS]
    return {kind.name: kinds.count(kind) for kind in dict.fromkeys(kinds) if kind is not None}


def _runs_in_half(node: ir.Node, dtype: ir.DataType) -> bool:
    """Whether ``node`` of a float32 graph becomes a node in ``dtype``. Nodes before it must be converted already."""
    kind, values = node.op_type, [value for value in node.inputs if value is not None]
    if kind in MATMULS:
        return len(node.outputs[0].shape or ()) > 2  # after the pooling, a result has two axes: (batch, numbers)
    if kind in LOOKUPS:
        return values[0].is_initializer() or values[0].dtype == dtype
    if kind not in ARITHMETIC | MOVEMENT:
        return False
    computed = [v for v in values if not v.is_initializer() and v.dtype in (dtype, ir.DataType.FLOAT)]
    producers = {producer.op_type for value in computed if (producer := value.producer())}
    if kind in ARITHMETIC and producers & LOOKUPS:
        return False  # every layer depends on the sum of embeddings, so this sum is in float32
    return bool(computed) and all(value.dtype == dtype for value in computed)


def _in_type(
    model: ir.Model, value: ir.Value, dtype: ir.DataType, copies: dict[tuple[ir.Value, ir.DataType], ir.Value]
) -> ir.Value:
    """Return ``value`` in ``dtype``: ``value`` itself, a converted initializer, or the output of a Cast.

    ``copies`` has the values that earlier calls made, so that none is made twice.
    """
    if value.dtype == dtype:
        return value
    if (value, dtype) not in copies:
        name = f"{value.name}_{dtype.name.lower()}"
        if (array := constant_array(value)) is not None:
            with np.errstate(over="ignore"):
                copy = constant(model.graph, array.astype(dtype.numpy()), name)
        else:
            cast = ir.node("Cast", [value], {"to": int(dtype)}, name=f"cast_{name}")
            copy = cast.outputs[0]
            copy.name, copy.dtype, copy.shape = name, dtype, value.shape
            producer = value.producer()
            assert producer is not None  # noqa: S101 - graph inputs are integers
            model.graph.insert_after(producer, cast)
        copies[value, dtype] = copy
    return copies[value, dtype]
