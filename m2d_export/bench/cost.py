"""Records of what exits cost: latency of the graph alone and with its texts, and peak memory."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product

import numpy as np

from m2d_export.bench.records import Record
from m2d_export.bench.timing import measure
from m2d_export.bundle.bundle import Bundle
from m2d_export.encoder import Encoder
from m2d_export.errors import RuntimeUnavailable
from m2d_export.text.batches import Batch, TokenIds, batches, pad

SECONDS_PER_SHAPE = 3.0  # for all layers together, beyond the least number of rounds
SCOPES = ("graph", "text")


def latencies(
    bundle: Bundle, exits: Sequence[tuple[Record, Encoder]], batch_size: int, tokens: int, texts: Sequence[str]
) -> Iterator[Record]:
    """Latency of every open exit at one shape, of the graph alone and from text to vector, their calls alternating.

    Each of ``exits`` is what names an exit in its records, and the exit.
    """
    batch = full_batch(bundle, texts, batch_size, tokens)
    filled = full_texts(bundle, texts, batch_size, tokens)
    prompted = bundle.tokenizer.encode(filled, bundle.tokenizer.spec.prompt(None, None))
    for kind, (_, encoder) in product((batch, *batches(prompted, bundle.manifest.text)), exits):
        encoder.runtime.settle(kind)
    calls: list[Callable[[], object]] = [partial(encoder.runtime.vectors, batch) for _, encoder in exits]
    calls += [partial(encoder.encode, filled) for _, encoder in exits]
    places = [(scope, named, encoder.runtime.provider) for scope in SCOPES for named, encoder in exits]
    runtimes = [named["runtime"] for _, named, _ in places]
    rests = {place for place, runtime in enumerate(runtimes) if runtime != runtimes[place - 1]}  # rounds follow rounds
    for (scope, named, provider), latency in zip(places, measure(calls, SECONDS_PER_SHAPE, rests), strict=True):
        sentences = batch_size * len(latency.seconds)
        yield {
            **named,
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
            "joules_per_sentence": None if latency.joules is None else latency.joules / sentences,
        }


def full_batch(bundle: Bundle, texts: Sequence[str], batch_size: int, tokens: int) -> Batch:
    """A batch without padding: ``batch_size`` rows of just ``tokens`` tokens, from running text."""
    encoded = bundle.tokenizer.encode(texts[: 4 * batch_size + tokens])
    opening, closing = encoded[0].ids[0], encoded[0].ids[-1]
    body = [token for item in encoded for token in item.ids[1:-1]] or [opening]
    running = np.resize(np.array(body), (batch_size, tokens - 2)).tolist()
    rows = [TokenIds([opening, *row, closing]) for row in running]
    return pad(rows, bundle.manifest.text, range(batch_size))


def full_texts(bundle: Bundle, texts: Sequence[str], batch_size: int, tokens: int) -> list[str]:
    """``batch_size`` texts of running words, each the longest that is at most ``tokens`` tokens."""
    words = " ".join(texts).split()
    prompt = bundle.tokenizer.spec.prompt(None, None)  # encode puts it before every text: it counts
    found = []
    for row in range(batch_size):
        start = row * tokens % len(words)
        running = (words[start:] + words) * (1 + tokens // len(words))
        tries = [" ".join(running[:count]) for count in range(tokens)]
        lengths = [len(item.ids) for item in bundle.tokenizer.encode(tries, prompt)]
        found.append(tries[max(sum(length <= tokens for length in lengths) - 1, 0)])
    return found


def memory(bundle: Bundle, layer: int, texts: Sequence[str], options: Record) -> Iterator[Record]:
    """Peak memory of a fresh process that opens one exit and encodes ``texts``; raises RuntimeUnavailable."""
    job = json.dumps({"bundle": str(bundle.root), "layer": layer, "texts": list(texts), **options})
    child = subprocess.run(
        [sys.executable, "-m", "m2d_export.bench.memory"], input=job, capture_output=True, text=True, check=False
    )
    if child.returncode:
        reason = (child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
        raise RuntimeUnavailable(f"the process that measures memory has failed: {reason}")
    yield {"kind": "memory", "layer": layer, **json.loads(child.stdout)}
