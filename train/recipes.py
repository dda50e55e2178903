"""The settings of the three recipes, and checks of the layers and dims that a user asks for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from m2d_export.errors import SpecError

from .losses import LossWeights

CARD = "tomaarsen/distilbert-base-uncased-sts-2d-matryoshka"  # the model card that the seed recipe follows
CARD_DIMS = (512, 256, 128, 64)  # the dims of that card below the width
Weighting = Literal["uniform", "seed-era"]


@dataclass(frozen=True)
class SeedRecipe:
    """The training that the model card ``CARD`` describes.

    ``weighting`` decides the weights of the layers below the last. ``uniform`` is sentence-transformers' default since
    5.7. ``seed-era`` gives layer k the weight 1/k, like the release that made the card.
    """

    name: ClassVar = "seed"
    keeps_space: ClassVar = False
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
    """Training of all cells in every step; ``layers`` ascend to the depth, and ``dims`` descend from the width.

    ``unlabelled`` is the number of sentences without scores in each step, if the data has some.
    """

    name: ClassVar = "grid"
    keeps_space: ClassVar = False
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


@dataclass(frozen=True)
class MultitaskRecipe:
    """Training on scored pairs while a distillation goes on; ``layers`` may begin with 0, the table, which stays.

    A step has ``texts_per_step`` texts without scores, and ``batch_size`` pairs, whose loss has the weight
    ``pairs_weight``. ``last_layer`` is the weight of the last exit in the loss of the texts.
    """

    name: ClassVar = "multitask"
    keeps_space: ClassVar = True  # all exits learn the vectors of the base
    layers: tuple[int, ...]
    dims: tuple[int, ...]
    epochs: int = 6
    batch_size: int = 32
    texts_per_step: int = 256
    pairs_weight: float = 1.5
    learning_rate: float = 5e-5
    head_learning_rate: float = 1e-4
    last_layer: float = 2.0
    eval_steps: int = 100
    seed: int = 42


Recipe = SeedRecipe | GridRecipe | MultitaskRecipe


def default_dims(width: int) -> tuple[int, ...]:
    """The width, and the dims of ``CARD_DIMS`` that are below it."""
    return (width, *(dim for dim in CARD_DIMS if dim < width))


def check_dims(dims: Sequence[int], width: int) -> tuple[int, ...]:
    """The dims in descending order; raises SpecError if one is not from 1 to the width, or if the width is missing."""
    for dim in dims:
        if not 1 <= dim <= width:
            raise SpecError(f"dim {dim} does not exist: this model's vectors have {width} numbers; choose 1 to {width}")
    if width not in dims:
        raise SpecError(f"dims {_listed(dims)} lack the width, {width}: add it, the other dims learn from it")
    return tuple(sorted(set(dims), reverse=True))


def check_layers(layers: Sequence[int], depth: int, first: int = 1) -> tuple[int, ...]:
    """The layers in ascending order, from ``first`` to the depth; raises SpecError for others, or without the depth."""
    for layer in layers:
        if not first <= layer <= depth:
            raise SpecError(f"layer {layer} does not exist: this model has layers {first} to {depth}")
    if depth not in layers:
        raise SpecError(f"layers {_listed(layers)} lack the deepest layer, {depth}: add it, the others learn from it")
    return tuple(sorted(set(layers)))


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))
