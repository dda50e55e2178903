"""Turn a half graph into a float32 graph that rounds as a GPU's matrix units do.

Matrix units compute sums in float32 and round every result to half. ONNX Runtime on a CPU has no bf16. It computes fp16
graphs in float32 without rounding intermediate values, so it hides an overflow.
"""

import onnx_ir as ir

from m2d_export.graphs.half import ARITHMETIC, MATMULS, half_type
from m2d_export.spec import Precision

PEAKS = "peaks"  # the second output of a rounded graph


def rounded_graph(half: ir.Model, precision: Precision) -> ir.Model:
    """A copy of ``half`` in float32, in which every half value is rounded to ``precision``.

    The second output, ``peaks`` (n,), has the largest magnitude of each half value before it is rounded. ``peak_names``
    lists these values in the same order.
    """
    model, dtype = half.clone(), half_type(precision)
    for value in list(model.graph.initializers.values()):
        if value.dtype == dtype:
            assert value.const_value is not None  # noqa: S101 - it is an initializer
            value.const_value = ir.tensor(value.const_value.numpy().astype("float32"), name=value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT)
    peaks = []
    for node in list(model.graph):
        to_half = node.op_type == "Cast" and node.attributes["to"].as_int() == dtype
        for value in node.outputs:
            if value.dtype != dtype:
                continue
            value.type = ir.TensorType(ir.DataType.FLOAT)
            if to_half or node.op_type in MATMULS | ARITHMETIC:
                peaks.append(_round(model, node, value, dtype))
        if to_half:
            node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
    none = {"value": ir.tensor([], dtype=ir.DataType.FLOAT)}  # exit 0 computes nothing in half
    together = ir.node("Concat", peaks, {"axis": 0}, name=PEAKS) if peaks else ir.node("Constant", [], none, name=PEAKS)
    together.outputs[0].name, together.outputs[0].dtype = PEAKS, ir.DataType.FLOAT
    together.outputs[0].shape = ir.Shape([len(peaks)])
    model.graph.append(together)
    model.graph.outputs.append(together.outputs[0])
    return model


def _round(model: ir.Model, node: ir.Node, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """Round ``value`` for all its users; returns the largest magnitude before the rounding, (1,)."""
    users = list(value.uses())
    down = ir.node("Cast", [value], {"to": int(dtype)}, name=f"round_{value.name}")
    back = ir.node("Cast", down.outputs, {"to": int(ir.DataType.FLOAT)}, name=f"rounded_{value.name}")
    size = ir.node("Abs", [value], name=f"abs_{value.name}")
    one = ir.node("Constant", [], {"value": ir.tensor([1], dtype=ir.DataType.INT64)}, name=f"one_{value.name}")
    peak = ir.node("ReduceMax", size.outputs, {"keepdims": 0}, name=f"max_{value.name}")
    flat = ir.node("Reshape", [peak.outputs[0], one.outputs[0]], name=f"peak_{value.name}")
    for use in users:
        use.node.replace_input_with(use.idx, back.outputs[0])
    for index, output in enumerate(model.graph.outputs):
        if output is value:
            model.graph.outputs[index] = back.outputs[0]
    model.graph.insert_after(node, [down, back, size, one, peak, flat])
    return flat.outputs[0]


def peak_names(rounded: ir.Model) -> list[str]:
    """The names of the half values in ``peaks`` of a rounded graph, in its order."""
    (together,) = (node for node in rounded.graph if node.name == PEAKS)
    return [str(value.producer().name).removeprefix("peak_") for value in together.inputs]  # type: ignore[union-attr]
