"""ONNX Runtime on the CPU: one batch at a time with all threads, many batches as parallel streams."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np

from m2d_export.batching import Batch
from m2d_export.errors import RuntimeUnavailable, SpecError, first_line
from m2d_export.extras import require
from m2d_export.machine import cores
from m2d_export.runtimes import CLOSED, Runtime
from m2d_export.spec import Variant
from m2d_export.vectors import FloatArray

CPU = "CPUExecutionProvider"
MANY = 16  # batches that take about as long as opening a session once more, for streams
# benchmarks/session_settings.py times sessions with one of them changed at a time.
SETTINGS = {
    # Threads spin during a call, not after it: spinning on, they took the cores from whichever session ran next
    # (six exits called in turn on 2 cores: 14.6 ms each instead of 4.6 for the deepest).
    "session.force_spinning_stop": "1",
    # Its fused kernel goes number by number: with it a call of many fp32 texts takes 7 or 8 % longer than with the
    # additions and the layer norm that it replaces, and one of int8 as long or longer.
    "optimization.disable_specified_optimizers": "SkipLayerNormFusion",
}


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
    """A graph in an ONNX Runtime session and, when many batches come, in one more that gives each a thread.

    Batches in parallel need no thread to wait for another within a layer. Raises RuntimeUnavailable unless the CPU
    provider runs it. Threads may share it.
    """

    name = "onnxrt"
    provider = CPU

    def __init__(self, variant: Variant, threads: int | None = None) -> None:
        self._variant, self._threads = variant, threads or cores()
        self._opening = Lock()
        self._one = self._session(self._threads)
        self._many: Any = None
        self._pool: Any = None
        self._inputs = [value.name for value in self._one.get_inputs()]

    def _session(self, threads: int) -> Any:
        options = require("onnxruntime", "cpu").SessionOptions()
        options.intra_op_num_threads = threads
        for key, value in SETTINGS.items():
            options.add_session_config_entry(key, value)
        return opened(self._variant, options, {CPU: {}})

    def vectors(self, batch: Batch) -> FloatArray:
        """Full-width vectors of a batch, not normalised: (batch, width) float32."""
        return self.outputs(batch)[0]

    def outputs(self, batch: Batch) -> list[FloatArray]:
        """Every output of the graph for a batch, the vectors first."""
        return self._run(self._one, batch)

    def each(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, FloatArray]]:
        """Each batch with its vectors, in order; few get all threads, one after the other."""
        waiting = list(batches)
        if self._threads == 1 or len(waiting) < MANY:
            return super().each(waiting)
        return self._in_streams(waiting)

    def _in_streams(self, batches: list[Batch]) -> Iterator[tuple[Batch, FloatArray]]:
        futures: list[Future[list[FloatArray]]] = []
        try:
            with self._opening:
                if self._one is None:
                    raise SpecError(CLOSED)
                if self._many is None:
                    self._many, self._pool = self._session(1), ThreadPoolExecutor(self._threads)
                futures.extend(self._pool.submit(self._run, self._many, batch) for batch in batches)
            for batch, future in zip(batches, futures, strict=True):
                yield batch, future.result()[0]
        except CancelledError:
            raise SpecError(CLOSED) from None
        finally:  # an error, Ctrl-C, a caller who wants no more: what has not begun is let go
            for future in futures:
                future.cancel()

    def _run(self, session: Any, batch: Batch) -> list[FloatArray]:
        if session is None:
            raise SpecError(CLOSED)
        values = {name: getattr(batch, name) for name in self._inputs}
        try:
            return [np.asarray(output, dtype=np.float32) for output in session.run(None, values)]
        except Exception as error:  # its own types; token ids that the model does not know, for one
            raise RuntimeUnavailable(f"ONNX Runtime cannot run this batch: {first_line(error)}") from error

    def close(self) -> None:
        """Free the sessions and threads."""
        with self._opening:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)
            self._one = self._many = self._pool = None
