"""Correlations equal those of sentence-transformers, and intervals have their nominal coverage."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from m2d_export.bench.similarity import SIMILARITIES, Ranking, correlations, emitted, intervals, resampled

TEXTS = [f"text {number}" for number in range(240)]
LEFT, RIGHT = np.arange(120), np.arange(120, 240)


def pair_vectors(seed: int = 0, width: int = 48) -> tuple[NDArray, NDArray]:
    """Vectors of ``TEXTS`` with uneven lengths, and grades with ties; pairs with higher grades are more alike."""
    rng = np.random.default_rng(seed)
    grades = np.round(rng.uniform(0, 5, 120) * 5) / 5
    left = rng.normal(size=(120, width))
    right = left * grades[:, None] / 3 + rng.normal(size=(120, width))
    vectors = np.concatenate([left, right]) * rng.uniform(0.5, 3, (240, 1))
    return vectors.astype(np.float32), grades


def peer_scores(
    make_checkpoint: Callable, vectors: NDArray, grades: NDArray, dim: int, normalize: bool
) -> dict[str, float]:
    """The scores of sentence-transformers' evaluator for a model that returns ``vectors``."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    class Table(torch.nn.Module):
        """Replaces the encoder: looks texts up."""

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
def test_every_correlation_equals_that_of_sentence_transformers(
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


def test_vectors_are_normalised_before_the_cut_and_not_after_it() -> None:
    vectors = np.array([[3.0, 0.0, 4.0]], dtype=np.float32)
    np.testing.assert_allclose(emitted(vectors, 2, normalize=True), [[0.6, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(emitted(vectors, 2, normalize=False), [[3.0, 0.0]])


def test_distances_are_negated() -> None:
    left, right = np.array([[1.0, 0.0]] * 3), np.array([[1.0, 0.0], [1.0, 1.0], [-2.0, 0.0]])
    np.testing.assert_allclose(SIMILARITIES["manhattan"](left, right), [0, -1, -3])
    np.testing.assert_allclose(SIMILARITIES["euclidean"](left, right), [0, -1, -3])
    np.testing.assert_allclose(SIMILARITIES["dot"](left, right), [1, 1, -2])
    np.testing.assert_allclose(SIMILARITIES["cosine"](left, right), [1, 0.5**0.5, -1])


def test_a_constant_similarity_has_no_correlation() -> None:
    same = np.ones((5, 4), dtype=np.float32)
    found = correlations(same, same, np.arange(5.0))
    assert set(found.spearman.values()) == set(found.pearson.values()) == {None}


def test_resampled_scores_equal_those_of_scipy_with_ties() -> None:
    rng = np.random.default_rng(5)
    sides = np.stack([rng.integers(0, levels, 30).astype(float) for levels in (6, 4, 30)])
    draws = rng.multinomial(30, [1 / 30] * 30, size=50)
    found = resampled([Ranking.of(side) for side in sides], draws.astype(float))
    for row, counts in enumerate(draws):
        gold, *cells = (np.repeat(side, counts) for side in sides)
        expected = [stats.spearmanr(cell, gold).statistic * 100 for cell in cells]
        np.testing.assert_allclose(found[:, row], expected, atol=1e-9)


def test_about_95_percent_of_intervals_contain_the_true_score() -> None:
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


def test_the_difference_of_two_equal_cells_is_exactly_0() -> None:
    vectors, grades = pair_vectors()
    similarity = SIMILARITIES["cosine"](vectors[LEFT], vectors[RIGHT])
    first, worse, last = intervals(np.stack([similarity, np.roll(similarity, 1), similarity]), grades, full=2)
    assert first.difference == last.difference == (0.0, 0.0)
    assert first.score == last.score
    assert worse.difference is not None
    assert worse.difference[1] < 0


def test_intervals_depend_only_on_the_seed() -> None:
    rng = np.random.default_rng(3)
    gold, cells = rng.normal(size=90), rng.normal(size=(3, 90))
    assert intervals(cells, gold, full=0, seed=1) == intervals(cells, gold, full=0, seed=1)
    assert intervals(cells, gold, full=0, seed=1) != intervals(cells, gold, full=0, seed=2)
    alone = intervals(cells[1:], gold, full=-1, seed=1)
    assert [item.score for item in alone] == [item.score for item in intervals(cells, gold, full=0, seed=1)[1:]]


def test_an_undefined_score_has_no_interval_and_changes_no_other() -> None:
    rng = np.random.default_rng(3)
    gold, cells = rng.normal(size=60), rng.normal(size=(3, 60))
    cells[1], cells[2, 7] = 0.5, np.nan
    sound, constant, broken = intervals(cells, gold, full=0)
    assert (constant.score, constant.difference, broken.score, broken.difference) == (None,) * 4
    assert sound.score is not None
    assert intervals(cells, gold, full=1)[0].score == sound.score
    assert intervals(cells, gold, full=1)[0].difference is None


def test_values_are_sorted_once_however_many_resamples_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    gold, calls = np.round(rng.uniform(0, 5, 1379), 1), 0
    sort = np.argsort

    def counted(values: NDArray) -> NDArray:
        nonlocal calls
        calls += 1
        return sort(values)

    monkeypatch.setattr(np, "argsort", counted)
    intervals(gold + rng.normal(size=(5, 1379)), gold, full=0, resamples=100)
    assert calls == 6
