"""Measure what exits cost: the latency of the graph, the latency from text to vector, and the peak memory."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from m2d_export.bench.records import Record
from m2d_export.bench.timing import measure
from m2d_export.bundle.disk import Bundle
from m2d_export.encoder import Encoder
from m2d_export.errors import RuntimeUnavailable
from m2d_export.text.batches import Batch, pad
from m2d_export.text.tokenizer import TokenIds

SECONDS_PER_SHAPE = 3.0  # the time for all exits together; the minimum number of rounds can take longer
SCOPES = ("graph", "text")


def latencies(
    bundle: Bundle, exits: Sequence[tuple[Record, Encoder]], batch_size: int, tokens: int, texts: Sequence[str]
) -> Iterator[Record]:
    """Measure two latencies of every exit: of its graph, and from text to vector.

    Each batch has ``batch_size`` texts of ``tokens`` tokens. The calls of all exits take turns. ``exits`` has open
    encoders. Each comes with the fields that identify it in its records.
    """
    batch = full_batch(bundle, texts, batch_size, tokens)
    filled = full_texts(bundle, texts, batch_size, tokens)
    calls: list[Callable[[], object]] = [partial(encoder.runtime.vectors, batch) for _, encoder in exits]
    calls += [partial(encoder.encode, filled) for _, encoder in exits]
    places = [(scope, identity, encoder.runtime.provider) for scope in SCOPES for identity, encoder in exits]
    runtimes = [identity["runtime"] for _, identity, _ in places]
    # There is a pause where the runtime changes. The call before call 0 is the last call of a round, at index -1.
    pauses = {place for place, runtime in enumerate(runtimes) if runtime != runtimes[place - 1]}
    for (scope, identity, provider), latency in zip(places, measure(calls, SECONDS_PER_SHAPE, pauses), strict=True):
        yield {
            **identity,
            "kind": "latency",
            "provider": provider,
            "batch_size": batch_size,
            "tokens": tokens,
            "scope": scope,
            "seconds": list(latency.seconds),
            "p50_ms": latency.p50 * 1e3,
            "p95_ms": latency.percentile(95) * 1e3,
            "p99_ms": latency.percentile(99) * 1e3,
            "sentences_per_second": batch_size / latency.p50,
            "spread": latency.spread,
            "noisy": latency.noisy,
        }


def full_batch(bundle: Bundle, texts: Sequence[str], batch_size: int, tokens: int) -> Batch:
    """Make a batch without padding: ``batch_size`` rows, each with ``tokens`` tokens of the joined texts."""
    encoded = bundle.tokenizer.encode(texts[: 4 * batch_size + tokens])
    opening, closing = encoded[0].ids[0], encoded[0].ids[-1]
    body = [token for item in encoded for token in item.ids[1:-1]] or [opening]
    running = np.resize(np.array(body), (batch_size, tokens - 2)).tolist()
    rows = [TokenIds([opening, *row, closing]) for row in running]
    return pad(rows, bundle.manifest.text, range(batch_size))


def full_texts(bundle: Bundle, texts: Sequence[str], batch_size: int, tokens: int) -> list[str]:
    """Cut ``batch_size`` texts from the joined texts. Each has as many words as fit in ``tokens`` tokens."""
    words = " ".join(texts).split()
    prompt = bundle.tokenizer.spec.prompt(None, None)  # encode puts the prompt before every text
    found = []
    for row in range(batch_size):
        start = row * tokens % len(words)
        running = (words[start:] + words) * (1 + tokens // len(words))
        tries = [" ".join(running[:count]) for count in range(tokens)]
        lengths = [len(item.ids) for item in bundle.tokenizer.encode(tries, prompt)]
        found.append(tries[max(sum(length <= tokens for length in lengths) - 1, 0)])
    return found


def memory(bundle: Bundle, layer: int, texts: Sequence[str], options: Record) -> Iterator[Record]:
    """Measure the peak memory of a new process that opens one exit and encodes ``texts``.

    Raises RuntimeUnavailable if the process fails.
    """
    place = {"bundle": str(bundle.root), "checkpoint": bundle.checkpoint}
    job = json.dumps({**place, "layer": layer, "texts": list(texts), **options})
    child = subprocess.run(
        [sys.executable, "-m", "m2d_export.bench.memory"], input=job, capture_output=True, text=True, check=False
    )
    if child.returncode:
        reason = (child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
        raise RuntimeUnavailable(f"the process that measures memory failed: {reason}")
    yield {"kind": "memory", "layer": layer, **json.loads(child.stdout)}
