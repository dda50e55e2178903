"""Prepare a matmul for int8: smooth the columns of its activations, and multiply outlying columns in float."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2d_export.graphs.activations import Activations
from m2d_export.vectors import FloatArray

STRENGTHS = (0.5, 0.65, 0.8, 0.9, 1.0)  # 1 makes activation columns equal, 0 makes weight rows equal
OUTLIERS = 16  # number of columns in float, if the product is sensitive
SENSITIVE = 0.1  # if the relative error is larger, columns in float are tried
WORTH = 0.75  # columns in float are used if they reduce the error to less than this share
TOO_SENSITIVE = 0.2  # if the relative error is larger, the whole product stays in float
QUIET = 0.9  # columns below this quantile are set to it, because other texts can have larger values there
LARGEST = 127


@dataclass(frozen=True, eq=False)
class Smoothing:
    """How a product is smoothed: activation column c is divided by ``scales[c]``, weight row c is multiplied by it.

    ``outliers`` are the columns that are multiplied in float. ``error`` is measured on observed activations. It is the
    root mean square of the rows' relative errors: the error of a row of the product, divided by the row's length.
    """

    error: float
    strength: float
    scales: FloatArray
    outliers: NDArray[np.int64]


def best_smoothing(found: Activations, weights: FloatArray) -> Smoothing | None:
    """The smoothing with the least error; None if the error is so large that the product must stay in float.

    ``weights`` are (in, out). Smoothing comes from SmoothQuant (Xiao et al. 2023, arXiv:2211.10438), but there all
    products have one strength. Outlying columns in float come from LLM.int8() (Dettmers et al. 2022, arXiv:2208.07339).
    """
    best = min((_smoothing(found, weights, strength, 0) for strength in STRENGTHS), key=lambda item: item.error)
    if best.error > SENSITIVE:
        split = min((_smoothing(found, weights, power, OUTLIERS) for power in STRENGTHS), key=lambda item: item.error)
        best = split if split.error < WORTH * best.error else best
    return best if best.error < TOO_SENSITIVE else None


def _smoothing(found: Activations, weights: FloatArray, strength: float, count: int) -> Smoothing:
    reach, strong = np.maximum(-found.low, found.high), np.abs(weights).max(axis=1)
    outliers = np.sort(np.argsort(-reach * strong, kind="stable")[:count])
    within = np.ones_like(reach)
    within[outliers] = 0
    rest, rows = weights * within[:, None], found.rows * within
    reach, strong = np.maximum(reach * within, 1e-5), np.maximum(strong * within, 1e-5)
    reach = np.maximum(reach, np.quantile(reach, QUIET))
    scales = reach**strength / strong ** (1 - strength)
    scales = np.maximum(scales, np.quantile(scales, 0.1)).astype(np.float32)
    scale, zero = activation_scale(found.low * within / scales, found.high * within / scales)
    approximate = (np.clip(np.round(rows / scales / scale) + zero, -LARGEST - 1, LARGEST) - zero) * scale
    stored, weight_scales = quantized_weights(rest * scales[:, None])
    error = ((approximate @ (stored * weight_scales) - rows @ rest) ** 2).sum(axis=1)
    length = ((found.rows @ weights) ** 2).sum(axis=1)
    relative = np.sqrt(np.mean(error / np.maximum(length, 1e-12)))
    return Smoothing(float(relative), strength, scales, outliers)


def activation_scale(low: FloatArray, high: FloatArray) -> tuple[np.float32, np.int8]:
    """The scale and the zero point of int8 activations. The int8 range covers 0, ``low`` and ``high``."""
    least, largest = min(float(low.min()), 0.0), max(float(high.max()), 0.0)
    scale = (largest - least) / (2 * LARGEST + 1) or 1.0
    return np.float32(scale), np.int8(np.clip(round(-least / scale) - LARGEST - 1, -LARGEST - 1, LARGEST))


def quantized_weights(weights: FloatArray, axis: int = 0) -> tuple[NDArray[np.int8], NDArray[Any]]:
    """The int8 weights and their scales; all numbers along ``axis`` share a scale."""
    scales = np.abs(weights).max(axis=axis, keepdims=True).astype(np.float32) / LARGEST
    scales[scales == 0] = 1
    return np.round(weights / scales).astype(np.int8), scales
