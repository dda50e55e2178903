"""Make int8 weights give the same result on every x86 processor.

A processor without int8 dot products (VNNI) adds two neighbouring products in 16 bits, and that sum saturates. Weights
whose sum could saturate are made a little smaller. The usual remedy, half the range for all weights, loses as much
accuracy as it saves.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from m2d_export.graphs.passes.common import constant, constant_array

MAX_PAIR_SUM = 128  # 255, the largest activation, times 128 still fits in a signed 16-bit number
TRIED_FACTORS = 9  # for each column of weights: from 1 to the factor with which no weight is clipped


def prevent_saturation(model: ir.Model) -> bool:
    """Change the int8 weights of every MatMul so that no two neighbours of a column sum up to more than 128.

    Scales grow by as much as the weights of their column shrink.
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
    """New int8 weights (in, out) within ``MAX_PAIR_SUM``, and the factors (out,) by which their scales grow.

    Tries several factors for each column, rounds and clips its weights, and takes the factor of the smallest error.
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
    """Clip pairs (pairs, 2, columns) to ``MAX_PAIR_SUM`` in either sign; each of a pair gives half of the excess."""
    for sign in (1, -1):
        over = np.maximum(np.maximum(sign * pairs, 0).sum(1, keepdims=True) - MAX_PAIR_SUM, 0)
        pairs = pairs - sign * np.concatenate([np.ceil(over / 2), np.floor(over / 2)], axis=1)
    return pairs
