"""Measure the grid of a bundle. Each new result becomes one record (docs/results-format.md)."""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import product

from m2d_export.bench import cost
from m2d_export.bench.bm25 import Bm25
from m2d_export.bench.deep_index import DeepIndex
from m2d_export.bench.encoded import Encoded
from m2d_export.bench.quality import Measure, Reference
from m2d_export.bench.record_schema import FORMAT
from m2d_export.bench.records import Record, key_of
from m2d_export.bench.values import Setup
from m2d_export.bundle.disk import Bundle
from m2d_export.encoder import Encoder
from m2d_export.engines.library import LIBRARIES
from m2d_export.errors import M2DError, SpecError
from m2d_export.host.extras import require
from m2d_export.host.machine import machine
from m2d_export.plan import Progress, no_progress
from m2d_export.runtimes.table import RUNTIMES, check_runtime

FOLDERS = re.compile(r"(?<![^\s'\"(])/(?:[^/\s'\"]+/)+")  # removed from records, because other people read them
FAILURES = (M2DError, MemoryError)  # these are recorded; any other exception is a bug and stops the sweep


@dataclass(frozen=True)
class Matrix:
    """What to measure in every setup: the quality of layers x dims, and the cost of layers x batch sizes x tokens.

    If ``computes`` is empty, each runtime computes in its default type. If ``threads`` is None, each runtime uses
    one thread per core.
    """

    layers: tuple[int, ...]
    dims: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    tokens: tuple[int, ...]
    runtimes: tuple[str, ...] = ("onnxrt",)
    precisions: tuple[str, ...] = ("fp32",)
    computes: tuple[str, ...] = ()
    threads: int | None = None

    def checked(self, bundle: Bundle) -> "Matrix":
        """This matrix, if all of it can be measured; else raises SpecError or RuntimeUnavailable."""
        for layer, precision in product(self.layers, self.precisions):
            bundle.entry(layer, precision)
        for setup in self.setups:
            check_runtime(setup.runtime, setup.precision, setup.compute)
            if setup.runtime in LIBRARIES:
                for layer in self.layers:
                    bundle.variant(layer, setup.precision).engine(setup.runtime)
        for dim in self.dims:
            bundle.grid.check_dim(dim)
        for count in self.tokens:
            if not 3 <= count <= bundle.manifest.text.max_tokens:
                longest = bundle.manifest.text.max_tokens
                raise SpecError(
                    f"tokens {count} is out of range: choose 3 to {longest}. This checkpoint reads at most {longest}"
                )
        if min(self.batch_sizes) < 1:
            raise SpecError(f"batch size {min(self.batch_sizes)} is out of range: choose 1 or more")
        return self

    @property
    def setups(self) -> list[Setup]:
        """Every precision x runtime x compute; the provider is empty, because it is unknown until an exit is open."""
        return [
            Setup(precision, runtime, compute or _default_compute(runtime, precision), "", self.threads)
            for precision, runtime, compute in product(self.precisions, self.runtimes, self.computes or ("",))
        ]


