"""``Encoder.stream``: parts in order, in the memory of one part; and arrays written part by part."""

import io
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from m2d_export import Bundle, Encoder
from m2d_export import encoder as encoding
from m2d_export.errors import InputError, SpecError
from m2d_export.vectors import write_npy

TEXTS = [f"the {word} is {count}" for count in range(9) for word in ("cat", "dog", "man")]


def test_the_parts_together_are_the_vectors_of_encode(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "WINDOW", 10)
    with Encoder(bundle, 2, 32) as encoder:
        parts = list(encoder.stream(iter(TEXTS)))
        assert [len(part) for part in parts] == [10, 10, 7]
        np.testing.assert_array_equal(np.concatenate(parts), encoder.encode(TEXTS))


def test_texts_are_read_one_part_at_a_time(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_wrong_use_raises_at_the_call_and_an_invalid_text_in_its_part(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "WINDOW", 10)
    with Encoder(bundle, 1) as encoder:
        with pytest.raises(InputError, match="str"):
            encoder.stream("a cat")
        with pytest.raises(SpecError, match="none"):
            encoder.stream(["a cat"], prompt_name="none")
        parts = encoder.stream([*TEXTS, None])  # type: ignore[list-item]
        assert len(next(parts)) == 10
        next(parts)
        with pytest.raises(InputError) as caught:
            next(parts)
        assert caught.value.index == 27


@pytest.mark.parametrize("counts", [[], [0], [3], [2, 0, 5], [99_999, 2]])
def test_numpy_reads_an_array_that_was_written_in_parts(counts: list[int]) -> None:
    parts = [np.random.default_rng(place).random((count, 3), dtype=np.float32) for place, count in enumerate(counts)]
    file = io.BytesIO()
    assert write_npy(file, iter(parts), 3) == sum(counts)
    file.seek(0)
    np.testing.assert_array_equal(np.load(file), np.concatenate([np.empty((0, 3), np.float32), *parts]))


def many_texts(count: int) -> Iterator[str]:
    """Short texts of a few lengths; no two are equal."""
    return (f"text {number} of many" + " and more" * (number % 4) for number in range(count))


def test_python_holds_one_part_at_a_time(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "WINDOW", 256)
    peaks = []
    with Encoder(bundle, 1) as encoder:
        tracemalloc.start()
        try:
            for _ in encoder.stream(many_texts(20 * 256)):
                peaks.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.reset_peak()
        finally:
            tracemalloc.stop()
    assert len(peaks) == 20
    assert max(peaks[10:]) < 1.2 * max(peaks[1:10])  # the first part also fills caches


@pytest.mark.slow
def test_memory_of_the_process_does_not_grow_with_the_texts(bundle: Bundle) -> None:
    """``python -m benchmarks.stream`` does the same with a million texts."""

    def resident_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    memory = []
    with Encoder(bundle, 1) as encoder:
        for part in encoder.stream(many_texts(100_000)):
            assert part.shape[1] == encoder.cell.dim
            memory.append(resident_mb())
    assert memory[-1] - memory[len(memory) // 3] < 10  # the vectors of these texts would take 17 MB
