"""The loss of the label-free training: at every exit and dim, the base's cosines and the base's vectors."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

SIMILARITIES, VECTORS = 20.0, 4.0  # weights of the two parts


def distillation_loss(vectors: Tensor, base: Tensor, dims: Sequence[int], last: float) -> Tensor:
    """The mean over exits and dims of two parts: vectors (L, B, W) of the exits, base (B, W) of unit length -> ().

    The first part is the squared error of the cosines between all B texts; the goal is the base's cosines with all W
    dims. The second is 1 - the cosine to the base's vector at the same dim. The last exit has the weight ``last``, all
    others 1.
    """
    share = vectors.new_ones(len(vectors))  # (L,)
    share[-1] = last
    share = share / share.sum() / len(dims)
    goal = base @ base.T  # (B, B)
    total = vectors.new_zeros(())
    for dim in dims:
        unit = functional.normalize(vectors[..., :dim], dim=-1)  # (L, B, d)
        errors = (unit @ unit.transpose(1, 2) - goal).square().mean((1, 2))  # (L,)
        apart = 1 - (unit * functional.normalize(base[:, :dim], dim=-1)).sum(-1).mean(1)  # (L,)
        total = total + share @ (SIMILARITIES * errors + VECTORS * apart)
    return total
