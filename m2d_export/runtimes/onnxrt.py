"""ONNX Runtime on the CPU: one batch at a time with all threads, many batches as parallel streams."""

import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from itertools import count
from threading import Lock
from typing import Any

import numpy as np

from m2d_export.batching import Batch
from m2d_export.errors import RuntimeUnavailable, SpecError, first_line
from m2d_export.extras import require
from m2d_export.machine import cores
from m2d_export.runtimes import CLOSED, Runtime
from m2d_export.runtimes.quicker import Quicker
from m2d_export.spec import Variant
from m2d_export.vectors import FloatArray

CPU = "CPUExecutionProvider"
MANY = 16  # batches that take about as long as opening a session once more, for streams
OFTEN = 128  # short texts that do
SHORT, STEP = 32, 8  # tokens that one thread may be quicker with; texts within a step of each other are compared
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
    """A graph in an ONNX Runtime session on all threads and, once there is much to do, in one more on a single thread.

    That one takes many batches in parallel, for none waits for another within a layer, and a short text while all
    threads are the slower way: they share every operator of a few tokens, and wait for each other a hundred times,
    which can take longer than it saves where their cores are two halves of one or other processes want them. Raises
    RuntimeUnavailable unless the CPU provider runs it. Threads may share it.
    """

    name = "onnxrt"
    provider = CPU

    def __init__(self, variant: Variant, threads: int | None = None) -> None:
        self._variant, self._threads = variant, threads or cores()
        self._opening = Lock()
        self._all: Any = self._session(self._threads)
        self._pool: ThreadPoolExecutor | None = None
        self._single: Future[Any] | None = None
        self._shorts = count(1)
        self._quicker = [Quicker() for _ in range(SHORT // STEP)]
        self._inputs = [value.name for value in self._all.get_inputs()]

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
        tokens = batch.input_ids.size
        if self._threads == 1 or tokens > SHORT:
            return self._run(self._all, batch)
        if next(self._shorts) == OFTEN:
            self._in_parallel([])
        single = self._single
        if single is None or not single.done() or single.exception():
            return self._run(self._all, batch)
        quicker = self._quicker[(tokens - 1) // STEP]
        way = quicker.way()
        started = time.perf_counter()
        outputs = self._run(single.result() if way else self._all, batch)
        quicker.took(way, time.perf_counter() - started)
        return outputs

    def each(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, FloatArray]]:
        """Each batch with its vectors, in order; few get all threads, one after the other."""
        waiting = list(batches)
        if self._threads == 1 or len(waiting) < MANY:
            return super().each(waiting)
        return self._in_streams(waiting)

    def _in_streams(self, batches: list[Batch]) -> Iterator[tuple[Batch, FloatArray]]:
        futures: list[Future[list[FloatArray]]] = []
        try:
            futures = self._in_parallel(batches)
            for batch, future in zip(batches, futures, strict=True):
                yield batch, future.result()[0]
        except CancelledError:
            raise SpecError(CLOSED) from None
        finally:  # an error, Ctrl-C, a caller who wants no more: what has not begun is let go
            for future in futures:
                future.cancel()

    def _in_parallel(self, batches: list[Batch]) -> list[Future[list[FloatArray]]]:
        """The outputs of ``batches``, each on one thread; the first call opens the session that they run in."""
        with self._opening:
            if self._all is None:
                raise SpecError(CLOSED)
            if self._pool is None or self._single is None:
                self._pool = ThreadPoolExecutor(self._threads)
                self._single = self._pool.submit(self._session, 1)
            single = self._single
            return [self._pool.submit(lambda batch: self._run(single.result(), batch), batch) for batch in batches]

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
            self._all = self._pool = self._single = None
