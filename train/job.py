"""What a training is given."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2d_export.checkpoints.load import Checkpoint

from .data import Data, fingerprint
from .recipes import Recipe, SeedRecipe


@dataclass(frozen=True)
class Job:
    """One training: the checkpoint, named ``base`` in the card, the data, the recipe, and the folder to write.

    ``precision`` is the type to compute in: fp32, or fp16 or bf16 with autocast. ``half`` stores the weights in fp16.
    """

    base: str
    checkpoint: Checkpoint
    data: Data
    recipe: Recipe
    device: str
    precision: str
    target: Path
    half: bool = False

    @property
    def layers(self) -> tuple[int, ...]:
        """The exits to train: those of the recipe, or every layer for the seed recipe."""
        return tuple(range(1, self.checkpoint.depth + 1)) if isinstance(self.recipe, SeedRecipe) else self.recipe.layers

    def identity(self) -> dict[str, Any]:
        """Everything that must be the same when a training is resumed."""
        return {
            "recipe": type(self.recipe).__name__,
            "settings": dataclasses.asdict(self.recipe),
            "model": self.checkpoint.origin.fingerprint,
            "data": fingerprint(self.data),
            "device": self.device,
            "precision": self.precision,
        }

    def notes(self) -> list[str]:
        """What the command prints of the recipe's own inputs before the training."""
        return []

    def facts(self) -> dict[str, Any]:
        """What m2d.json says of the recipe's own inputs."""
        return {}

    def measured(self, made: Checkpoint) -> dict[str, Any]:
        """What m2d.json says of the checkpoint that the training wrote, besides its scores on the data."""
        return {}
