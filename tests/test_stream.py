"""Any number of texts in the memory of a part: vectors in order, and files written as they come."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from m2d_export import Bundle, Encoder
from m2d_export import encoder as encoding
from m2d_export.errors import InputError, SpecError
from m2d_export.vectors import write_npy

TEXTS = [f"the {word} is {count}" for count in range(9) for word in ("cat", "dog", "man")]


def test_parts_are_what_encode_gives_in_order(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "WINDOW", 10)
    with Encoder(bundle, 2, 32) as encoder:
        parts = list(encoder.stream(iter(TEXTS)))
        assert [len(part) for part in parts] == [10, 10, 7]
        np.testing.assert_array_equal(np.concatenate(parts), encoder.encode(TEXTS))


def test_texts_are_read_no_further_than_the_part_at_hand(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "WINDOW", 10)
    read = 0

    def counted() -> Iterator[str]:
        nonlocal read
        for text in TEXTS:
            read += 1
            yield text

    with Encoder(bundle, 1) as encoder:
        parts = encoder.stream(counted())
        assert read == 0
        next(parts)
        assert read == 10


def test_wrong_use_is_said_at_the_call_and_a_bad_text_where_it_stands(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "WINDOW", 10)
    with Encoder(bundle, 1) as encoder:
        with pytest.raises(InputError, match="texts is one str"):
            encoder.stream("a cat")
        with pytest.raises(SpecError, match="no prompt named"):
            encoder.stream(["a cat"], prompt_name="none")
        parts = encoder.stream([*TEXTS, None])  # type: ignore[list-item]
        assert len(next(parts)) == 10
        next(parts)
        with pytest.raises(InputError, match="item 27 is NoneType"):
            next(parts)


@pytest.mark.parametrize("counts", [[], [0], [3], [2, 0, 5], [99_999, 2]])
def test_an_array_written_in_parts_is_one_that_numpy_reads(counts: list[int]) -> None:
    parts = [np.random.default_rng(place).random((count, 3), dtype=np.float32) for place, count in enumerate(counts)]
    file = io.BytesIO()
    assert write_npy(file, iter(parts), 3) == sum(counts)
    file.seek(0)
    np.testing.assert_array_equal(np.load(file), np.concatenate([np.empty((0, 3), np.float32), *parts]))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_texts(checkpoint: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.stream", str(checkpoint), "--texts", "1000000"]
    # Fewer would not do: heaps of parallel threads grow by a step or two of 2 MB in the first half, then no more.
    subprocess.run([*command, "-o", str(tmp_path / "stream.json")], check=True, cwd=Path(__file__).parent.parent)
    result = json.loads((tmp_path / "stream.json").read_text(encoding="utf-8"))
    assert result["texts"] == 1_000_000
    assert result["in_order"]
    assert result["slope_mb"] < 1
