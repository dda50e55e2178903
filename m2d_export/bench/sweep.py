"""Walk the grid of a bundle: one record per result, with the machine, the versions and the raw seconds in it."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from m2d_export.batching import Batch, TokenIds, pad
from m2d_export.bench.sts import Pairs
from m2d_export.bench.timing import measure
from m2d_export.bundle import Bundle
from m2d_export.encoder import Encoder
from m2d_export.errors import SpecError
from m2d_export.machine import machine
from m2d_export.runtimes import Runtime, open_runtime
from m2d_export.spec import Precision

SECONDS_PER_SHAPE = 3.0  # for all layers together, beyond the least number of rounds
Record = dict[str, Any]
Report = Callable[[str], None]


@dataclass(frozen=True)
class Matrix:
    """What to measure: the score of layers x dims, the latency of layers x batch sizes x tokens."""

    layers: tuple[int, ...]
    dims: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    tokens: tuple[int, ...]
    runtime: str = "onnxrt"
    precision: Precision = Precision.FP32
    threads: int | None = None

    def checked(self, bundle: Bundle) -> "Matrix":
        """Itself, if ``bundle`` has all of it, and has it sound; SpecError or IntegrityError names what it lacks."""
        for layer in self.layers:
            bundle.variant(layer, self.precision)
        for dim in self.dims:
            bundle.grid.check_dim(dim)
        for count in self.tokens:
            if not 3 <= count <= bundle.manifest.text.max_tokens:
                raise SpecError(f"tokens {count}: this checkpoint reads 3 to {bundle.manifest.text.max_tokens}")
        if min(self.batch_sizes) < 1:
            raise SpecError(f"batch size {min(self.batch_sizes)}: at least 1")
        return self


def sweep(bundle: Bundle, matrix: Matrix, pairs: Pairs, report: Report = lambda step: None) -> Iterator[Record]:
    """Measure ``matrix`` and yield each record as it is made: scores layer by layer, then latencies shape by shape."""
    yield from _scores(bundle, matrix, pairs, report)
    yield from _latencies(bundle, matrix, pairs, report)


def _scores(bundle: Bundle, matrix: Matrix, pairs: Pairs, report: Report) -> Iterator[Record]:
    for layer in matrix.layers:
        report(f"scores of layer {layer}")
        options = {"runtime": matrix.runtime, "precision": matrix.precision, "threads": matrix.threads}
        with Encoder(bundle, layer, normalize=False, **options) as encoder:  # type: ignore[arg-type]
            started = time.perf_counter()
            vectors = encoder.encode(pairs.texts)
            seconds = time.perf_counter() - started
            provider = encoder.provider
        for dim in matrix.dims:
            yield {
                **_common(bundle, matrix, provider, "score", layer),
                "dim": dim,
                "trained_dim": dim in bundle.grid.trained_dims,
                "sts": pairs.name,
                "pairs": len(pairs.scores),
                "spearman": pairs.spearman(vectors, dim),
                "texts": len(pairs.texts),
                "encode_seconds": seconds,
            }


def _latencies(bundle: Bundle, matrix: Matrix, pairs: Pairs, report: Report) -> Iterator[Record]:
    with ExitStack() as stack:
        runtimes: list[Runtime] = []
        for layer in matrix.layers:
            variant = bundle.variant(layer, matrix.precision)
            runtimes.append(stack.enter_context(open_runtime(matrix.runtime, variant, matrix.threads)))
        for batch_size in matrix.batch_sizes:
            for tokens in matrix.tokens:
                report(f"latency of {batch_size} x {tokens} tokens")
                batch = full_batch(bundle, pairs.texts, batch_size, tokens)
                calls = [partial(runtime.vectors, batch) for runtime in runtimes]
                latencies = measure(calls, SECONDS_PER_SHAPE)
                for layer, runtime, latency in zip(matrix.layers, runtimes, latencies, strict=True):
                    yield {
                        **_common(bundle, matrix, runtime.provider, "latency", layer),
                        "batch_size": batch_size,
                        "tokens": tokens,
                        "seconds": list(latency.seconds),
                        "p50_ms": latency.p50 * 1e3,
                        "p95_ms": latency.percentile(95) * 1e3,
                        "p99_ms": latency.percentile(99) * 1e3,
                        "sentences_per_second": batch_size / latency.p50,
                    }


def full_batch(bundle: Bundle, texts: Sequence[str], batch_size: int, tokens: int) -> Batch:
    """A batch without padding: ``batch_size`` rows of just ``tokens`` tokens, from running text of the pairs."""
    encoded = bundle.tokenizer.encode(texts[: 4 * batch_size + tokens])
    opening, closing = encoded[0].ids[0], encoded[0].ids[-1]
    body = [token for item in encoded for token in item.ids[1:-1]] or [opening]
    needed = batch_size * (tokens - 2)
    running = np.resize(np.array(body), needed).reshape(batch_size, tokens - 2).tolist()
    rows = [TokenIds([opening, *row, closing]) for row in running]
    return pad(rows, bundle.manifest.text, range(batch_size))


def _common(bundle: Bundle, matrix: Matrix, provider: str, kind: str, layer: int) -> Record:
    return {
        "kind": kind,
        "bundle": bundle.id,
        "architecture": bundle.manifest.architecture,
        "fingerprint": bundle.manifest.origin.fingerprint,  # and no name: a local one is a path
        "layer": layer,
        "precision": str(matrix.precision),
        "runtime": matrix.runtime,
        "provider": provider,
        "threads": matrix.threads or machine()["cores"],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
    }
