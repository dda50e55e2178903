"""Agreement without labels, of equal, similar and unrelated cells."""

import numpy as np
import pytest
from numpy.typing import NDArray

from m2d_export import agreement as module
from m2d_export.agreement import agreement, agreement_reference, nearest, top
from m2d_export.errors import DataError
from m2d_export.vectors import cosine


def vectors(count: int = 300, width: int = 32, seed: int = 0) -> NDArray:
    """Vectors whose first numbers matter most, as after Matryoshka training."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, width)) * np.linspace(2, 0.2, width)).astype(np.float32)


def brute_force(matrix: NDArray, count: int) -> NDArray:
    similarities = np.stack([cosine(np.broadcast_to(row, matrix.shape), matrix) for row in matrix])
    np.fill_diagonal(similarities, -2)
    return np.argsort(-similarities, axis=1, kind="stable")[:, :count]


def test_a_cell_agrees_fully_with_itself_at_any_scale() -> None:
    full = vectors()
    found = agreement(full * 7, agreement_reference(full))
    metrics = (found.spearman, found.random_spearman, found.nearest_spearman, found.overlap_at_10)
    assert found.count == 300
    np.testing.assert_allclose(metrics, 100, atol=1e-3)


def test_shorter_vectors_agree_less() -> None:
    full = vectors()
    reference = agreement_reference(full)
    cells = [agreement(full[:, :dim], reference) for dim in (32, 16, 8, 4)]
    for name in ("spearman", "random_spearman", "nearest_spearman", "overlap_at_10"):
        values = [getattr(cell, name) for cell in cells]
        assert values == sorted(values, reverse=True), name
        assert len(set(values)) == 4, name


def test_unrelated_cells_agree_by_chance_only() -> None:
    found = agreement(vectors(1000, seed=1), agreement_reference(vectors(1000)))
    assert abs(found.random_spearman or 99) < 5
    assert found.overlap_at_10 == pytest.approx(1, abs=0.7)  # ten of 999 by chance


def test_half_of_the_pairs_are_random_and_half_are_nearest_neighbours() -> None:
    full = vectors()
    reference = agreement_reference(full, pairs=1000)
    neighbours = brute_force(full, 10)
    assert len(reference.left) == len(reference.right) == 1000
    assert (reference.left != reference.right).all()
    near = [right in neighbours[left] for left, right in zip(reference.left, reference.right, strict=True)]
    assert all(near[500:])
    assert np.mean(near[:500]) == pytest.approx(10 / 299, abs=0.03)
    np.testing.assert_allclose(reference.cosines, cosine(full[reference.left], full[reference.right]))


def test_random_pairs_and_neighbours_are_judged_separately() -> None:
    full = vectors()
    reference = agreement_reference(full)
    # Two distant clusters, each in random order: random pairs keep their order, pairs of neighbours do not.
    rng = np.random.default_rng(9)
    side = np.where(np.arange(300) % 2, 1.0, -1.0)[:, None]
    clustered = np.concatenate([side * 10, full], axis=1).astype(np.float32)
    disordered = np.concatenate([side * 10, rng.normal(size=(300, 32))], axis=1).astype(np.float32)
    found = agreement(disordered, agreement_reference(clustered))
    assert found.random_spearman is not None
    assert found.nearest_spearman is not None
    assert found.random_spearman > 60 > 20 > found.nearest_spearman
    assert agreement(full, reference).overlap_at_10 > found.overlap_at_10


def test_neighbours_equal_those_of_a_plain_search_whatever_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    full, queries = vectors(), np.array([0, 7, 299])
    expected = brute_force(full, 10)
    np.testing.assert_array_equal(nearest(full, np.arange(300)), expected)
    monkeypatch.setattr(module, "BLOCK", 700)
    np.testing.assert_array_equal(nearest(full, np.arange(300)), expected)
    np.testing.assert_array_equal(nearest(full, queries), expected[queries])


def test_a_limited_number_of_texts_is_searched_for_among_all(monkeypatch: pytest.MonkeyPatch) -> None:
    full = vectors()
    monkeypatch.setattr(module, "QUERIES", 50)
    reference = agreement_reference(full)
    assert len(reference.queries) == len(set(reference.queries.tolist())) == 50
    np.testing.assert_array_equal(reference.neighbours, brute_force(full, 10)[reference.queries])
    assert set(reference.left[len(reference.left) // 2 :]) <= set(reference.queries.tolist())


def test_equal_scores_stand_in_the_order_of_their_indices() -> None:
    scores = np.array([[0.5, -0.0, 0.5, 0.0, -1.0, 0.5], [-3.0, -2.0, -np.inf, -2.0, 9.0, -2.5]], dtype=np.float32)
    assert top(scores, 5).tolist() == [[0, 2, 5, 1, 3], [4, 1, 3, 5, 0]]
    assert top(scores, 6).tolist()[1] == [4, 1, 3, 5, 0, 2]
    noise = np.random.default_rng(0).normal(size=(50, 400)).round(1).astype(np.float32)
    np.testing.assert_array_equal(top(noise, 30), np.argsort(-noise, axis=1, kind="stable")[:, :30])


def test_the_seed_decides_the_sample() -> None:
    full = vectors()
    cell = full[:, :8]
    first, again = (agreement(cell, agreement_reference(full)) for _ in range(2))
    other = agreement(cell, agreement_reference(full, seed=1))
    assert first == again != other
    assert first.overlap_at_10 == other.overlap_at_10  # all texts are searched for, whatever the seed


def test_a_constant_cell_has_no_rank_correlation() -> None:
    found = agreement(np.ones((300, 4), dtype=np.float32), agreement_reference(vectors()))
    assert (found.spearman, found.random_spearman, found.nearest_spearman) == (None, None, None)
    assert found.overlap_at_10 < 10


def test_too_few_texts_or_another_number_of_them_are_refused() -> None:
    with pytest.raises(DataError, match=r"19 .*at least 20"):
        agreement_reference(vectors(19))
    assert agreement(vectors(20), agreement_reference(vectors(20))).overlap_at_10 == 100
    with pytest.raises(DataError, match=r"299 .*300"):
        agreement(vectors(299), agreement_reference(vectors()))
