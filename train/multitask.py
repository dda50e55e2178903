"""The multitask recipe: a distilled checkpoint learns scored pairs, and its distillation goes on in every step."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from m2d_export.checkpoints.folder import M2D_JSON, read_object
from m2d_export.checkpoints.load import Checkpoint, load_checkpoint
from m2d_export.errors import SpecError
from m2d_export.text.tokenizer import Tokenizer

from .card import start_lines
from .distil.corpus import HELD_OUT, Reading, Texts, load_texts
from .distil.facts import origin_of
from .distil.features import Teacher
from .distil.judge import STATED, agreement_grid
from .distil.mix import NONE
from .distil.settings import Settings
from .distil.steps import Training
from .evaluate import Evaluator, Scores
from .job import Job
from .log import Trained, Watcher
from .loop import Epochs, train_stepwise
from .losses import LossWeights, cosent
from .memory import in_a_step
from .recipes import MultitaskRecipe
from .work import WorkFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MultitaskJob(Job):
    """A training of ``checkpoint``, which was distilled from ``teacher``; both read the texts without scores.

    ``stated`` is what m2d.json says of ``checkpoint``.
    """

    recipe: MultitaskRecipe
    teacher: Checkpoint = field(kw_only=True)
    reading: Reading = field(kw_only=True)
    texts: Texts = field(kw_only=True)
    stated: Mapping[str, Any] = field(kw_only=True)

    def identity(self) -> dict[str, Any]:
        """Everything that must be the same when a training is resumed."""
        return {**super().identity(), "base": self.teacher.origin.fingerprint, "texts": self.texts.sha256}

    def notes(self) -> list[str]:
        """The number of texts, and the exits that are left out."""
        held_out, start = len(self.texts.trained.held_out), self.checkpoint
        lines = [f"texts: {self.texts.own:,} of {self.texts.read:,}; {held_out:,} of them are held out"]
        if left_out := sorted({*start.exits} & {*(start.trained_layers or ())} - {*self.layers}):
            lines.append(f"left out, because --layers does not name them: exits {', '.join(map(str, left_out))}")
        return lines

    def facts(self) -> dict[str, Any]:
        """What the distillation learns from, and what m2d.json said of the checkpoint before the training."""
        return {"distillation": origin_of(self.teacher, self.reading, self.texts), "start": self.stated}

    def measured(self, made: Checkpoint) -> dict[str, Any]:
        """The agreement of every cell with the base on texts that were held out."""
        teacher, held_out = Teacher(self.teacher, self.device), self.texts.trained.held_out[:STATED]
        grid = agreement_grid(teacher, made, held_out, self.recipe.dims, self.layers)
        return {"agreement": {str(cell): value for cell, value in grid.items()}}


def multitask_job(job: Job, base: str, paths: tuple[str, ...]) -> MultitaskJob:
    """Add the checkpoint ``base`` and texts in ``paths``, without a mix: as many as the steps read, or all there are.

    A ``base`` on the Hub is loaded at the revision that was distilled. Raises SpecError if the job's checkpoint was not
    distilled from ``base``, or if its m2d.json has facts of another form.
    """
    start, recipe = job.checkpoint, job.recipe
    if not isinstance(recipe, MultitaskRecipe):
        raise TypeError(f"expected a MultitaskRecipe, got {recipe}")
    stated = read_object(start.folder / M2D_JSON)
    try:
        start_lines(stated)  # the card will have them: a fault is found before the training
        origin = stated.get("distillation", stated)
        distilled_from = str(origin.get("fingerprint", start.space))
        revision = origin.get("revision") if origin.get("base") == base and not Path(base).exists() else None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SpecError(
            f"{start.folder / M2D_JSON} lacks facts that m2d-export distil writes ({error!r}): give a folder that it "
            "wrote"
        ) from error
    teacher = load_checkpoint(base, revision, otherwise=start.pooling.modes[0])
    if teacher.origin.fingerprint != distilled_from:
        raise SpecError(
            f"{job.base} was not distilled from {base}: it was made from a checkpoint with the fingerprint "
            f"{distilled_from[:12]}.., and this one has {teacher.origin.fingerprint[:12]}..; give the checkpoint that "
            "m2d-export distil read"
        )
    read = Epochs.of(job).steps * recipe.texts_per_step
    most = max(Reading.max_texts, math.ceil(read * HELD_OUT / (HELD_OUT - 1)))
    reading = Reading(paths, NONE, most, seed=recipe.seed)
    texts = load_texts(teacher, reading, job.device)
    return MultitaskJob(**vars(job), teacher=teacher, reading=reading, texts=texts, stated=stated)


class MultitaskTraining(Training):
    """The steps of a distillation with pairs in each of them, and with dropout.

    The last exit may go as far from the base as the pairs ask.
    """

    steps: int

    def __init__(self, job: MultitaskJob) -> None:
        self.recipe, self.pairs, self.epochs = job.recipe, job.data.train, Epochs.of(job)
        recipe = job.recipe
        self.others = 2 * recipe.batch_size
        self.out_of_memory = in_a_step(recipe.batch_size, recipe.texts_per_step)
        start = job.checkpoint if 0 in recipe.layers else replace(job.checkpoint, table=None)
        super().__init__(
            Teacher(job.teacher, job.device),
            start,
            job.texts.trained,
            Settings(recipe.layers, recipe.dims, seed=recipe.seed),
            lambda line: log.warning("%s", line),
            steps=self.epochs.steps,
            batch=recipe.texts_per_step,
            rate=recipe.learning_rate,
            head_rate=recipe.head_learning_rate,
            last=recipe.last_layer,
        )
        self.evaluator = Evaluator(self.checkpoint_in_training, job.data.dev, recipe.layers, recipe.dims)
        self.evaluator.model.eval().to(self.device)
        tokenizer = Tokenizer(start.tokenizer_json, start.text)
        self.sentences = tokenizer.encode(self.pairs.texts, start.text.prompt())
        self.gold = torch.tensor(self.pairs.scores, dtype=torch.float32, device=self.device)

    def loss(self) -> Tensor:
        """The loss of the next texts, and CoSENT of the next pairs at every exit and dim: ()."""
        self.exits.encoder.train()  # with dropout: without it, train scores rise and dev scores fall
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.step)  # a resumed training drops the same
        rows = self.epochs.rows(self.step)
        places = (*self.pairs.left[rows], *self.pairs.right[rows])
        left, right = self.vectors([self.sentences[place] for place in places]).chunk(2, dim=1)  # (L, B, W)
        cosines = [cosine_similarity(left[..., :dim], right[..., :dim], dim=-1) for dim in self.recipe.dims]
        order = cosent(torch.stack(cosines), self.gold[rows], LossWeights.scale).mean()
        return super().loss() + self.recipe.pairs_weight * order

    def _check(self) -> None:
        """Keep the state: unlike in a distillation, the last exit is to learn too."""
        self._good = self._state()

    def grid(self) -> Scores:
        """The dev score of every cell with the mean of the weights."""
        with self.averaged.used():
            return self.evaluator.grid()

    def result(self) -> Checkpoint:
        """The checkpoint with the mean of the weights."""
        return self.checkpoint()


def train_multitask(job: Job, work: WorkFolder, stop: Event, watcher: Watcher) -> Trained | None:
    """Train with ``MultitaskRecipe`` from the state in ``work``; returns None if ``stop`` was set before the end."""
    if not isinstance(job, MultitaskJob):
        raise TypeError(f"expected a MultitaskJob, got {job}")
    return train_stepwise(MultitaskTraining(job), job, work, stop, watcher)
