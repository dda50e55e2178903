"""Walk the grid of a bundle: one record per result, in the form of docs/results-format.md, skipping what is done."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import product

from m2d_export.bench import cost
from m2d_export.bench.quality import Measure, Reference
from m2d_export.bench.records import Record, key_of
from m2d_export.bundle.bundle import Bundle
from m2d_export.encoder import Encoder
from m2d_export.engines.engine import LIBRARIES
from m2d_export.errors import M2DError, SpecError
from m2d_export.host.extras import require
from m2d_export.host.machine import machine
from m2d_export.runtimes import check_runtime
from m2d_export.spec import RUNTIMES

Report = Callable[[str], None]
FAILURES = (M2DError, MemoryError)  # what is recorded; anything else is an error of this program


@dataclass(frozen=True)
class Way:
    """A way to run exits: what their weights are stored in, what runs them and multiplies in what; threads or all."""

    precision: str
    runtime: str
    compute: str
    threads: int | None

    @property
    def options(self) -> Record:
        """What opens an exit."""
        return {key: getattr(self, key) for key in ("runtime", "precision", "compute", "threads")}

    def named(self, layer: int) -> Record:
        """What tells an exit that is run this way from others, in its records."""
        fields = {"layer": layer, "precision": self.precision, "runtime": self.runtime, "compute": self.compute}
        return {**fields, "threads": self.threads or machine()["cores"]}


@dataclass(frozen=True)
class Matrix:
    """What to measure: the quality of layers x dims, the cost of layers x batch sizes x tokens, in every way."""

    layers: tuple[int, ...]
    dims: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    tokens: tuple[int, ...]
    runtimes: tuple[str, ...] = ("onnxrt",)
    precisions: tuple[str, ...] = ("fp32",)
    computes: tuple[str, ...] = ()  # none: what each runtime does untold
    threads: int | None = None

    def checked(self, bundle: Bundle) -> "Matrix":
        """Itself, if every combination can be measured; SpecError or RuntimeUnavailable names one that cannot."""
        for layer, precision in product(self.layers, self.precisions):
            bundle.entry(layer, precision)
        for way in self.ways:
            check_runtime(way.runtime, way.precision, way.compute)
            if way.runtime in LIBRARIES:
                for layer in self.layers:
                    bundle.variant(layer, way.precision).engine(way.runtime)
        for dim in self.dims:
            bundle.grid.check_dim(dim)
        for count in self.tokens:
            if not 3 <= count <= bundle.manifest.text.max_tokens:
                raise SpecError(f"tokens {count}: this checkpoint reads 3 to {bundle.manifest.text.max_tokens}")
        if min(self.batch_sizes) < 1:
            raise SpecError(f"batch size {min(self.batch_sizes)}: at least 1")
        return self

    @property
    def ways(self) -> list[Way]:
        """Every precision x runtime x compute."""
        return [
            Way(precision, runtime, compute or _untold(runtime, precision), self.threads)
            for precision, runtime, compute in product(self.precisions, self.runtimes, self.computes or ("",))
        ]


@dataclass(frozen=True)
class Sweep:
    """A walk: ``done`` holds the keys of records not to measure again, ``command`` is written into every record.

    ``texts`` are what latency and memory are measured on: keep them the same, for no record says what they were.
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
        for way in self.matrix.ways:
            yield from self._quality(way)
        yield from self._latencies()
        yield from self._memory()

    def _quality(self, way: Way) -> Iterator[Record]:
        full, layers = self.bundle.grid.full, sorted(self.matrix.layers, reverse=True)
        missing = {layer: self._missing(self._skeletons(way, layer, *self.measures)) for layer in layers}
        if not any(missing.values()):
            return
        require("scipy.stats", "bench")  # or every layer would fail for want of it, one after the other
        self.report(f"vectors of the full cell, {full}{self._of(way)}")
        with ExitStack() as stack:
            try:
                deep = stack.enter_context(Encoder(self.bundle, full.layer, normalize=False, **way.options))
                sets = {texts: deep.encode(texts) for part in self.measures for texts in part.texts()}
            except FAILURES as error:  # there is nothing to compare with
                for layer in layers:
                    yield from _failed(missing[layer], error)
                return
            # It stays open: what a query costs with it is timed in turn with the other layers.
            reference = Reference(full, sets, deep.encode)
            for layer in layers:
                yield from self._layer_quality(way, layer, missing[layer], reference)

    def _layer_quality(self, way: Way, layer: int, missing: list[Record], reference: Reference) -> Iterator[Record]:
        self.report(f"quality of layer {layer}{self._of(way)}")
        try:
            opened = Encoder(self.bundle, layer, normalize=False, **way.options)
        except FAILURES as error:
            yield from _failed(missing, error)
            return
        with opened as encoder:
            named = {**way.named(layer), "provider": encoder.runtime.provider}
            for part in self.measures:
                produce = partial(part.records, layer, self.matrix.dims, encoder.encode, reference)
                yield from self._guarded(self._skeletons(way, layer, part), produce, named)

    def _latencies(self) -> Iterator[Record]:
        places = list(product(self.matrix.ways, self.matrix.layers))
        exits: list[tuple[Record, Encoder]] = []
        broken: list[tuple[Record, Exception]] = []
        with ExitStack() as stack:
            for batch_size, tokens in product(self.matrix.batch_sizes, self.matrix.tokens):
                shape = {"kind": "latency", "batch_size": batch_size, "tokens": tokens}
                if not self._missing(_timed(shape, [way.named(layer) for way, layer in places])):
                    continue
                if not exits and not broken:  # all open at once, so that their calls alternate
                    for way, layer in places:
                        try:
                            encoder = stack.enter_context(Encoder(self.bundle, layer, **way.options))
                            exits.append((way.named(layer), encoder))
                        except FAILURES as error:
                            broken.append((way.named(layer), error))
                for named, reason in broken:
                    yield from _failed(self._missing(_timed(shape, [named])), reason)
                self.report(f"latency of {batch_size} x {tokens} tokens")
                produce = partial(cost.latencies, self.bundle, exits, batch_size, tokens, self.texts)
                yield from self._guarded(_timed(shape, [named for named, _ in exits]), produce, {})

    def _memory(self) -> Iterator[Record]:
        for way, layer in product(self.matrix.ways, self.matrix.layers):
            skeletons = [{"kind": "memory", **way.named(layer)}]
            if self._missing(skeletons):
                self.report(f"memory of layer {layer}{self._of(way)}")
                produce = partial(cost.memory, self.bundle, layer, self.texts, way.options)
                yield from self._guarded(skeletons, produce, way.named(layer))

    def _guarded(
        self, skeletons: list[Record], produce: Callable[[], Iterable[Record]], named: Record
    ) -> Iterator[Record]:
        """What ``produce`` yields, made whole; and a record of what it has not yielded when it fails or is stopped."""
        waiting = {key_of(record): record for record in self._missing(skeletons)}
        if not waiting:
            return
        try:
            for record in produce():
                whole = self._common({**named, **record})
                if waiting.pop(key_of(whole), None):  # what is done is not written again
                    yield {**whole, "status": "ok"}
        except FAILURES as error:
            yield from _failed(waiting.values(), error)
        except KeyboardInterrupt:
            for record in waiting.values():
                yield {**record, "status": "interrupted", "error": "interrupted"}
            raise

    def _skeletons(self, way: Way, layer: int, *parts: Measure) -> list[Record]:
        skeletons = [
            record for part in parts for record in part.skeletons(layer, self.matrix.dims, self.bundle.grid.full)
        ]
        return [{**way.named(layer), **record} for record in skeletons]

    def _missing(self, skeletons: Iterable[Record]) -> list[Record]:
        """Those of the records that are not done, made whole but for their figures."""
        whole = [self._common(skeleton) for skeleton in skeletons]
        return [record for record in whole if key_of(record) not in self.done]

    def _common(self, record: Record) -> Record:
        grid = self.bundle.grid
        found = {
            "provider": None,
            **record,
            "bundle": self.bundle.id,
            "architecture": self.bundle.manifest.architecture,
            "fingerprint": self.bundle.manifest.origin.fingerprint,
            "depth": grid.depth,
            "width": grid.width,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": machine(),
            "command": self.command,
        }
        if "dim" in record:
            found["trained_layer"] = self.bundle.manifest.is_trained_layer(record["layer"])
            found["trained_dim"] = record["dim"] in grid.trained_dims
        return found

    def _of(self, way: Way) -> str:
        """Which way it is, where there are several."""
        several = len(self.matrix.ways) > 1
        return f", {way.precision} in {way.runtime}, computed in {way.compute}" if several else ""


def _untold(runtime: str, precision: str) -> str:
    return RUNTIMES[runtime].compute(precision) if runtime in RUNTIMES else ""


def _timed(shape: Record, exits: Iterable[Record]) -> list[Record]:
    return [{**shape, **named, "scope": scope} for scope in cost.SCOPES for named in exits]


def _failed(records: Iterable[Record], error: Exception) -> Iterator[Record]:
    for record in records:
        yield {**record, "status": "failed", "error": str(error) or type(error).__name__}
