"""OpenVINO on the CPU: one text at a time with all threads, many batches as parallel streams."""

import functools
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from m2d_export.errors import RuntimeUnavailable, SpecError
from m2d_export.host.extras import require
from m2d_export.host.machine import processor
from m2d_export.runtimes.compile_cache import compiled_bytes
from m2d_export.runtimes.runtime import CLOSED, Runtime, RuntimeOptions
from m2d_export.spec import Variant
from m2d_export.text.batches import Batch
from m2d_export.vectors import FloatArray

DEVICE = "CPU"
MANY = 16  # batches that take about as long as compiling once more, for streams
WHOLE = 160  # tokens beyond which attention is faster as one kernel
FEW = {"PERFORMANCE_HINT": "LATENCY"}
LONG = {"PERFORMANCE_HINT": "THROUGHPUT"}
# The kernel of a whole attention takes twice the time where the tokens are no multiple of 16: a tenth of a call for
# short texts. In parts it does not, but goes through memory more often.
SHORT = {**LONG, "SNIPPETS_MODE": "DISABLE"}
HINTS = {"fp32": "f32", "bf16": "bf16"}


@functools.cache
def _core() -> Any:
    """OpenVINO's core, one for the process.

    Each sets up a stack for this thread's signals, and frees it when it goes, after which it puts back the one that it
    found: of two that go in the order they came, that one is freed too, and Ctrl-C is a segmentation fault.
    """
    return require("openvino", "openvino").Core()


class OpenvinoRuntime(Runtime):
    """A graph compiled by OpenVINO for one batch at a time and, when many come, for parallel streams.

    These are compiled once for short texts and once for long ones, when there are many of them.

    ``compute`` is what floats are multiplied in, read back once compiled. Threads may share it: they take turns.
    ``cache`` is a folder to keep compiled models in.
    """

    name = "openvino"
    provider = DEVICE

    def __init__(self, variant: Variant, options: RuntimeOptions) -> None:
        ov = require("openvino", "openvino")
        self._queue_type = ov.AsyncInferQueue
        self._core = _core()
        self._hint, self._threads = HINTS[options.compute], options.threads
        if options.cache is not None and not variant.sha256:
            raise SpecError("what is kept is told apart by sha256: take the variant from Bundle.variant")
        self._cache = options.cache
        self._depends_on = {"sha256": variant.sha256, "openvino": ov.get_version(), "processor": processor()}
        self._turn = Lock()  # a request runs one batch at a time, whoever asks
        try:
            self._model = self._core.read_model(str(variant.path))
        except Exception as error:  # its own RuntimeError, with a page of text
            raise RuntimeUnavailable(f"OpenVINO cannot load {variant.path}: {_reason(error)}") from error
        self._inputs = [value.get_any_name() for value in self._model.inputs]
        self._one: Any = self._compiled(FEW).create_infer_request()
        self._many: dict[bool, Any] = {}

    @classmethod
    def check(cls, options: RuntimeOptions) -> None:
        """Raise RuntimeUnavailable where the processor cannot multiply in ``compute``: OpenVINO would use fp32."""
        if options.compute.upper() not in _core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"):
            raise RuntimeUnavailable(f"this processor does not compute in {options.compute}: leave --compute at fp32")

    def _compiled(self, hints: dict[str, str]) -> Any:
        settings = {
            "INFERENCE_PRECISION_HINT": self._hint,
            "INFERENCE_NUM_THREADS": self._threads,
            **hints,
        }
        try:
            if self._cache is None:
                compiled = self._core.compile_model(self._model, DEVICE, settings)
            else:
                compiled = self._kept(self._cache, settings)
        except RuntimeError as error:  # its own; what a cache cannot write has a name already
            raise RuntimeUnavailable(f"OpenVINO cannot compile this graph: {_reason(error)}") from error
        taken = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if taken != self._hint:
            raise RuntimeUnavailable(f"asked for {self._hint}, OpenVINO computes in {taken}")
        return compiled

    def _kept(self, folder: Path, settings: dict[str, Any]) -> Any:
        def make() -> bytes:
            exported = BytesIO()
            self._core.compile_model(self._model, DEVICE, settings).export_model(exported)
            return exported.getvalue()

        made = compiled_bytes(folder, self._depends_on | settings, make)
        return self._core.import_model(made, DEVICE, settings)

    def vectors(self, batch: Batch) -> FloatArray:
        """Full-width vectors of a batch, not normalised: (batch, width) float32."""
        with self._turn:
            if self._one is None:
                raise SpecError(CLOSED)
            try:
                return np.array(self._one.infer(self._values(batch))[0], dtype=np.float32)
            except Exception as error:
                self._one = self._compiled(FEW).create_infer_request()  # this one would raise it again
                raise RuntimeUnavailable(f"OpenVINO cannot run this batch: {_reason(error)}") from error

    def each(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, FloatArray]]:
        """Each batch with its vectors, in the order they are done; few get all threads, one after the other."""
        waiting = list(batches)
        if len(waiting) < MANY:
            return ((batch, self.vectors(batch)) for batch in waiting)
        return iter(self._in_streams(waiting))

    def _in_streams(self, batches: list[Batch]) -> list[tuple[Batch, FloatArray]]:
        done: list[tuple[Batch, FloatArray]] = []
        parts: dict[bool, list[Batch]] = {True: [], False: []}  # by whether their texts are long
        for batch in batches:
            parts[batch.input_ids.shape[1] > WHOLE].append(batch)
        if min(map(len, parts.values())) < MANY:
            parts = {len(parts[True]) > len(parts[False]): batches}
        with self._turn:
            if self._one is None:
                raise SpecError(CLOSED)
            for long, part in parts.items():
                if long not in self._many:
                    self._many[long] = self._streams(LONG if long else SHORT)
                try:
                    for batch in part:
                        self._many[long].start_async(self._values(batch), (batch, done))
                    self._many[long].wait_all()
                except Exception as error:
                    del self._many[long]  # its requests would raise it again
                    raise RuntimeUnavailable(f"OpenVINO cannot run this batch: {_reason(error)}") from error
        return done

    def _streams(self, hints: dict[str, str]) -> Any:
        compiled = self._compiled(hints)
        # Two requests a stream: whichever stream is done first finds the next batch waiting.
        queue = self._queue_type(compiled, 2 * compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        queue.set_callback(lambda request, asked: asked[1].append((asked[0], _output(request))))
        return queue

    def _values(self, batch: Batch) -> dict[str, Any]:
        return {name: getattr(batch, name) for name in self._inputs}

    def close(self) -> None:
        """Free the compiled models."""
        with self._turn:
            self._one = self._model = None
            self._many = {}


def _output(request: Any) -> FloatArray:
    return np.array(request.get_output_tensor(0).data, dtype=np.float32)  # a copy: the request is used again


def _reason(error: Exception) -> str:
    """The first line that says what happened: those before it say where in OpenVINO's sources."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from ")]
    return lines[0].strip() if lines else type(error).__name__
