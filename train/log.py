"""What a training says of itself while it runs, and hands over when it ends."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from m2d_export.errors import TrainingError
from m2d_export.spec import Cell
from train.evaluate import Scores

DIVERGED = 20.0  # points of the full cell's dev score under its best from which a training is lost


@dataclass(frozen=True)
class Entry:
    """An evaluation: after which step, the loss there, dev scores of all cells."""

    step: int
    loss: float
    scores: Scores

    @property
    def full(self) -> float | None:
        """The full cell's score."""
        return self.scores[max(self.scores)]

    def to_json(self) -> dict[str, Any]:
        """As ``m2d.json`` and saved states hold it."""
        return {"step": self.step, "loss": self.loss, "dev": {str(cell): score for cell, score in self.scores.items()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Entry":
        """Read back what ``to_json`` gave."""
        cells = {Cell(*map(int, cell.split("x"))): score for cell, score in value["dev"].items()}
        return cls(value["step"], value["loss"], cells)


@dataclass(frozen=True)
class Trained:
    """The end of a training whose model holds its weights; ``lost`` says why it did not come to its own end."""

    heads: Mapping[int, nn.Module]
    log: tuple[Entry, ...]
    lost: str | None = None


class Watcher(Protocol):
    """Whoever watches a training."""

    def step(self, step: int, steps: int, loss: float) -> None:
        """A step was taken."""
        ...

    def evaluated(self, entry: Entry) -> None:
        """Dev was scored."""
        ...


def check_progress(log: Iterable[Entry]) -> None:
    """Raise TrainingError where the full cell's last score is undefined or far below its best."""
    *earlier, last = (entry.full for entry in log)
    best = max((score for score in earlier if score is not None), default=None)
    if last is None:
        raise TrainingError("diverged: the full cell's dev score is undefined; a lower --learning-rate may help")
    if best is not None and last < best - DIVERGED:
        raise TrainingError(
            f"diverged: the full cell's dev score fell to {last:.1f}, after {best:.1f} at best; a lower "
            "--learning-rate may help"
        )
