"""OpenVINO on the CPU: a single batch runs on all threads, many batches run in parallel."""

import functools
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from m2d_export.errors import IntegrityError, RuntimeUnavailable, SpecError
from m2d_export.host.checked import MappedFile, unchanged
from m2d_export.host.extras import require
from m2d_export.host.forks import owns_threads
from m2d_export.host.machine import processor
from m2d_export.runtimes.compile_cache import compiled_bytes
from m2d_export.runtimes.runtime import CLOSED, RUN_FAILED, Runtime, RuntimeOptions
from m2d_export.spec import Variant
from m2d_export.text.batches import Batch, stream_room
from m2d_export.vectors import FloatArray

DEVICE = "CPU"
MANY = 16  # with fewer batches, parallel streams save less time than their compilation takes
LONG_TOKENS = 160  # longer batches run faster with attention as one kernel
LATENCY = {"PERFORMANCE_HINT": "LATENCY"}
LONG = {"PERFORMANCE_HINT": "THROUGHPUT"}
# The attention kernel is slow if the number of tokens is not a multiple of 16. Separate operators are fast for any
# number, but they read and write memory more often.
SHORT = {**LONG, "SNIPPETS_MODE": "DISABLE"}
HINTS = {"fp32": "f32", "bf16": "bf16"}


@functools.cache
def _core() -> Any:
    """OpenVINO's core, one for the whole process.

    A core replaces the signal stack of its thread, and puts the previous one back when it is freed. If two cores are
    freed in the order in which they were made, the second puts back a stack that is already freed. Then Ctrl-C causes
    a segmentation fault.
    """
    core = require("openvino", "openvino").Core()
    owns_threads(core)
    return core


