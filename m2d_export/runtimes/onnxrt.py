"""ONNX Runtime on the CPU."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from m2d_export.batching import Batch
from m2d_export.errors import RuntimeUnavailable, SpecError, first_line
from m2d_export.extras import require
from m2d_export.machine import cores
from m2d_export.runtimes import Runtime
from m2d_export.spec import Variant
from m2d_export.vectors import FloatArray

CPU = "CPUExecutionProvider"


def opened(variant: Variant, options: Any, providers: Mapping[str, Mapping[str, str]]) -> Any:
    """A session of ONNX Runtime; RuntimeUnavailable unless it has just these providers, and its own for the rest."""
    ort = require("onnxruntime", "cpu")
    options.log_severity_level = 3  # errors; warnings are about its own optimiser
    try:
        session = ort.InferenceSession(str(variant.path), options, providers=list(providers.items()))
    except Exception as error:  # its own types, and bare UnicodeDecodeError and RuntimeError
        raise RuntimeUnavailable(f"ONNX Runtime cannot load {variant.path}: {first_line(error)}") from error
    taken = session.get_providers()
    if taken != list({**providers, CPU: {}}):  # it goes on with fewer where one cannot be loaded
        raise RuntimeUnavailable(f"asked for {', '.join(providers)}, ONNX Runtime took {taken}")
    return session


class OnnxRuntime(Runtime):
    """A graph in an ONNX Runtime session; raises RuntimeUnavailable unless the CPU provider runs it."""

    name = "onnxrt"
    provider = CPU

    def __init__(self, variant: Variant, threads: int | None = None) -> None:
        options = require("onnxruntime", "cpu").SessionOptions()
        options.intra_op_num_threads = threads or cores()
        # Threads spin during a call, not after it: spinning on, they took the cores from whichever session ran next
        # (six exits called in turn on 2 cores: 14.6 ms each instead of 4.6 for the deepest).
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = opened(variant, options, {CPU: {}})
        self._inputs = [value.name for value in self._session.get_inputs()]

    def vectors(self, batch: Batch) -> FloatArray:
        """Full-width vectors of a batch, not normalised: (batch, width) float32."""
        return self.outputs(batch)[0]

    def outputs(self, batch: Batch) -> list[FloatArray]:
        """Every output of the graph for a batch, the vectors first."""
        if self._session is None:
            raise SpecError("this runtime is closed: open it again")
        values = {name: getattr(batch, name) for name in self._inputs}
        try:
            return [np.asarray(output, dtype=np.float32) for output in self._session.run(None, values)]
        except Exception as error:  # its own types; token ids that the model does not know, for one
            raise RuntimeUnavailable(f"ONNX Runtime cannot run this batch: {first_line(error)}") from error

    def close(self) -> None:
        """Free the session."""
        self._session = None
