"""The log of a training's evaluations, and the result that it ends with."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from m2d_export.checkpoints.load import Checkpoint
from m2d_export.errors import TrainingError
from m2d_export.spec import Cell

from .evaluate import Scores

DIVERGED = 20.0  # if the full cell's dev score is so many points below its best, the training has diverged
REMEDY = "choose a lower --learning-rate"
NOT_FINITE = "a weight or a value of the optimizer is NaN or infinity"
REMEDIES = {"training": REMEDY, "distil": "leave the training out with --minutes 0"}  # by the kind of a work folder


@dataclass(frozen=True)
class Entry:
    """One evaluation: the step before it, the loss of that step, the dev scores of all cells."""

    step: int
    loss: float
    scores: Scores

    @property
    def full(self) -> float | None:
        """The score of the full cell."""
        return self.scores[max(self.scores)]

    def to_json(self) -> dict[str, Any]:
        """The entry as ``m2d.json`` and saved states hold it."""
        return {"step": self.step, "loss": self.loss, "dev": {str(cell): score for cell, score in self.scores.items()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Entry":
        """Read what ``to_json`` wrote."""
        return cls(value["step"], value["loss"], {Cell.parse(cell): score for cell, score in value["dev"].items()})


@dataclass(frozen=True)
class Trained:
    """The result of a training: the checkpoint and the log.

    ``failure`` is the error that ended the training early, None if there was none. The weights are then those of the
    last saved state.
    """

    checkpoint: Checkpoint
    log: tuple[Entry, ...]
    failure: str | None = None


class Watcher(Protocol):
    """An object that is told about each step and each evaluation of a training."""

    def step(self, step: int, steps: int, loss: float) -> None:
        """A step of all ``steps`` was taken."""
        ...

    def evaluated(self, entry: Entry) -> None:
        """The dev split was scored."""
        ...


def check_divergence(log: Iterable[Entry]) -> None:
    """Raise TrainingError if the full cell's last dev score is undefined or far below its best one."""
    *earlier, last = (entry.full for entry in log)
    best = max((score for score in earlier if score is not None), default=None)
    if last is None:
        raise TrainingError(f"the training diverged, the full cell's dev score is undefined: {REMEDY}")
    if best is not None and last < best - DIVERGED:
        raise TrainingError(
            f"the training diverged, the full cell's dev score fell to {last:.1f} from {best:.1f} at best: {REMEDY}"
        )


def undefined_loss(loss: float, step: int) -> TrainingError:
    """The error for a loss that is not a finite number after ``step`` steps."""
    return TrainingError(f"the loss is {loss} at step {step}: {REMEDY}")


def is_finite(state: object) -> bool:
    """Whether no tensor in nested dicts and lists has NaN or infinity: a training can go on from it."""
    if isinstance(state, torch.Tensor):
        return bool(torch.isfinite(state).all())
    if isinstance(state, dict | list | tuple):
        return all(map(is_finite, state.values() if isinstance(state, dict) else state))
    return True


def check_finite(state: object, kind: str = "training") -> None:
    """Raise TrainingError unless ``is_finite``; the message says what helps in a training of this ``kind``."""
    if not is_finite(state):
        raise TrainingError(f"{NOT_FINITE}: {REMEDIES[kind]}")
