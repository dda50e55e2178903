"""The losses of both recipes equal their formulas in slow loops, or the library's own losses."""

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import AdaptiveLayerLoss, CoSENTLoss, MatryoshkaLoss

from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.text.tokenizer import Tokenizer
from tests.support.checkpoints import LAYERS, WIDTH
from train.losses import LossWeights, cosent, grid_loss
from train.model import exit_vectors
from train.recipes import SeedRecipe
from train.seed import seed_loss

EXITS, PAIRS, UNSCORED, NUMBERS, DIMS = 3, 5, 3, 8, (8, 4, 2)
SENTENCES = 2 * PAIRS + UNSCORED
WEIGHTS = LossWeights(last_layer=2.5, similarities=7.0, vectors=3.0, scale=11.0)


def cosine(left: torch.Tensor, right: torch.Tensor) -> float:
    return (left @ right / (left.norm() * right.norm())).item()


def slow_cosent(cosines: list[float], gold: list[float], scale: float) -> float:
    total = 1.0
    for low, low_gold in zip(cosines, gold, strict=True):
        for high, high_gold in zip(cosines, gold, strict=True):
            if low_gold < high_gold:
                total += math.exp(scale * (low - high))
    return math.log(total)


@pytest.fixture
def vectors() -> torch.Tensor:
    """Vectors of every exit for the left sentences, the right ones, then those without a score."""
    return torch.randn(EXITS, SENTENCES, NUMBERS, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


GOLD = torch.tensor([0.2, 0.9, 0.2, 0.0, 0.6], dtype=torch.float64)  # two pairs have the same score and so no order


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_cosent_equals_its_formula(scale: float) -> None:
    cosines = torch.linspace(-0.9, 0.7, 5, dtype=torch.float64)[[3, 0, 4, 1, 2]]
    expected = slow_cosent(cosines.tolist(), GOLD.tolist(), scale)
    assert cosent(cosines, GOLD, scale).item() == pytest.approx(expected, rel=1e-12)


def test_cosent_takes_many_exits_at_once_and_is_zero_for_pairs_with_one_score() -> None:
    cosines = torch.rand(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    each = [slow_cosent(row, GOLD.tolist(), 20.0) for row in cosines.tolist()]
    assert cosent(cosines, GOLD, 20.0).tolist() == pytest.approx(each, rel=1e-12)
    assert cosent(cosines, torch.full_like(GOLD, 0.5), 20.0).tolist() == [0.0] * 4


def test_cosent_equals_that_of_sentence_transformers(vectors: torch.Tensor) -> None:
    left, right = vectors[0, :PAIRS].float(), vectors[0, PAIRS : 2 * PAIRS].float()
    theirs = CoSENTLoss(model=None).compute_loss_from_embeddings([left, right], GOLD.float())
    ours = cosent(torch.cosine_similarity(left, right), GOLD.float(), 20.0)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_the_grid_loss_equals_its_formula(vectors: torch.Tensor) -> None:
    shares = [1.0] * (EXITS - 1) + [WEIGHTS.last_layer]
    shares = [share / sum(shares) / len(DIMS) for share in shares]
    order = similarities = apart = 0.0
    for exit_, share in zip(vectors, shares, strict=True):
        for dim in DIMS:
            cut = exit_[:, :dim]
            cosines = [cosine(cut[pair], cut[PAIRS + pair]) for pair in range(PAIRS)]
            order += share * slow_cosent(cosines, GOLD.tolist(), WEIGHTS.scale)
            places = [(a, b) for a in range(SENTENCES) for b in range(SENTENCES)]
            full = vectors[-1]
            errors = [(cosine(cut[a], cut[b]) - cosine(full[a], full[b])) ** 2 for a, b in places]
            similarities += share * sum(errors) / len(errors)
    for exit_ in vectors[:-1]:
        for mine, last in zip(exit_, vectors[-1], strict=True):
            apart += sum(1 - cosine(mine[:dim], last[:dim]) for dim in DIMS) / len(DIMS) / (EXITS - 1) / SENTENCES
    found = grid_loss(vectors, GOLD, DIMS, WEIGHTS)
    assert found.order.item() == pytest.approx(order, rel=1e-9)
    assert found.similarities.item() == pytest.approx(similarities, rel=1e-9)
    assert found.vectors.item() == pytest.approx(apart, rel=1e-9)
    assert found.total.item() == pytest.approx(order + 7.0 * similarities + 3.0 * apart, rel=1e-9)


def test_a_single_exit_has_no_vectors_to_learn_from(vectors: torch.Tensor) -> None:
    found = grid_loss(vectors[-1:], GOLD, DIMS, WEIGHTS)
    assert found.vectors.item() == 0
    assert torch.isfinite(found.total)


def test_the_teacher_gets_no_gradient(vectors: torch.Tensor) -> None:
    vectors.requires_grad_()
    nothing_to_order = torch.full_like(GOLD, 0.5)
    grid_loss(vectors, nothing_to_order, (NUMBERS,), WEIGHTS).total.backward()
    below, last = vectors.grad[:-1], vectors.grad[-1]
    assert last.abs().max() == 0  # its own cosines are the goal
    assert (below.abs().sum(-1) > 0).all()  # every sentence counts, also those without scores


def test_the_last_exit_does_not_learn_from_the_others(vectors: torch.Tensor) -> None:
    vectors.requires_grad_()
    only_vectors, none = (LossWeights(similarities=0.0, vectors=weight) for weight in (1.0, 0.0))
    grads = [
        torch.autograd.grad(grid_loss(vectors, GOLD, DIMS, weights).total, vectors)[0]
        for weights in (only_vectors, none)
    ]
    torch.testing.assert_close(grads[0][-1], grads[1][-1], rtol=0, atol=0)
    assert not torch.equal(grads[0][0], grads[1][0])


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    return [("a cat", "the cat is on a mat"), ("a man", "a dog was playing"), ("interest rates rose", "rates rose")]


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> SentenceTransformer:
    return load_checkpoint(str(checkpoint)).original


def loss_of(loss: torch.nn.Module, model: SentenceTransformer, pairs: list[tuple[str, str]], seed: int) -> float:
    """The loss of a batch; ``seed`` decides the layers and dims that are drawn."""
    random.seed(seed)
    columns = [model.preprocess(list(texts)) for texts in zip(*pairs, strict=True)]
    with torch.no_grad():
        return loss(columns, torch.tensor([0.9, 0.1, 0.4])).item()


# The settings of the card that the seed recipe follows, part by part.
def card_loss(model: SentenceTransformer, dims: list[int], **settings) -> AdaptiveLayerLoss:
    cut = MatryoshkaLoss(model, CoSENTLoss(model, scale=20.0), dims, [1] * len(dims), n_dims_per_step=1)
    fixed = {"n_layers_per_step": 1, "last_layer_weight": 1, "prior_layers_weight": 1}
    return AdaptiveLayerLoss(model, cut, **fixed, kl_div_weight=1, kl_temperature=0.3, **settings)


def test_the_seed_recipe_has_the_loss_of_the_card(model: SentenceTransformer, pairs: list[tuple[str, str]]) -> None:
    dims = [WIDTH, 32, 16]
    ours = seed_loss(model, SeedRecipe(tuple(dims)))
    found = [loss_of(ours, model, pairs, seed) for seed in range(12)]
    assert found == [loss_of(card_loss(model, dims), model, pairs, seed) for seed in range(12)]
    assert len(set(found)) > LAYERS  # layers and dims are drawn


def test_seed_era_gives_layer_k_the_weight_1_over_k(model: SentenceTransformer, pairs: list[tuple[str, str]]) -> None:
    recipe = SeedRecipe((WIDTH,), weighting="seed-era")
    weights = [0.0, 1.0, 1 / 2]  # of the embeddings, which the card's release never drew, and of layers 1 and 2
    theirs = card_loss(model, [WIDTH], layer_weighting=weights.__getitem__)
    found = [loss_of(seed_loss(model, recipe), model, pairs, seed) for seed in range(12)]
    assert found == [loss_of(theirs, model, pairs, seed) for seed in range(12)]
    uniform = seed_loss(model, replace(recipe, weighting="uniform"))
    assert found != [loss_of(uniform, model, pairs, seed) for seed in range(12)]


@pytest.mark.parametrize("budget", [1, 20, 40])
def test_vectors_in_groups_equal_those_of_one_pass_in_the_callers_order(checkpoint: Path, budget: int) -> None:
    loaded = load_checkpoint(str(checkpoint))
    model = ExitEncoder(loaded, [1, 3]).eval()
    texts = ["a cat", "the man was playing guitar on the stage", "dog", "interest rates rose of late", "a mat is on"]
    sentences = Tokenizer(loaded.tokenizer_json, loaded.text).encode(texts)
    with torch.no_grad():
        whole = exit_vectors(model, sentences, loaded.text, 1 << 30)
        grouped = exit_vectors(model, sentences, loaded.text, budget)
        alone = [exit_vectors(model, [sentence], loaded.text, 1 << 30)[:, 0] for sentence in sentences]
    assert grouped.shape == (2, len(texts), WIDTH)
    torch.testing.assert_close(grouped, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grouped, torch.stack(alone, dim=1), rtol=1e-4, atol=1e-5)
