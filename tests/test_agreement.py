"""Agreement without labels: what it says of equal, similar and unrelated cells, and on which files."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from m2d_export import agreement as module
from m2d_export.agreement import agreement, nearest, top, yardstick
from m2d_export.errors import DataError
from m2d_export.text.files import read_texts
from m2d_export.vectors import cosine


def vectors(count: int = 300, width: int = 32, seed: int = 0) -> NDArray:
    """Vectors whose first numbers carry the most, as an encoder's do after Matryoshka training."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, width)) * np.linspace(2, 0.2, width)).astype(np.float32)


def brute_force(matrix: NDArray, count: int) -> NDArray:
    similarities = np.stack([cosine(np.broadcast_to(row, matrix.shape), matrix) for row in matrix])
    np.fill_diagonal(similarities, -2)
    return np.argsort(-similarities, axis=1, kind="stable")[:, :count]


def test_a_cell_agrees_wholly_with_itself_at_any_scale() -> None:
    full = vectors()
    found = agreement(full * 7, yardstick(full))
    figures = (found.spearman, found.random_spearman, found.nearest_spearman, found.overlap_at_10)
    assert found.count == 300
    np.testing.assert_allclose(figures, 100, atol=1e-3)


def test_the_less_of_the_vectors_is_kept_the_less_agrees() -> None:
    full = vectors()
    stick = yardstick(full)
    kept = [agreement(full[:, :dim], stick) for dim in (32, 16, 8, 4)]
    for name in ("spearman", "random_spearman", "nearest_spearman", "overlap_at_10"):
        figures = [getattr(item, name) for item in kept]
        assert figures == sorted(figures, reverse=True), name
        assert len(set(figures)) == 4, name


def test_unrelated_cells_agree_on_nothing() -> None:
    found = agreement(vectors(1000, seed=1), yardstick(vectors(1000)))
    assert abs(found.random_spearman or 99) < 5
    assert found.overlap_at_10 == pytest.approx(1, abs=0.7)  # ten of 999 by chance


def test_half_of_the_pairs_are_random_and_half_are_nearest_neighbours() -> None:
    full = vectors()
    stick = yardstick(full, pairs=1000)
    neighbours = brute_force(full, 10)
    assert len(stick.left) == len(stick.right) == 1000
    assert (stick.left != stick.right).all()
    assert all(right in neighbours[left] for left, right in zip(stick.left[500:], stick.right[500:], strict=True))
    share = np.mean(
        [right in neighbours[left] for left, right in zip(stick.left[:500], stick.right[:500], strict=True)]
    )
    assert share == pytest.approx(10 / 299, abs=0.03)
    np.testing.assert_allclose(stick.cosines, cosine(full[stick.left], full[stick.right]))


def test_halves_are_judged_apart() -> None:
    full = vectors()
    stick = yardstick(full)
    # Two far clusters, each in disorder: random pairs are ordered by cluster, neighbours are not ordered at all.
    rng = np.random.default_rng(9)
    side = np.where(np.arange(300) % 2, 1.0, -1.0)[:, None]
    clustered = np.concatenate([side * 10, full], axis=1).astype(np.float32)
    disordered = np.concatenate([side * 10, rng.normal(size=(300, 32))], axis=1).astype(np.float32)
    found = agreement(disordered, yardstick(clustered))
    assert found.random_spearman is not None
    assert found.nearest_spearman is not None
    assert found.random_spearman > 60 > 20 > found.nearest_spearman
    assert agreement(full, stick).overlap_at_10 > found.overlap_at_10


def test_neighbours_are_those_of_a_plain_search_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    full, queries = vectors(), np.array([0, 7, 299])
    expected = brute_force(full, 10)
    np.testing.assert_array_equal(nearest(full, np.arange(300)), expected)
    monkeypatch.setattr(module, "BLOCK", 700)
    np.testing.assert_array_equal(nearest(full, np.arange(300)), expected)
    np.testing.assert_array_equal(nearest(full, queries), expected[queries])


def test_only_so_many_texts_are_searched_for_and_among_all(monkeypatch: pytest.MonkeyPatch) -> None:
    full = vectors()
    monkeypatch.setattr(module, "QUERIES", 50)
    stick = yardstick(full)
    assert len(stick.queries) == len(set(stick.queries.tolist())) == 50
    np.testing.assert_array_equal(stick.neighbours, brute_force(full, 10)[stick.queries])
    assert set(stick.left[len(stick.left) // 2 :]) <= set(stick.queries.tolist())


def test_equal_scores_stand_in_their_places_order() -> None:
    scores = np.array([[0.5, -0.0, 0.5, 0.0, -1.0, 0.5], [-3.0, -2.0, -np.inf, -2.0, 9.0, -2.5]], dtype=np.float32)
    assert top(scores, 5).tolist() == [[0, 2, 5, 1, 3], [4, 1, 3, 5, 0]]
    assert top(scores, 6).tolist()[1] == [4, 1, 3, 5, 0, 2]
    noise = np.random.default_rng(0).normal(size=(50, 400)).round(1).astype(np.float32)
    np.testing.assert_array_equal(top(noise, 30), np.argsort(-noise, axis=1, kind="stable")[:, :30])


def test_the_seed_decides_the_sample() -> None:
    full = vectors()
    cell = full[:, :8]
    assert agreement(cell, yardstick(full)) == agreement(cell, yardstick(full))
    assert agreement(cell, yardstick(full)) != agreement(cell, yardstick(full, seed=1))
    assert agreement(cell, yardstick(full)).overlap_at_10 == agreement(cell, yardstick(full, seed=1)).overlap_at_10


def test_a_constant_cell_has_no_rank_correlation() -> None:
    found = agreement(np.ones((300, 4), dtype=np.float32), yardstick(vectors()))
    assert (found.spearman, found.random_spearman, found.nearest_spearman) == (None, None, None)
    assert found.overlap_at_10 < 10


def test_too_few_texts_or_others_are_refused() -> None:
    with pytest.raises(DataError, match=r"19 distinct texts .* at least 20"):
        yardstick(vectors(19))
    assert agreement(vectors(20), yardstick(vectors(20))).overlap_at_10 == 100
    with pytest.raises(DataError, match="299 vectors"):
        agreement(vectors(299), yardstick(vectors()))


def test_texts_are_the_distinct_lines_that_are_not_blank(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    lines = [f"text {number}" for number in range(20)]
    file.write_bytes("\ufeff\r\n".encode() + "\r\n\n  \n".join([*lines, lines[0], "a\u2028b"]).encode())
    assert read_texts(file) == (*lines, "a\u2028b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"caf\xe9\n" * 30, r"not UTF-8 \(byte 3\)"),
        (b"", "0 distinct texts"),
        (b"one\ntwo\n" * 30, "2 distinct texts in .*texts.txt"),
    ],
)
def test_a_file_that_is_no_list_of_texts_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "texts.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_texts(file)
