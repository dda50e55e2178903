"""What a distillation is given: its settings, and texts as token ids."""

from collections.abc import Sequence
from dataclasses import dataclass

from m2d_export.text.tokenizer import TokenIds

OWN_WEIGHT = 5.0  # of a text of the user, where a text of the general mix has 1


@dataclass(frozen=True)
class Settings:
    """``layers`` ascend to the depth, and may begin with 0, the table; ``dims`` descend from the width.

    ``max_drift`` is how far the last exit's mean cosine to the base may fall below 1. ``keep_space`` forbids a
    rotation. ``fresh`` ignores heads and tables that the checkpoint has.
    """

    layers: tuple[int, ...]
    dims: tuple[int, ...]
    max_drift: float = 0.015
    seed: int = 42
    keep_space: bool = False
    fresh: bool = False


@dataclass(frozen=True)
class Corpus:
    """Texts as token ids: the user's own, those of the general mix, and held-out ones, which no exit learns from."""

    own: Sequence[TokenIds]
    mix: Sequence[TokenIds]
    held_out: Sequence[TokenIds]

    @property
    def texts(self) -> list[TokenIds]:
        """All texts to learn from: first the user's, then those of the mix."""
        return [*self.own, *self.mix]

    @property
    def weights(self) -> list[float]:
        """The weight of each of ``texts``."""
        return [OWN_WEIGHT] * len(self.own) + [1.0] * len(self.mix)
