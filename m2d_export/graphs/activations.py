"""Run a graph on texts and record its values: the range of each column, and some of the rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from m2d_export.errors import ExportError, first_line
from m2d_export.host.extras import require
from m2d_export.vectors import FloatArray

ROWS = 256  # rows that are kept of a value; every sample gives about the same number


@dataclass(frozen=True, eq=False)
class Activations:
    """The smallest and the largest number of each column of a value, (columns,), and some rows, (rows, columns)."""

    low: FloatArray
    high: FloatArray
    rows: FloatArray


def joined(parts: Sequence[Activations]) -> Activations:
    """Join the activations of several values that have the same columns."""
    return Activations(
        np.min([part.low for part in parts], axis=0),
        np.max([part.high for part in parts], axis=0),
        np.concatenate([part.rows for part in parts]),
    )


def observe(model: ir.Model, names: Sequence[str], samples: Sequence[Mapping[str, Any]]) -> dict[str, Activations]:
    """Run ``model`` in ONNX Runtime on all ``samples``; returns the activations of the values with these ``names``.

    The last axis of a value has its columns; all other axes are rows. Raises ExportError if the graph cannot be run.
    """
    given = [value.name for value in model.graph.inputs]
    computed = [name for name in names if name not in given]
    watched = model.clone()
    values = {value.name: value for node in watched.graph for value in node.outputs}
    watched.graph.outputs.clear()
    watched.graph.outputs.extend(values[name] for name in computed)
    onnxruntime = require("onnxruntime", "cpu")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # only errors
    low: dict[str, FloatArray] = {}
    high: dict[str, FloatArray] = {}
    rows: dict[str, list[FloatArray]] = {name: [] for name in names}
    try:
        data = ir.serde.serialize_model(watched).SerializeToString()
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        for place, inputs in enumerate(samples):
            found = {**inputs, **dict(zip(computed, session.run(computed, dict(inputs)), strict=True))}
            for name in names:
                numbers = found[name].reshape(-1, found[name].shape[-1])
                low[name] = np.minimum(low.get(name, np.inf), numbers.min(axis=0))
                high[name] = np.maximum(high.get(name, -np.inf), numbers.max(axis=0))
                step = max(1, len(numbers) * len(samples) // ROWS)
                rows[name].append(numbers[place % step :: step])
    except Exception as error:  # ONNX Runtime and protobuf raise errors of many types
        raise ExportError(f"ONNX Runtime cannot run the float32 graph for calibration: {first_line(error)}") from error
    return {name: Activations(low[name], high[name], np.concatenate(rows[name])) for name in names}
