"""Change int8 weights so that they give the same result on every x86 processor.

A processor without int8 dot products (VNNI) adds two neighbouring products in 16 bits. If the sum is too large for 16
bits, it is cut off: it saturates. Weights are made a little smaller where this could happen. The usual way is to use
half of the range for all weights, but this loses as much accuracy as it saves.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from m2d_export.graphs.passes.common import constant, constant_array

MAX_PAIR_SUM = 128  # 128 times the largest activation (255) fits in a signed 16-bit number
TRIED_FACTORS = 9  # factors that are tried for each column, from 1 to the factor that clips no weight


def prevent_saturation(model: ir.Model) -> bool:
    """Change the int8 weights of every MatMul so that two neighbours in a column never add up to more than 128.

    If the weights of a column become smaller, the column's scale grows by the same factor. Returns whether any weight
    was changed.
    """
    changed = False
    for dequantize in [node for node in model.graph if node.op_type == "DequantizeLinear"]:
        if not all(user.op_type == "MatMul" and index == 1 for user, index in dequantize.outputs[0].uses()):
            continue
        stored, scales = map(constant_array, dequantize.inputs[:2])
        if stored is None or scales is None or stored.dtype != np.int8:
            continue
        weights, factors = _limit_pair_sums(stored)
        if np.array_equal(weights, stored):
            continue
        name = dequantize.outputs[0].name
        dequantize.replace_input_with(0, constant(model.graph, weights, f"{name}_limited"))
        dequantize.replace_input_with(1, constant(model.graph, scales * factors, f"{name}_scales"))
        changed = True
    if changed:
        RemoveUnusedNodesPass()(model)
    return changed


def _limit_pair_sums(weights: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """New int8 weights (in, out) within ``MAX_PAIR_SUM``, and the factors (out,) for their scales.

    Several factors are tried for each column. Each time, the weights are divided by the factor, rounded and clipped.
    The factor with the smallest error is used.
    """
    inner, outer = weights.shape
    pairs = np.pad(weights, ((0, inner % 2), (0, 0))).reshape(-1, 2, outer).astype(np.float32)
    sums = np.maximum(np.maximum(pairs, 0).sum(1), np.maximum(-pairs, 0).sum(1)).max(0)
    best, factors, least = pairs, np.ones(outer, np.float32), np.full(outer, np.inf)
    for share in np.linspace(0, 1, TRIED_FACTORS):
        factor = (1 + (np.maximum(1, sums / MAX_PAIR_SUM) - 1) * share).astype(np.float32)
        clipped = _clip(np.round(pairs / factor))
        error = ((pairs - clipped * factor) ** 2).sum((0, 1))
        better = error < least
        best, factors, least = (
            np.where(better, *both) for both in ((clipped, best), (factor, factors), (error, least))
        )
    return best.reshape(-1, outer)[:inner].astype(np.int8), factors


def _clip(pairs: NDArray[Any]) -> NDArray[Any]:
    """Limit the sum of each pair (pairs, 2, columns) to -128 or 128. Each number of a pair loses half of the excess."""
    for sign in (1, -1):
        over = np.maximum(np.maximum(sign * pairs, 0).sum(1, keepdims=True) - MAX_PAIR_SUM, 0)
        pairs = pairs - sign * np.concatenate([np.ceil(over / 2), np.floor(over / 2)], axis=1)
    return pairs
