"""ONNX Runtime on the CPU: a single batch runs on all threads, and many batches run in parallel."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from threading import Lock
from typing import Any

import numpy as np

from m2d_export.errors import IntegrityError, RuntimeUnavailable, SpecError, first_line
from m2d_export.host.checked import MappedFile, unchanged
from m2d_export.host.extras import require
from m2d_export.host.files import utf8_path
from m2d_export.runtimes.runtime import CLOSED, RUN_FAILED, Runtime, RuntimeOptions
from m2d_export.spec import Variant
from m2d_export.text.batches import Batch, stream_room
from m2d_export.vectors import FloatArray

log = logging.getLogger(__name__)
CPU = "CPUExecutionProvider"
LONG_ATTENTION = 1 << 20  # if texts x tokens^2 of a batch is larger, its attention is computed in blocks
MANY = 16  # with fewer batches, a second session saves less time than its opening takes
NO_SKIP_LAYER_NORM_FUSION = {
    "optimization.disable_specified_optimizers": "SkipLayerNormFusion"
}  # the fused kernel is slower
# benchmarks/session_settings.py measures what each setting changes.
SETTINGS = {
    # Threads wait actively (spin) during a call. They stop at its end, so that other sessions can use the cores.
    "session.force_spinning_stop": "1",
    **NO_SKIP_LAYER_NORM_FUSION,
}
# These save memory: there is no packed copy of the weights, and each layer computes the mask again.
LONG_SETTINGS = {
    **SETTINGS,
    "session.disable_prepacking": "1",
    "optimization.disable_specified_optimizers": "SkipLayerNormFusion;CommonSubexpressionElimination",
}
# In a server, threads do not spin at all, because other models and clients need the cores.
SERVER_SETTINGS = {"session.intra_op.allow_spinning": "0", **NO_SKIP_LAYER_NORM_FUSION}


def session_options(threads: int, settings: Mapping[str, str] = SETTINGS) -> Any:
    """The options of a session that runs on ``threads`` threads."""
    options = require("onnxruntime", "cpu").SessionOptions()
    options.intra_op_num_threads = threads
    for key, value in settings.items():
        options.add_session_config_entry(key, value)
    return options


def open_session(variant: Variant, options: Any, providers: Mapping[str, Mapping[str, str]]) -> Any:
    """Open the graph of ``variant``. Raises RuntimeUnavailable if ONNX Runtime cannot load it on ``providers``."""
    ort = require("onnxruntime", "cpu")
    path = utf8_path(variant.path)
    options.log_severity_level = 3  # only errors: the warnings are about ONNX Runtime's own optimizer
    try:
        with unchanged(variant.files):
            session = ort.InferenceSession(path, options, providers=list(providers.items()))
    except IntegrityError:
        raise
    except Exception as error:  # ONNX Runtime's own types, UnicodeDecodeError or RuntimeError
        raise RuntimeUnavailable(f"ONNX Runtime cannot load {variant.path}: {first_line(error)}") from error
    taken = session.get_providers()
    if taken != list({**providers, CPU: {}}):  # ONNX Runtime leaves out a provider that it cannot load
        wanted = ", ".join(providers)
        raise RuntimeUnavailable(
            f"ONNX Runtime was asked to use {wanted}, but uses {', '.join(taken)}: check the GPU's driver and the "
            "libraries that the missing provider needs"
        )
    return session


class OnnxRuntime(Runtime):
    """A session on all threads. The first call with many batches opens a second session for parallel streams.

    The second session runs each batch on one thread, and as many batches at once as there are threads. So no thread
    waits for another thread within a layer. Several threads can call a runtime at once. Raises RuntimeUnavailable if
    the graph cannot be loaded.
    """

    name = "onnxrt"
    provider = CPU

    def __init__(self, variant: Variant, options: RuntimeOptions) -> None:
        self._variant, self._threads = variant, options.threads
        self.mapped = MappedFile(variant.files[1]) if len(variant.files) > 1 else None
        self._session: Any = self._open(self._threads)
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._long: Any = None
        self._lock = Lock()  # held while a session is opened or closed, or streams get batches
        self._streams: tuple[Any, ThreadPoolExecutor] | None = None
        self._streams_failed = False

    def _open(self, threads: int) -> Any:
        return open_session(self._variant, session_options(threads), {CPU: {}})

    def _vectors(self, batch: Batch) -> FloatArray:
        return self.outputs(batch)[0]

    def outputs(self, batch: Batch) -> list[FloatArray]:
        """All outputs of the graph for a batch, as float32. The vectors are the first output."""
        return self._run(self._long_session() if self._is_long(batch) else self._session, batch)

    def _is_long(self, batch: Batch) -> bool:
        return self._variant.long is not None and batch.attention > LONG_ATTENTION

    def _long_session(self) -> Any:
        """The session of the graph for long texts. The first long batch opens it."""
        with self._lock:
            if self._session is not None and self._long is None and self._variant.long is not None:
                variant = replace(self._variant, path=self._variant.long)
                self._long = open_session(variant, session_options(self._threads, LONG_SETTINGS), {CPU: {}})
            return self._long

    def _each(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, FloatArray]]:
        """Yield each batch with its vectors, in any order. Fewer than ``MANY`` batches run one after the other."""
        waiting = list(batches)
        room = stream_room(self._threads)
        alone: list[Batch] = []
        short: list[Batch] = []
        for batch in waiting:
            (alone if batch.attention > room or self._is_long(batch) else short).append(batch)
        if self._threads == 1 or len(short) < MANY:
            return super()._each(waiting)
        return chain(super()._each(alone), self._in_streams(short))

    def _in_streams(self, batches: list[Batch]) -> Iterator[tuple[Batch, FloatArray]]:
        futures: list[Future[list[FloatArray]]] = []
        try:
            with self._lock:
                streams = self._opened_streams()
                if streams is not None:
                    session, pool = streams
                    futures.extend(pool.submit(self._run, session, batch) for batch in batches)
            if streams is None:
                yield from super()._each(batches)
                return
            for batch, future in zip(batches, futures, strict=True):
                yield batch, future.result()[0]
        except CancelledError:
            raise SpecError(CLOSED) from None
        finally:  # after an error or Ctrl-C, or if the caller stops early, drop the batches that have not begun
            for future in futures:
                future.cancel()

    def _opened_streams(self) -> tuple[Any, ThreadPoolExecutor] | None:
        """The second session and its threads. The first call opens them; if this fails, it warns and returns None."""
        if self._session is None:
            raise SpecError(CLOSED)
        if self._streams is None and not self._streams_failed:
            try:
                self._streams = self._open(1), ThreadPoolExecutor(self._threads)
            except (RuntimeUnavailable, IntegrityError) as error:  # for example, another bundle has replaced this one
                self._streams_failed = True
                log.warning(
                    "%s: cannot open a second session (%s): batches run one after the other; to run them in parallel, "
                    "open the encoder again",
                    self._variant.path,
                    error,
                )
        return self._streams

    def _run(self, session: Any, batch: Batch) -> list[FloatArray]:
        if session is None:
            raise SpecError(CLOSED)
        values = {name: getattr(batch, name) for name in self._inputs}
        try:
            return [np.asarray(output, dtype=np.float32) for output in session.run(None, values)]
        except Exception as error:  # ONNX Runtime's own types, for example if a token id is too large
            raise RuntimeUnavailable(
                f"ONNX Runtime cannot run this batch: {first_line(error)}; {RUN_FAILED}"
            ) from error

    def _close(self) -> None:
        with self._lock:
            if self._streams is not None:
                self._streams[1].shutdown(cancel_futures=True)
            self._session = self._streams = self._long = None