@dataclass(frozen=True)
class Sweep:
    """What to measure, and how; ``records`` measures it.

    ``done`` has the keys of records that are not measured again. ``command`` is put into every record. Latency and
    memory are measured on ``texts``. These must always be the same, because the records do not name them. If some of
    ``measures`` search in an index, ``index`` is this index.
    """

    bundle: Bundle
    matrix: Matrix
    measures: tuple[Measure, ...]
    texts: tuple[str, ...]
    command: str = ""
    bm25: tuple[Bm25, ...] = ()
    index: DeepIndex | None = None
    done: frozenset[str] = frozenset()
    progress: Progress = no_progress

    def records(self) -> Iterator[Record]:
        """Yield each record when it is measured; if one measurement fails, its record says so, and the others go on."""
        for search in self.bm25:
            self.progress(f"BM25 in {search.language}")
            yield from self._attempt(search.plan(), search.records, {})
        for setup in self.matrix.setups:
            yield from self._quality(setup)
        yield from self._latencies()
        yield from self._memory()

    def _quality(self, setup: Setup) -> Iterator[Record]:
        full, layers = self.bundle.grid.full, sorted(self.matrix.layers, reverse=True)
        missing = {layer: self._missing(self._plan(setup, layer, *self.measures)) for layer in layers}
        if not any(missing.values()):
            return
        require("scipy.stats", "bench")  # checked before the first layer, because without scipy every layer would fail
        self.progress(f"vectors of the full cell, {full}{self._suffix(setup)}")
        with ExitStack() as stack:
            try:
                deep = stack.enter_context(
                    Encoder(self.bundle, full.layer, full.dim, normalize=False, **_options(setup))
                )
                exit_ = Encoded(deep, self.bundle.manifest.text)
                sets = [texts for measure in self.measures for texts in measure.texts()]
                for texts in sets:
                    exit_.vectors(texts)
            except FAILURES as error:  # without the full cell there is nothing to compare with
                for layer in layers:
                    yield from _failed(missing[layer], error)
                return
            # The full cell stays open, because its queries and those of the other layers take turns.
            reference = Reference(full, exit_)
            if self.index and self.index.is_own and setup.precision == setup.compute == "fp32":
                self.index.keep(exit_, sets)
            for layer in layers:
                yield from self._layer_quality(setup, layer, missing[layer], reference)

    def _layer_quality(self, setup: Setup, layer: int, missing: list[Record], reference: Reference) -> Iterator[Record]:
        self.progress(f"quality of layer {layer}{self._suffix(setup)}")
        try:
            opened = Encoder(self.bundle, layer, self.bundle.grid.width, normalize=False, **_options(setup))
        except FAILURES as error:
            yield from _failed(missing, error)
            return
        with opened as encoder:
            identity = {**_identity(setup, layer), "provider": encoder.runtime.provider}
            exit_ = Encoded(encoder, self.bundle.manifest.text)
            for measure in self.measures:
                produce = partial(measure.records, layer, self.matrix.dims, exit_, reference)
                yield from self._attempt(self._plan(setup, layer, measure), produce, identity)

    def _latencies(self) -> Iterator[Record]:
        places = list(product(self.matrix.setups, self.matrix.layers))
        exits: list[tuple[Record, Encoder]] = []
        broken: list[tuple[Record, Exception]] = []
        with ExitStack() as stack:
            for batch_size, tokens in product(self.matrix.batch_sizes, self.matrix.tokens):
                shape = {"kind": "latency", "batch_size": batch_size, "tokens": tokens}
                if not self._missing(_latency_plan(shape, [_identity(setup, layer) for setup, layer in places])):
                    continue
                if not exits and not broken:  # all exits are open at the same time, so that their calls can take turns
                    for setup, layer in places:
                        try:
                            encoder = stack.enter_context(Encoder(self.bundle, layer, **_options(setup)))
                            exits.append((_identity(setup, layer), encoder))
                        except FAILURES as error:
                            broken.append((_identity(setup, layer), error))
                for identity, reason in broken:
                    yield from _failed(self._missing(_latency_plan(shape, [identity])), reason)
                self.progress(f"latency of {batch_size} x {tokens} tokens")
                produce = partial(cost.latencies, self.bundle, exits, batch_size, tokens, self.texts)
                yield from self._attempt(_latency_plan(shape, [identity for identity, _ in exits]), produce, {})

    def _memory(self) -> Iterator[Record]:
        for setup, layer in product(self.matrix.setups, self.matrix.layers):
            identity = _identity(setup, layer)
            plan: list[Record] = [{"kind": "memory", **identity}]
            if self._missing(plan):
                self.progress(f"memory of layer {layer}{self._suffix(setup)}")
                produce = partial(cost.memory, self.bundle, layer, self.texts, _options(setup))
                yield from self._attempt(plan, produce, identity)

    def _attempt(
        self, plan: list[Record], produce: Callable[[], Iterable[Record]], identity: Record
    ) -> Iterator[Record]:
        """The records that ``produce`` yields; if it fails or is interrupted, also a record of each missing result."""
        waiting = {key_of(record): record for record in self._missing(plan)}
        if not waiting:
            return
        try:
            for record in produce():
                complete = self._complete({**identity, **record})
                if waiting.pop(key_of(complete), None):  # records that are done are not written again
                    yield {**complete, "status": "ok"}
        except FAILURES as error:
            yield from _failed(waiting.values(), error)
        except KeyboardInterrupt:
            for record in waiting.values():
                yield {**record, "status": "interrupted", "error": "interrupted"}
            raise

    def _plan(self, setup: Setup, layer: int, *measures: Measure) -> list[Record]:
        dims, full = self.matrix.dims, self.bundle.grid.full
        return [
            {**_identity(setup, layer), **record} for measure in measures for record in measure.plan(layer, dims, full)
        ]

    def _missing(self, plan: Iterable[Record]) -> list[Record]:
        """The planned records that are not done; they have all fields except status and values."""
        complete = [self._complete(record) for record in plan]
        return [record for record in complete if key_of(record) not in self.done]

    def _complete(self, record: Record) -> Record:
        grid = self.bundle.grid
        found = {
            "format": FORMAT,
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

    def _suffix(self, setup: Setup) -> str:
        """The setup in words, for a progress message; empty if there is only one setup."""
        several = len(self.matrix.setups) > 1
        return f", {setup.precision} in {setup.runtime}, computed in {setup.compute}" if several else ""


def _default_compute(runtime: str, precision: str) -> str:
    """The runtime's default type; empty for an unknown runtime, which ``check_runtime`` refuses."""
    return RUNTIMES[runtime].default_compute(precision) if runtime in RUNTIMES else ""


def _options(setup: Setup) -> Record:
    return {key: getattr(setup, key) for key in ("runtime", "precision", "compute", "threads")}


def _identity(setup: Setup, layer: int) -> Record:
    """The fields that identify an exit in its records."""
    return {"layer": layer, **_options(setup), "threads": setup.threads or machine()["cores"]}


def _latency_plan(shape: Record, identities: Iterable[Record]) -> list[Record]:
    return [{**shape, **identity, "scope": scope} for scope in cost.SCOPES for identity in identities]


def _failed(records: Iterable[Record], error: Exception) -> Iterator[Record]:
    for record in records:
        reason = FOLDERS.sub("", str(error)) or type(error).__name__
        yield {**record, "status": "failed", "error": reason}
