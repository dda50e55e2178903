"""The grid recipe's loss: every (layer, dim) cell at once, from one forward pass.

Sizes in the shape comments: L exits from the shallowest to the last; N sentences, the B left ones of the pairs, then
their B right ones, then those without a score; W the width, d a dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

CUT_OFF = -1e12  # exp of it is 0: a pair of pairs that is in the right order by definition


@dataclass(frozen=True)
class LossWeights:
    """What each part counts; ``last_layer`` is how much more the last exit counts than each other one."""

    last_layer: float = 3.0
    similarities: float = 20.0
    vectors: float = 4.0
    scale: float = 20.0


@dataclass(frozen=True)
class GridLoss:
    """The loss to minimise and what it is made of, for the log; each a tensor without axes."""

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
    gaps = gaps.masked_fill(~wrong_if_positive, CUT_OFF).flatten(-2)  # (..., B * B)
    return torch.logsumexp(functional.pad(gaps, (1, 0)), dim=-1)  # the padded 0 is the 1 of the formula


def grid_loss(vectors: Tensor, gold: Tensor, dims: Sequence[int], weights: LossWeights) -> GridLoss:
    """The loss of all cells: vectors (L, N, W), gold scores (B,), dims that descend from W.

    Each cell is told to order the batch's pairs as the gold scores do (CoSENT), and to have the cosines that the full
    cell has between all N sentences (squared error); each cell below the last layer to give the last layer's own
    vectors (1 - cosine), so that all exits share one space. What is learnt from gets no gradient. Cells count alike
    but for the last layer.
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
