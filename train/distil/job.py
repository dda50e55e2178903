"""What a distillation is given."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2d_export.checkpoints.load import Checkpoint

from .corpus import Reading, Texts
from .settings import Settings


@dataclass(frozen=True)
class Job:
    """One distillation of ``base`` into the folder ``target``.

    The training after the heads takes ``steps`` or, if that is None, ``seconds``; with neither there is none.
    """

    base: Checkpoint
    reading: Reading
    texts: Texts
    settings: Settings
    device: str
    target: Path
    steps: int | None
    seconds: float | None

    @property
    def trains(self) -> bool:
        """Whether blocks and heads are trained after the heads are solved."""
        return bool(self.steps or self.seconds)

    @property
    def layers(self) -> tuple[int, ...]:
        """The exits to make."""
        return self.settings.layers

    def identity(self) -> dict[str, Any]:
        """Everything that must be the same when a distillation is resumed."""
        return {
            "settings": dataclasses.asdict(self.settings),
            "model": self.base.origin.fingerprint,
            "texts": self.texts.sha256,
            "max_tokens": self.reading.max_tokens,
            "max_texts": self.reading.max_texts,
            "steps": self.steps,
            "minutes": None if self.seconds is None else self.seconds / 60,
            "device": self.device,
        }
