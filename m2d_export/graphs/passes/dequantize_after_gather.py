"""Dequantize only the rows of an embedding table that a batch looks up.

If DequantizeLinear comes before the lookup, ONNX Runtime dequantizes the whole table in every call.
"""

import numpy as np
import onnx_ir as ir

from m2d_export.graphs.passes.common import constant, constant_array


def dequantize_after_gather(model: ir.Model) -> bool:
    """Turn Gather(DequantizeLinear(table, scales), ids) into Gather(table, ids) * Gather(scales, ids).

    This is done only for tables with one scale per row and with zero points of 0.
    """
    changed = False
    for lookup in [node for node in model.graph if node.op_type == "Gather"]:
        table, ids = lookup.inputs
        dequantize = table.producer() if table is not None else None
        if table is None or ids is None or dequantize is None or dequantize.op_type != "DequantizeLinear":
            continue
        stored, scales, zeros = map(constant_array, dequantize.inputs)
        axes = [node.attributes.get_int("axis", default) for node, default in ((lookup, 0), (dequantize, 1))]
        if stored is None or scales is None or zeros is None or axes != [0, 0] or np.any(zeros):
            continue
        column = constant(model.graph, scales[:, None], f"{lookup.name}_scales")
        rows = ir.node("Gather", [dequantize.inputs[0], ids], {"axis": 0})
        floats = ir.node("Cast", [rows.outputs[0]], {"to": ir.DataType.FLOAT})
        factors = ir.node("Gather", [column, ids], {"axis": 0})
        scaled = ir.node("Mul", [floats.outputs[0], factors.outputs[0]])
        ir.convenience.replace_nodes_and_values(
            model.graph, lookup, [lookup], [rows, floats, factors, scaled], lookup.outputs, scaled.outputs
        )
        if not table.uses():
            model.graph.remove(dequantize, safe=True)
        changed = True
    return changed