class OpenvinoRuntime(Runtime):
    """A graph that is compiled for one batch at a time.

    The first call with many batches also compiles it for parallel streams. If there are many short and many long texts,
    streams are compiled for each kind. Several threads may call a runtime: they take turns. Raises RuntimeUnavailable
    if the graph cannot be compiled, or if OpenVINO would compute in another type than ``options.compute``. Raises
    SpecError if a cache is given and the variant has no sha256.
    """

    name = "openvino"
    provider = DEVICE

    def __init__(self, variant: Variant, options: RuntimeOptions) -> None:
        ov = require("openvino", "openvino")
        self._queue_type = ov.AsyncInferQueue
        self._core = _core()
        self._hint, self._threads = HINTS[options.compute], options.threads
        if options.cache is not None and not variant.sha256:
            raise SpecError("a cache needs the sha256 of the variant: take the variant from Bundle.variant")
        self._cache = options.cache
        self._depends_on = {"sha256": variant.sha256, "openvino": ov.get_version(), "processor": processor()}
        self.mapped = MappedFile(variant.files[1]) if len(variant.files) > 1 else None
        self._turn = Lock()  # a request runs one batch at a time
        try:
            with unchanged(variant.files):
                self._model = self._core.read_model(str(variant.path))
        except IntegrityError:
            raise
        except Exception as error:  # OpenVINO's RuntimeError, whose message fills a page
            raise RuntimeUnavailable(f"OpenVINO cannot load {variant.path}: {_reason(error)}") from error
        self._inputs = [value.get_any_name() for value in self._model.inputs]
        self._one: Any = self._compiled(LATENCY).create_infer_request()
        self._many: dict[bool, Any] = {}

    @classmethod
    def check(cls, options: RuntimeOptions) -> None:
        """Raise RuntimeUnavailable if the processor cannot multiply in ``compute``; OpenVINO would use fp32."""
        if options.compute.upper() not in _core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"):
            raise RuntimeUnavailable(f"this processor does not compute in {options.compute}: leave --compute at fp32")

    def _compiled(self, hints: dict[str, str]) -> Any:
        settings = {"INFERENCE_PRECISION_HINT": self._hint, "INFERENCE_NUM_THREADS": self._threads, **hints}
        try:
            if self._cache is None:
                compiled = self._core.compile_model(self._model, DEVICE, settings)
            else:
                compiled = self._cached(self._cache, settings)
        except RuntimeError as error:  # from OpenVINO; an error of the cache is an M2DError, which is not caught
            raise RuntimeUnavailable(f"OpenVINO cannot compile this graph: {_reason(error)}") from error
        taken = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if taken != self._hint:
            raise RuntimeUnavailable(f"OpenVINO was asked to compute in {self._hint}, but it computes in {taken}")
        return compiled

    def _cached(self, folder: Path, settings: dict[str, Any]) -> Any:
        def compile_code() -> bytes:
            exported = BytesIO()
            self._core.compile_model(self._model, DEVICE, settings).export_model(exported)
            return exported.getvalue()

        code = compiled_bytes(folder, self._depends_on | settings, compile_code)
        return self._core.import_model(code, DEVICE, settings)

    def _vectors(self, batch: Batch) -> FloatArray:
        with self._turn:
            if self._one is None:
                raise SpecError(CLOSED)
            try:
                return np.array(self._one.infer(self._values(batch))[0], dtype=np.float32)
            except Exception as error:
                self._one = self._compiled(LATENCY).create_infer_request()  # a request that failed once fails again
                raise RuntimeUnavailable(f"OpenVINO cannot run this batch: {_reason(error)}; {RUN_FAILED}") from error

    def _each(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, FloatArray]]:
        """Each batch with its vectors, in the order they finish; fewer than ``MANY`` run one after the other."""
        waiting, room = list(batches), stream_room(self._threads)
        large = [batch for batch in waiting if batch.attention > room]
        # Streams for short texts hold a whole matrix of attention. So a few large batches run alone.
        if 0 < len(large) < MANY:
            return chain(super()._each(large), self._each([batch for batch in waiting if batch.attention <= room]))
        if len(waiting) < MANY:
            return super()._each(waiting)
        return iter(self._in_streams(waiting))

    def _in_streams(self, batches: list[Batch]) -> list[tuple[Batch, FloatArray]]:
        done: list[tuple[Batch, FloatArray]] = []
        by_length: dict[bool, list[Batch]] = {True: [], False: []}  # True: long
        for batch in batches:
            by_length[batch.input_ids.shape[1] > LONG_TOKENS].append(batch)
        if min(map(len, by_length.values())) < MANY:
            by_length = {len(by_length[True]) > len(by_length[False]): batches}
        with self._turn:
            if self._one is None:
                raise SpecError(CLOSED)
            for long, part in by_length.items():
                if long not in self._many:
                    self._many[long] = self._streams(LONG if long else SHORT)
                try:
                    for batch in part:
                        self._many[long].start_async(self._values(batch), (batch, done))
                    self._many[long].wait_all()
                except Exception as error:
                    del self._many[long]  # its requests raise the same error again
                    raise RuntimeUnavailable(
                        f"OpenVINO cannot run this batch: {_reason(error)}; {RUN_FAILED}"
                    ) from error
        return done

    def _streams(self, hints: dict[str, str]) -> Any:
        compiled = self._compiled(hints)
        # There are two requests per stream, so that the next one is waiting when a stream has finished one.
        queue = self._queue_type(compiled, 2 * compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        queue.set_callback(lambda request, userdata: userdata[1].append((userdata[0], _output(request))))
        return queue

    def _values(self, batch: Batch) -> dict[str, Any]:
        return {name: getattr(batch, name) for name in self._inputs}

    def _close(self) -> None:
        with self._turn:
            self._one = self._model = None
            self._many = {}


def _output(request: Any) -> FloatArray:
    return np.array(request.get_output_tensor(0).data, dtype=np.float32)  # a copy: the request is reused


def _reason(error: Exception) -> str:
    """The first line that says what happened; lines before it name places in OpenVINO's sources."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from ")]
    return lines[0].strip() if lines else type(error).__name__
