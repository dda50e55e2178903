"""Run a graph on texts and record some of its values: the range of each column, and some rows."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from m2d_export.errors import ExportError, first_line
from m2d_export.graphs.export import save_graphs
from m2d_export.host.extras import require
from m2d_export.vectors import FloatArray

ROWS = 256  # how many rows of a value are recorded; each sample adds about the same number


@dataclass(frozen=True, eq=False)
class Activations:
    """The recorded columns and rows of a value.

    ``low`` and ``high`` are the smallest and the largest number of each column: (columns,). ``rows`` has some of the
    rows: (rows, columns).
    """

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
    """Run ``model`` in ONNX Runtime on all ``samples``, and return the activations of the values called ``names``.

    The last axis of a value has the columns. All other axes together are the rows. Raises ExportError if the graph
    cannot be run.
    """
    given = [value.name for value in model.graph.inputs]
    computed = [name for name in names if name not in given]
    watched = model.clone()
    values = {value.name: value for node in watched.graph for value in node.outputs}
    watched.graph.outputs.clear()
    watched.graph.outputs.extend(values[name] for name in computed)
    onnxruntime = require("onnxruntime", "cpu")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # log errors only
    low: dict[str, FloatArray] = {}
    high: dict[str, FloatArray] = {}
    rows: dict[str, list[FloatArray]] = {name: [] for name in names}
    try:
        # The graph goes through a file, because in memory there would be three copies of the weights.
        with tempfile.TemporaryDirectory(prefix="m2d-calibration-") as folder:
            path = Path(folder, "watched.onnx")
            save_graphs({path: watched}, path.with_suffix(".bin"))
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
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
