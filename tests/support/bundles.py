"""Changed copies of bundles and manifests, and the refusal to open them."""

import hashlib
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from m2d_export import Bundle
from m2d_export.bundle.manifest import MANIFEST
from m2d_export.errors import ManifestError

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "bundle-format.schema.json").read_text(encoding="utf-8"))
WEIGHTS, TOKENIZER = "graphs/weights.fp32.bin", "tokenizer.json"
GRAPHS = {f"graphs/layer-0{layer}.fp32.onnx": layer for layer in (1, 2, 3)}
FILES = [*GRAPHS, WEIGHTS, TOKENIZER]
TEXTS = ["A man is playing a guitar.", "", "The cat sat on the mat. " * 9]

DELETE: Any = object()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail if the block takes longer, instead of hanging."""

    def late(number: int, frame: object) -> None:
        pytest.fail(f"took more than {seconds} s")

    previous = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def put(data: Any, place: tuple[str | int, ...], value: Any) -> None:
    *parents, last = place
    for key in parents:
        data = data[key]
    if value is DELETE:
        del data[last]
    else:
        data[last] = value


def places(data: Any, *before: str | int) -> Iterator[tuple[str | int, ...]]:
    """The path of every value in a JSON document."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        yield (*before, key)
        if isinstance(value, dict | list):
            yield from places(value, *before, key)


def rewritten(bundle: Path, place: tuple[str | int, ...], value: Any) -> Path:
    data = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    put(data, place, value)
    (bundle / MANIFEST).write_text(json.dumps(data), encoding="utf-8")
    return bundle


def resealed(bundle: Path, name: str, data: bytes) -> Path:
    """The bundle with other bytes in a file, which its manifest now names."""
    (bundle / name).write_bytes(data)
    return rewritten(bundle, ("files", name), {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()})


def refused(bundle: Path) -> str:
    """The message of the ManifestError that opening raises; it must come quickly and be one short line."""
    with within(5), pytest.raises(ManifestError) as caught:
        Bundle.open(bundle)
    message = str(caught.value)
    assert str(bundle / MANIFEST) in message
    assert message.isprintable()
    assert len(message) < len(str(bundle)) + 500
    return message
