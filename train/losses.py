"""The loss of the grid recipe: every (layer, dim) cell at once, from one forward pass.

Letters in shapes: L exits, of which the deepest is the last. B pairs. N sentences: first the B left sentences of the
pairs, then the B right ones, then those without a score. W is the width, d a dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

MASKED = -1e12  # exp of it is 0, so a masked term adds nothing to the sum


@dataclass(frozen=True)
class LossWeights:
    """The weights in the loss; ``similarities`` and ``vectors`` are those of the parts with these names.

    The part ``order`` has the weight 1. ``last_layer`` is the weight of the last exit; every other exit has 1.
    ``scale`` is CoSENT's factor of cosines.
    """

    last_layer: float = 3.0
    similarities: float = 20.0
    vectors: float = 4.0
    scale: float = 20.0


@dataclass(frozen=True)
class GridLoss:
    """The loss to minimise and its three parts before weighting; each is a scalar tensor, ()."""

    total: Tensor
    order: Tensor
    similarities: Tensor
    vectors: Tensor


def cosent(cosines: Tensor, gold: Tensor, scale: float) -> Tensor:
    """CoSENT: log(1 + sum of exp(scale (cos_i - cos_j)) over all i, j with gold_i < gold_j): (..., B), (B,) -> (...).

    Source: Su 2022; the same as sentence-transformers' ``CoSENTLoss``.
    """
    gaps = scale * (cosines.unsqueeze(-1) - cosines.unsqueeze(-2))  # (..., B, B): i, j
    wrong_if_positive = gold.unsqueeze(-1) < gold.unsqueeze(-2)  # (B, B)
    gaps = gaps.masked_fill(~wrong_if_positive, MASKED).flatten(-2)  # (..., B * B)
    return torch.logsumexp(functional.pad(gaps, (1, 0)), dim=-1)  # the padded 0 is the 1 of the formula


def grid_loss(vectors: Tensor, gold: Tensor, dims: Sequence[int], weights: LossWeights) -> GridLoss:
    """The loss of all cells: vectors (L, N, W), gold scores (B,), dims in descending order from W.

    ``order`` is CoSENT. ``similarities`` is the squared error between a cell's cosines of all N sentences and those of
    the full cell. ``order`` and ``similarities`` are means over cells, with the weights of their exits. ``vectors`` is
    the mean of 1 - cosine between an exit's vectors and those of the last exit at the same dim, so that all exits share
    one space. In the last two parts, the full cell and the last exit are fixed goals: no gradient flows into them.
    """
    pairs = len(gold)
    share = vectors.new_ones(len(vectors))  # (L,)
    share[-1] = weights.last_layer
    share = share / share.sum() / len(dims)
    last = vectors[-1].detach()  # (N, W)
    goal = _unit(last) @ _unit(last).T  # (N, N)
    order = similarities = apart = vectors.new_zeros(())
    for dim in dims:
        unit = _unit(vectors[..., :dim])  # (L, N, d)
        cosines = (unit[:, :pairs] * unit[:, pairs : 2 * pairs]).sum(-1)  # (L, B)
        order = order + share @ cosent(cosines, gold, weights.scale)
        errors = (unit @ unit.transpose(1, 2) - goal).square()  # (L, N, N)
        similarities = similarities + share @ errors.mean((1, 2))
        if len(vectors) > 1:
            apart = apart + (1 - (unit[:-1] * _unit(last[:, :dim])).sum(-1)).mean() / len(dims)
    total = order + weights.similarities * similarities + weights.vectors * apart
    return GridLoss(total, order.detach(), similarities.detach(), apart.detach())


def _unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors, dim=-1)
