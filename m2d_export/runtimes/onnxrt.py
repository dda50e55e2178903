"""ONNX Runtime on the CPU: one batch at a time with all threads, many batches as parallel streams."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path
from statistics import median
from threading import Lock
from typing import Any

import numpy as np

from m2d_export.errors import RuntimeUnavailable, SpecError, first_line
from m2d_export.host.extras import require
from m2d_export.host.machine import cores
from m2d_export.runtimes import CLOSED, Runtime
from m2d_export.runtimes.quicker import LATEST, Quicker
from m2d_export.spec import Variant
from m2d_export.text.batches import Batch
from m2d_export.vectors import FloatArray

log = logging.getLogger(__name__)
CPU = "CPUExecutionProvider"
MANY = 16  # batches that take about as long as opening a session once more, for streams
SHORT, STEP = 32, 8  # tokens that one thread may be quicker with; batches within a step of each other are compared
BRIEF = 0.004  # seconds of a call that waits between threads may be most of; the weights behind it are few
OFTEN = 128  # such calls that take about as long as opening a session once more
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

    That one takes many batches in parallel, for none waits for another within a layer, and a short one while all
    threads are the slower way: they share every operator of a few tokens, and wait for each other a hundred times,
    which takes longer than it saves where their cores are far apart, halves of one, or wanted by others. Raises
    RuntimeUnavailable unless the CPU provider runs it. Threads may share it.
    """

    name = "onnxrt"
    provider = CPU

    def __init__(self, variant: Variant, threads: int | None = None) -> None:
        self._variant, self._threads = variant, threads or cores()
        self._opening = Lock()
        self._file = _file(variant.path)
        self._all: Any = self._session(self._threads)
        self._pool: ThreadPoolExecutor | None = None
        self._single: Future[Any] | None = None
        self._brief = count(1)
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
        if not self._is_short(batch):
            return self.outputs(batch)[0]
        single, quicker = self._opened_single(), self._quicker[(batch.input_ids.size - 1) // STEP]
        way = 0 if single is None else quicker.way()
        vectors, seconds = self._timed(single if way else self._all, batch)
        if single is not None:
            quicker.took(way, seconds)
        elif seconds < BRIEF and next(self._brief) == OFTEN:
            self._open_single()
        return vectors

    def outputs(self, batch: Batch) -> list[FloatArray]:
        """Every output of the graph for a batch, the vectors first, on all threads."""
        return self._run(self._all, batch)

    def settle(self, batch: Batch) -> None:
        """Run a short ``batch`` until it is known which way is the quicker one, if there will be two."""
        if not self._is_short(batch):
            return
        if self._single is None and median(self._timed(self._all, batch)[1] for _ in range(2 * LATEST)) >= BRIEF:
            return
        self._open_single().result()
        for _ in range(2 * LATEST):
            self.vectors(batch)

    def _is_short(self, batch: Batch) -> bool:
        return self._threads > 1 and batch.input_ids.size <= SHORT

    def each(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, FloatArray]]:
        """Each batch with its vectors, in order; few get all threads, one after the other."""
        waiting = list(batches)
        if self._threads == 1 or len(waiting) < MANY:
            return super().each(waiting)
        return self._in_streams(waiting)

    def _in_streams(self, batches: list[Batch]) -> Iterator[tuple[Batch, FloatArray]]:
        futures: list[Future[list[FloatArray]]] = []
        try:
            single = self._open_single().result()
            if single is None:
                yield from super().each(batches)
                return
            with self._opening:
                if self._pool is None:
                    raise SpecError(CLOSED)
                futures.extend(self._pool.submit(self._run, single, batch) for batch in batches)
            for batch, future in zip(batches, futures, strict=True):
                yield batch, future.result()[0]
        except CancelledError:
            raise SpecError(CLOSED) from None
        finally:  # an error, Ctrl-C, a caller who wants no more: what has not begun is let go
            for future in futures:
                future.cancel()

    def _open_single(self) -> Future[Any]:
        """The session of one thread to come, which a thread of the pool opens at the first call."""
        with self._opening:
            if self._all is None:
                raise SpecError(CLOSED)
            if self._single is None:
                pool = ThreadPoolExecutor(self._threads)
                self._single, self._pool = pool.submit(self._session_of_one), pool
            return self._single

    def _opened_single(self) -> Any:
        """The session of one thread if it is there."""
        single = self._single
        return single.result() if single is not None and single.done() and not single.cancelled() else None

    def _session_of_one(self) -> Any:
        """None, and a warning, where it cannot be opened, or where another graph has taken the place of the first."""
        session, why = None, "another file is there now"
        try:
            session = self._session(1)
        except RuntimeUnavailable as error:
            why = str(error)
        if session is None or _file(self._variant.path) != self._file:
            log.warning(
                "%s cannot be opened once more (%s): batches go on one after the other; open the encoder anew for more",
                self._variant.path,
                why,
            )
            return None
        return session

    def _timed(self, session: Any, batch: Batch) -> tuple[FloatArray, float]:
        started = time.perf_counter()
        vectors = self._run(session, batch)[0]
        return vectors, time.perf_counter() - started

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


def _file(path: Path) -> tuple[int, ...] | None:
    """What tells a file from another one that has taken its place."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns
