"""What several passes need: constants of a graph, and the orders of axes in attention."""

from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

HEADS_FIRST = (0, 2, 1, 3)  # (batch, tokens, heads, numbers) to (batch, heads, tokens, numbers), and back
KEYS_TRANSPOSED = (0, 2, 3, 1)  # (batch, tokens, heads, numbers) to (batch, heads, numbers, tokens)


def constant(graph: ir.Graph, array: NDArray[Any], name: str) -> ir.Value:
    """Add a constant to ``graph``. Its type and shape are set too: onnx-ir does not take them from the tensor."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def constant_array(value: ir.Value | None) -> NDArray[Any] | None:
    """The numbers of a constant; None for any other value."""
    return value.const_value.numpy() if value is not None and value.const_value is not None else None


def is_number(value: ir.Value | None, number: float) -> bool:
    """Whether ``value`` is a constant of one element that equals ``number``."""
    array = constant_array(value)
    return array is not None and array.size == 1 and bool(array.item() == number)


def axis_order(transpose: ir.Node) -> tuple[int, ...]:
    """The ``perm`` of a Transpose."""
    return tuple(transpose.attributes.get_ints("perm", ()))
