"""Walk the grid of a bundle: one record per result, in the form of docs/results-format.md, skipping what is done."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import product

from m2d_export.bench import cost
from m2d_export.bench.quality import Measure, Reference, text_ms
from m2d_export.bench.records import Record, key_of
from m2d_export.bundle import Bundle
from m2d_export.encoder import Encoder
from m2d_export.errors import M2DError, SpecError
from m2d_export.extras import require
from m2d_export.machine import machine
from m2d_export.runtimes import Runtime
from m2d_export.spec import Precision

COMPUTE = "fp32"  # what both runtimes multiply fp32 variants in
Report = Callable[[str], None]


@dataclass(frozen=True)
class Matrix:
    """What to measure: the quality of layers x dims, the cost of layers x batch sizes x tokens."""

    layers: tuple[int, ...]
    dims: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    tokens: tuple[int, ...]
    runtime: str = "onnxrt"
    precision: Precision = Precision.FP32
    threads: int | None = None

    def checked(self, bundle: Bundle) -> "Matrix":
        """Itself, if ``bundle`` has all of it; SpecError names what it lacks."""
        for layer in self.layers:
            bundle.grid.check_layer(layer)
        for dim in self.dims:
            bundle.grid.check_dim(dim)
        for count in self.tokens:
            if not 3 <= count <= bundle.manifest.text.max_tokens:
                raise SpecError(f"tokens {count}: this checkpoint reads 3 to {bundle.manifest.text.max_tokens}")
        if min(self.batch_sizes) < 1:
            raise SpecError(f"batch size {min(self.batch_sizes)}: at least 1")
        return self

    @property
    def options(self) -> Record:
        """What opens a variant."""
        return {"runtime": self.runtime, "precision": self.precision, "threads": self.threads}


@dataclass(frozen=True)
class Sweep:
    """A walk: ``done`` holds the keys of records not to measure again, ``command`` is written into every record.

    ``texts`` are what latency and memory are measured on.
    """

    bundle: Bundle
    matrix: Matrix
    measures: tuple[Measure, ...]
    texts: tuple[str, ...]
    command: str = ""
    done: frozenset[str] = frozenset()
    report: Report = lambda step: None

    def records(self) -> Iterator[Record]:
        """Each record as it is made; what fails or is interrupted is recorded as such, and the rest goes on."""
        yield from self._quality()
        yield from self._latencies()
        yield from self._memory()

    def _quality(self) -> Iterator[Record]:
        full, dims, options = self.bundle.grid.full, self.matrix.dims, self.matrix.options
        if not any(
            self._missing(self._skeletons(layer, part)) for layer in self.matrix.layers for part in self.measures
        ):
            return
        self.report(f"vectors of the full cell, {full}")
        with Encoder(self.bundle, full.layer, normalize=False, **options) as encoder:
            require("scipy.stats", "bench")  # or every layer would fail for want of it, one after the other
            sets = {texts: encoder.encode(texts) for part in self.measures for texts in part.texts()}
            reference = Reference(full, sets, text_ms(encoder.encode, self.texts))
        for layer in sorted(self.matrix.layers, reverse=True):
            self.report(f"quality of layer {layer}")
            with Encoder(self.bundle, layer, normalize=False, **options) as encoder:
                for part in self.measures:
                    produce = partial(part.records, layer, dims, encoder.encode, reference)
                    yield from self._guarded(self._skeletons(layer, part), produce, encoder.runtime)

    def _latencies(self) -> Iterator[Record]:
        layers = self.matrix.layers
        with ExitStack() as stack:
            encoders: list[Encoder] = []
            for batch_size, tokens in product(self.matrix.batch_sizes, self.matrix.tokens):
                skeletons = [
                    {"kind": "latency", "layer": layer, "batch_size": batch_size, "tokens": tokens, "scope": scope}
                    for scope in cost.SCOPES
                    for layer in layers
                ]
                if self._missing(skeletons):
                    # All open at once, so that their calls alternate.
                    encoders = encoders or [
                        stack.enter_context(Encoder(self.bundle, layer, **self.matrix.options)) for layer in layers
                    ]
                    self.report(f"latency of {batch_size} x {tokens} tokens")
                    produce = partial(cost.latencies, self.bundle, encoders, batch_size, tokens, self.texts)
                    yield from self._guarded(skeletons, produce, encoders[0].runtime)

    def _memory(self) -> Iterator[Record]:
        for layer in self.matrix.layers:
            skeletons = [{"kind": "memory", "layer": layer}]
            if self._missing(skeletons):
                self.report(f"memory of layer {layer}")
                produce = partial(cost.memory, self.bundle, layer, self.texts, self.matrix.options)
                yield from self._guarded(skeletons, produce, None)

    def _guarded(
        self, skeletons: list[Record], produce: Callable[[], Iterable[Record]], runtime: Runtime | None
    ) -> Iterator[Record]:
        """What ``produce`` yields, made whole; and a record of what it has not yielded when it fails or is stopped."""
        waiting = {key_of(record): record for record in self._missing(skeletons)}
        if not waiting:
            return
        layer = skeletons[0].get("layer")
        try:
            for record in produce():
                whole = self._common({"layer": layer, **record}, runtime)
                if waiting.pop(key_of(whole), None):  # what is done is not written again
                    yield {**whole, "status": "ok"}
        except (M2DError, MemoryError) as error:
            for record in waiting.values():
                yield {**record, "status": "failed", "error": str(error) or type(error).__name__}
        except KeyboardInterrupt:
            for record in waiting.values():
                yield {**record, "status": "interrupted", "error": "interrupted"}
            raise

    def _skeletons(self, layer: int, part: Measure) -> list[Record]:
        skeletons = part.skeletons(layer, self.matrix.dims, self.bundle.grid.full)
        return [{"layer": layer, **record} for record in skeletons]

    def _missing(self, skeletons: Iterable[Record]) -> list[Record]:
        """Those of the records that are not done, made whole but for their figures."""
        whole = [self._common(skeleton, None) for skeleton in skeletons]
        return [record for record in whole if key_of(record) not in self.done]

    def _common(self, record: Record, runtime: Runtime | None) -> Record:
        grid, matrix = self.bundle.grid, self.matrix
        found = {
            **record,
            "bundle": self.bundle.id,
            "architecture": self.bundle.manifest.architecture,
            "fingerprint": self.bundle.manifest.origin.fingerprint,
            "depth": grid.depth,
            "width": grid.width,
            "precision": str(matrix.precision),
            "runtime": matrix.runtime,
            "compute": COMPUTE,
            "provider": runtime.provider if runtime else record.get("provider"),
            "threads": matrix.threads or machine()["cores"],
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": machine(),
            "command": self.command,
        }
        if "dim" in record:
            found["trained_dim"] = record["dim"] in grid.trained_dims
        return found
