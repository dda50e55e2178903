"""Move the factor 0.5 of a GELU to the end. ONNX Runtime fuses a GELU only in this order."""

import onnx_ir as ir

from m2d_export.graphs.passes.common import is_number


def reorder_gelu(model: ir.Model) -> bool:
    """Turn ``x * (0.5 * (1 + erf(x / c)))`` into ``(x * (1 + erf(x / c))) * 0.5``.

    Results are exactly the same, because a float is multiplied by 0.5 without rounding.
    """
    changed = False
    for erf in [node for node in model.graph if node.op_type == "Erf"]:
        path = [erf]
        while len(path) < 4 and len(users := path[-1].outputs[0].consumers()) == 1:
            path += users
        scaled = erf.inputs[0].producer() if erf.inputs[0] is not None else None
        if scaled is None or [node.op_type for node in path] != ["Erf", "Add", "Mul", "Mul"]:
            continue
        _, add, inner, outer = path
        total, halved = add.outputs[0], inner.outputs[0]
        halves = [value for value in inner.inputs if value is not total and is_number(value, 0.5)]
        factors = [value for value in outer.inputs if value is not halved and value in scaled.inputs]
        if halves and factors and not {total, halved} & set(model.graph.outputs):
            for node, values in ((inner, (factors[0], total)), (outer, (halved, halves[0]))):
                for index, value in enumerate(values):
                    node.replace_input_with(index, value)
            changed = True
    return changed
