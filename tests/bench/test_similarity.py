"""Scores are sentence-transformers' own, and their intervals mean what they say."""

import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from m2d_export.bench.similarity import SIMILARITIES, Ranking, correlations, emitted, intervals, resampled

TEXTS = [f"text {number}" for number in range(240)]
LEFT, RIGHT = np.arange(120), np.arange(120, 240)


def pair_vectors(seed: int = 0, width: int = 48) -> tuple[NDArray, NDArray]:
    """Vectors of ``TEXTS`` of uneven lengths, pair by pair more alike, and grades in steps, with ties."""
    rng = np.random.default_rng(seed)
    grades = np.round(rng.uniform(0, 5, 120) * 5) / 5
    left = rng.normal(size=(120, width))
    right = left * grades[:, None] / 3 + rng.normal(size=(120, width))
    vectors = np.concatenate([left, right]) * rng.uniform(0.5, 3, (240, 1))
    return vectors.astype(np.float32), grades


def peer_scores(
    make_checkpoint: Callable, vectors: NDArray, grades: NDArray, dim: int, normalize: bool
) -> dict[str, float]:
    """What sentence-transformers' own model and evaluator make of a model that gives ``vectors``."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    class Table(torch.nn.Module):
        """Stands for the encoder: looks texts up."""

        def preprocess(self, texts, **kwargs):
            return {"row": torch.tensor([TEXTS.index(text) for text in texts])}

        tokenize = preprocess

        def forward(self, features, **kwargs):
            features["sentence_embedding"] = torch.from_numpy(vectors)[features["row"]]
            return features

    model = SentenceTransformer(str(make_checkpoint(normalize=normalize)), device="cpu")
    tail = list(model)[2:]
    model = SentenceTransformer(modules=[Table(), *tail], device="cpu")
    evaluator = EmbeddingSimilarityEvaluator(
        TEXTS[:120], TEXTS[120:], grades.tolist(), similarity_fn_names=list(SIMILARITIES), truncate_dim=dim
    )
    return evaluator(model)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dim", [48, 12])
def test_every_correlation_is_that_of_sentence_transformers(
    make_checkpoint: Callable, dim: int, normalize: bool
) -> None:
    vectors, grades = pair_vectors()
    expected = peer_scores(make_checkpoint, vectors, grades, dim, normalize)
    cut = emitted(vectors, dim, normalize)
    found = correlations(cut[LEFT], cut[RIGHT], grades)
    for name in SIMILARITIES:
        assert found.pearson[name] == pytest.approx(100 * expected[f"pearson_{name}"], abs=1e-3), name
        assert found.spearman[name] == pytest.approx(100 * expected[f"spearman_{name}"], abs=1e-2), name
    assert len({round(score, 2) for score in found.pearson.values()}) == 4 or (normalize and dim == 48)


def test_the_cut_comes_after_the_checkpoints_normalize_and_nothing_is_normalised_again() -> None:
    vectors = np.array([[3.0, 0.0, 4.0]], dtype=np.float32)
    np.testing.assert_allclose(emitted(vectors, 2, normalize=True), [[0.6, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(emitted(vectors, 2, normalize=False), [[3.0, 0.0]])


def test_distances_are_negated_so_that_all_grow_with_likeness() -> None:
    left, right = np.array([[1.0, 0.0]] * 3), np.array([[1.0, 0.0], [1.0, 1.0], [-2.0, 0.0]])
    np.testing.assert_allclose(SIMILARITIES["manhattan"](left, right), [0, -1, -3])
    np.testing.assert_allclose(SIMILARITIES["euclidean"](left, right), [0, -1, -3])
    np.testing.assert_allclose(SIMILARITIES["dot"](left, right), [1, 1, -2])
    np.testing.assert_allclose(SIMILARITIES["cosine"](left, right), [1, 0.5**0.5, -1])


def test_a_constant_similarity_has_no_correlation() -> None:
    same = np.ones((5, 4), dtype=np.float32)
    found = correlations(same, same, np.arange(5.0))
    assert set(found.spearman.values()) == set(found.pearson.values()) == {None}


def test_resamples_are_ranked_anew_ties_and_all() -> None:
    rng = np.random.default_rng(5)
    sides = np.stack([rng.integers(0, levels, 30).astype(float) for levels in (6, 4, 30)])
    draws = rng.multinomial(30, [1 / 30] * 30, size=50)
    found = resampled([Ranking.of(side) for side in sides], draws.astype(float))
    for row, counts in enumerate(draws):
        gold, *cells = (np.repeat(side, counts) for side in sides)
        expected = [stats.spearmanr(cell, gold).statistic * 100 for cell in cells]
        np.testing.assert_allclose(found[:, row], expected, atol=1e-9)


def test_nineteen_of_twenty_intervals_hold_the_true_score() -> None:
    correlation, trials = 0.8, 300
    truth = 6 / np.pi * np.arcsin(correlation / 2) * 100  # Spearman of a bivariate normal
    rng, held, difference_held = np.random.default_rng(11), 0, 0
    for trial in range(trials):
        gold = rng.normal(size=200)
        noise = rng.normal(size=(2, 200))  # both cells are equally good: the true difference is 0
        cells = correlation * gold + (1 - correlation**2) ** 0.5 * noise
        interval, other = intervals(cells, gold, full=1, resamples=200, seed=trial)
        assert interval.score is not None
        assert interval.difference is not None
        held += interval.score[0] <= truth <= interval.score[1]
        difference_held += interval.difference[0] <= 0 <= interval.difference[1]
        assert other.difference == (0.0, 0.0)
    assert 0.91 < held / trials < 0.98
    assert 0.91 < difference_held / trials < 0.98


def test_a_cell_equal_to_the_full_one_differs_by_exactly_nothing() -> None:
    vectors, grades = pair_vectors()
    similarity = SIMILARITIES["cosine"](vectors[LEFT], vectors[RIGHT])
    first, worse, last = intervals(np.stack([similarity, np.roll(similarity, 1), similarity]), grades, full=2)
    assert first.difference == last.difference == (0.0, 0.0)
    assert first.score == last.score
    assert worse.difference is not None
    assert worse.difference[1] < 0


def test_intervals_depend_on_the_seed_alone() -> None:
    rng = np.random.default_rng(3)
    gold, cells = rng.normal(size=90), rng.normal(size=(3, 90))
    assert intervals(cells, gold, full=0, seed=1) == intervals(cells, gold, full=0, seed=1)
    assert intervals(cells, gold, full=0, seed=1) != intervals(cells, gold, full=0, seed=2)
    alone = intervals(cells[1:], gold, full=-1, seed=1)
    assert [item.score for item in alone] == [item.score for item in intervals(cells, gold, full=0, seed=1)[1:]]


def test_an_undefined_score_has_no_interval_and_spoils_no_other() -> None:
    rng = np.random.default_rng(3)
    gold, cells = rng.normal(size=60), rng.normal(size=(3, 60))
    cells[1], cells[2, 7] = 0.5, np.nan
    sound, constant, broken = intervals(cells, gold, full=0)
    assert (constant.score, constant.difference, broken.score, broken.difference) == (None,) * 4
    assert sound.score is not None
    assert intervals(cells, gold, full=1)[0].score == sound.score
    assert intervals(cells, gold, full=1)[0].difference is None


def test_thirty_cells_of_sts_b_take_seconds_not_minutes() -> None:
    rng = np.random.default_rng(0)
    gold = np.round(rng.uniform(0, 5, 1379), 1)
    cells = gold + rng.normal(size=(30, 1379))
    started = time.process_time()
    intervals(cells, gold, full=0)
    assert time.process_time() - started < 10  # 1 s on a quiet core; sorting every resample takes a minute
