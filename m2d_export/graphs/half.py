"""fp16 and bf16 graphs from fp32 ones: typed, so that a runtime has nothing to choose; and how to judge them.

Half: the products over tokens, their weights, the tables that are looked up in, and plain arithmetic among what is half
already. float32: everything else, by casts in the graph: the sum of embeddings, layer norms, the scores with their mask
and softmax, activations, the residual stream, the pooling and all behind it. That is much as ``torch.autocast`` does,
which leaves activations in half.
"""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from m2d_export.spec import Precision

DTYPES = {Precision.FP16: ir.DataType.FLOAT16, Precision.BF16: ir.DataType.BFLOAT16}
PRODUCTS = {"MatMul", "Gemm"}
ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Neg"}
MOVEMENT = {"Reshape", "Transpose", "Slice", "Split", "Concat", "Squeeze", "Unsqueeze", "Expand", "Identity", "Tile"}
TABLES = {"Gather"}
PEAKS = "peaks"  # the output of a rounded model beside its vectors
GREATEST = {Precision.FP16: 65504.0, Precision.BF16: 3.3895314e38}  # the largest finite number of each


def half_model(model: ir.Model, precision: Precision) -> ir.Model:
    """``model``, all exits in one graph, with its products in ``precision``; it stays as it was itself.

    Inputs and outputs keep their types. Nothing is clamped: a weight beyond fp16 becomes infinity, which the gate sees.
    """
    typed, dtype = model.clone(), DTYPES[precision]
    copies: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for node in list(typed.graph):
        if not _floats(node.outputs):
            for index, value in enumerate(node.inputs):  # shapes and comparisons: of any type, but of one
                if value is not None and value.dtype == dtype and node.op_type != "Shape":
                    node.replace_input_with(index, _in(typed, value, ir.DataType.FLOAT, copies))
            continue
        target = dtype if _is_half(node, dtype) else ir.DataType.FLOAT
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in (dtype, ir.DataType.FLOAT) and node.op_type != "Cast":
                node.replace_input_with(index, _in(typed, value, target, copies))
        for value in node.outputs:
            value.type = ir.TensorType(target)  # a clone shares the old type with what it was cloned from
    for index, value in enumerate(typed.graph.outputs):
        typed.graph.outputs[index] = _in(typed, value, ir.DataType.FLOAT, copies)
    unused = [name for name, value in typed.graph.initializers.items() if not value.uses()]
    for name in unused:
        del typed.graph.initializers[name]
    return typed


def _floats(values: Iterable[ir.Value | None]) -> list[ir.Value]:
    return [value for value in values if value is not None and value.dtype == ir.DataType.FLOAT]


def _is_half(node: ir.Node, dtype: ir.DataType) -> bool:
    """Whether a node of an fp32 graph runs in ``dtype``, those before it being typed already."""
    kind, values = node.op_type, [value for value in node.inputs if value is not None]
    if kind in PRODUCTS:
        return len(node.outputs[0].shape or ()) > 2  # (batch, numbers) is what lies behind the pooling
    if kind in TABLES:
        return values[0].is_initializer() or values[0].dtype == dtype
    if kind not in ARITHMETIC | MOVEMENT:
        return False
    made = [v for v in values if not v.is_initializer() and v.dtype in (dtype, ir.DataType.FLOAT)]
    makers = {producer.op_type for value in made if (producer := value.producer())}
    if kind in ARITHMETIC and makers & TABLES:
        return False  # embeddings are stored in half and added in float32: all layers start from that sum
    return bool(made) and all(value.dtype == dtype for value in made)


def _in(
    model: ir.Model,
    value: ir.Value,
    dtype: ir.DataType,
    copies: dict[tuple[ir.Value, ir.DataType], ir.Value],
) -> ir.Value:
    """``value`` in ``dtype``: itself, a weight stored so, or a cast right behind what makes it; one of each."""
    if value.dtype == dtype:
        return value
    if (value, dtype) not in copies:
        name = f"{value.name}_{dtype.name.lower()}"
        if value.is_initializer():
            copy = _stored(model, value, dtype, name)
        else:
            cast = ir.node("Cast", [value], {"to": int(dtype)}, name=f"cast_{name}")
            copy = cast.outputs[0]
            copy.name, copy.dtype, copy.shape = name, dtype, value.shape
            producer = value.producer()
            assert producer is not None  # noqa: S101 - graph inputs are whole numbers
            model.graph.insert_after(producer, cast)
        copies[value, dtype] = copy
    return copies[value, dtype]


def _stored(model: ir.Model, value: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
    """A new initializer with the numbers of ``value`` in ``dtype``."""
    assert value.const_value is not None  # noqa: S101 - it is an initializer
    with np.errstate(over="ignore"):
        tensor = ir.tensor(value.const_value.numpy().astype(dtype.numpy()), dtype=dtype, name=name)
    copy = ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype), const_value=tensor)
    model.graph.initializers[name] = copy
    return copy


def products(model: ir.Model) -> dict[str, int]:
    """How many products of each type a graph has: FLOAT, FLOAT16, BFLOAT16."""
    kinds = [node.outputs[0].dtype for node in model.graph.all_nodes() if node.op_type in PRODUCTS]
    return {kind.name: kinds.count(kind) for kind in dict.fromkeys(kinds) if kind is not None}


def rounded_model(typed: ir.Model, precision: Precision) -> ir.Model:
    """What a half graph computes where sums are float32 and every result is rounded, as a float32 graph.

    That is the arithmetic of a GPU's matrix units. ONNX Runtime on a CPU has no bf16, and runs fp16 graphs in float32
    without rounding in between, which hides an overflow; this graph it runs as it stands. A second output, ``peaks``
    (n,), holds the largest magnitude of every half value before it was rounded, in the order of ``peak_names``.
    """
    model, dtype = typed.clone(), DTYPES[precision]
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
            if to_half or node.op_type in PRODUCTS | ARITHMETIC:
                peaks.append(_round(model, node, value, dtype))
        if to_half:
            node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
    together = ir.node("Concat", peaks, {"axis": 0}, name=PEAKS)
    together.outputs[0].name, together.outputs[0].dtype = PEAKS, ir.DataType.FLOAT
    together.outputs[0].shape = ir.Shape([len(peaks)])
    model.graph.append(together)
    model.graph.outputs.append(together.outputs[0])
    return model


def _round(model: ir.Model, node: ir.Node, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """Round ``value`` for all that use it; returns its largest magnitude before that, (1,)."""
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
    """The values whose peaks a rounded model gives, in their order."""
    (together,) = (node for node in rounded.graph if node.name == PEAKS)
    return [str(value.producer().name).removeprefix("peak_") for value in together.inputs]  # type: ignore[union-attr]
