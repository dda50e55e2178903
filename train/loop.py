"""The steps of a training, with evaluations on dev, saved states, and a stop between two steps."""

from dataclasses import dataclass
from threading import Event
from typing import Any, Protocol

import torch

from m2d_export.checkpoints.load import Checkpoint
from m2d_export.errors import TrainingError

from .evaluate import Scores
from .job import Job
from .log import Entry, Trained, Watcher, check_divergence
from .memory import IN_EVALUATION, explain_out_of_memory
from .work import WorkFolder


@dataclass(frozen=True)
class Epochs:
    """Which of ``pairs`` pairs each step reads. Each epoch has its own order, and leaves out a last, smaller batch."""

    epochs: int
    pairs: int
    batch: int
    seed: int

    @classmethod
    def of(cls, job: Job) -> "Epochs":
        """The epochs that the recipe of ``job`` asks for."""
        recipe = job.recipe
        return cls(recipe.epochs, len(job.data.train.scores), recipe.batch_size, recipe.seed)

    @property
    def batches(self) -> int:
        """The number of steps in an epoch."""
        return self.pairs // self.batch or 1

    @property
    def steps(self) -> int:
        """The number of steps in all epochs."""
        return self.epochs * self.batches

    def rows(self, step: int) -> list[int]:
        """The places of a step's pairs; the random seed and the epoch decide the order."""
        epoch, place = divmod(step, self.batches)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        rows: list[int] = torch.randperm(self.pairs, generator=generator)[place * self.batch :][: self.batch].tolist()
        return rows


class Stepwise(Protocol):
    """A training that takes one step at a time; another process continues it from its ``state``."""

    step: int
    steps: int

    def take_step(self) -> float:
        """Train on the next batch; returns the loss. Raises TrainingError if it is not a finite number."""
        ...

    def grid(self) -> Scores:
        """The dev score of every cell with the current weights."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that another process needs to continue."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Load the ``state`` of another process."""
        ...

    def result(self) -> Checkpoint:
        """The trained checkpoint."""
        ...


def train_stepwise(training: Stepwise, job: Job, work: WorkFolder, stop: Event, watcher: Watcher) -> Trained | None:
    """Take all steps, or those that are left of a saved training; returns None if ``stop`` was set before the end.

    The state is saved after every evaluation and before a stop. Raises TrainingError if the training fails before its
    first evaluation, or if the saved state belongs to another training.
    """
    saved = work.saved()
    log: list[Entry] = []
    if saved is not None:
        try:
            log = _restored(training, saved)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:  # other names, types, counts or shapes
            raise TrainingError(
                f"the state in {work.path} belongs to another training: remove the folder and start again"
            ) from error
    failure = None
    try:
        while training.step < training.steps:
            if stop.is_set():
                work.save(training.state(), log)
                return None
            loss = training.take_step()
            watcher.step(training.step, training.steps, loss)
            if training.step % job.recipe.eval_steps == 0 or training.step == training.steps:
                with explain_out_of_memory(job.device, IN_EVALUATION):
                    log.append(Entry(training.step, loss, training.grid()))
                check_divergence(log)
                watcher.evaluated(log[-1])
                work.save(training.state(), log)
    except TrainingError as error:
        good = work.saved()
        if good is None:
            raise
        log = _restored(training, good)
        failure = f"{error} (step {training.step} is the last good one)"
    return Trained(training.result(), tuple(log), failure)


def _restored(training: Stepwise, saved: tuple[dict[str, Any], list[Entry]]) -> list[Entry]:
    """Load a saved state; returns its log."""
    state, log = saved
    training.load_state(state)
    return log
