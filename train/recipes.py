"""Every figure of the two recipes, and what may be asked of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from m2d_export.errors import SpecError
from train.losses import LossWeights

CARD_DIMS = (512, 256, 128, 64)  # below the width, as on the seed's card
Weighting = Literal["uniform", "seed-era"]


@dataclass(frozen=True)
class SeedRecipe:
    """The training of ``tomaarsen/distilbert-base-uncased-sts-2d-matryoshka``, as its card gives it.

    ``weighting`` says how much a sampled prior layer counts: ``uniform`` is sentence-transformers' default since
    5.7, ``seed-era`` the 1/k of the releases that the card came from.
    """

    dims: tuple[int, ...]
    epochs: int = 4
    batch_size: int = 16
    learning_rate: float = 5e-5
    warmup_ratio: float = 0.1
    eval_steps: int = 100
    seed: int = 42
    weighting: Weighting = "uniform"


@dataclass(frozen=True)
class GridRecipe:
    """All cells every step: ``layers`` ascend to the depth, ``dims`` descend from the width.

    ``unlabelled`` sentences without a score join each step where there are any. Heads learn faster than the encoder
    they follow.
    """

    layers: tuple[int, ...]
    dims: tuple[int, ...]
    epochs: int = 5
    batch_size: int = 32
    unlabelled: int = 64
    learning_rate: float = 6e-5
    head_learning_rate: float = 1e-3
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 5.0
    weights: LossWeights = field(default_factory=LossWeights)
    eval_steps: int = 100
    seed: int = 42


Recipe = SeedRecipe | GridRecipe


def default_dims(width: int) -> tuple[int, ...]:
    """The card's dims that a width has, and the width itself."""
    return (width, *(dim for dim in CARD_DIMS if dim < width))


def check_dims(dims: Sequence[int], width: int) -> tuple[int, ...]:
    """Return ``dims`` if they descend from the width, else raise SpecError."""
    if any(not 1 <= dim <= width for dim in dims):
        raise SpecError(f"dims {_listed(dims)}: this model's vectors have {width} numbers, a dim is from 1 to {width}")
    if list(dims) != sorted(set(dims), reverse=True):
        raise SpecError(f"dims {_listed(dims)} must descend without repeats, as in 384,128,64")
    if not dims or dims[0] != width:
        raise SpecError(f"dims {_listed(dims)} must begin with the width, {width}: it is what the others learn from")
    return tuple(dims)


def check_layers(layers: Sequence[int], depth: int) -> tuple[int, ...]:
    """Return ``layers`` if they ascend to the depth, else raise SpecError."""
    if any(not 1 <= layer <= depth for layer in layers):
        raise SpecError(f"layers {_listed(layers)}: this model has layers 1 to {depth}")
    if list(layers) != sorted(set(layers)):
        raise SpecError(f"layers {_listed(layers)} must ascend without repeats, as in 1,3,6")
    if not layers or layers[-1] != depth:
        raise SpecError(f"layers {_listed(layers)} must end with the depth, {depth}: it is what the others learn from")
    return tuple(layers)


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))
