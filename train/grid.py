"""The grid recipe: one forward pass a step gives every exit, and every step trains every (layer, dim) cell."""

from collections.abc import Sequence
from dataclasses import replace
from threading import Event
from typing import Any

import torch
from torch import Tensor

from m2d_export.checkpoints.load import Checkpoint
from m2d_export.text.tokenizer import Tokenizer

from .evaluate import Evaluator, Scores
from .job import Job
from .log import Trained, Watcher, undefined_loss
from .loop import Epochs, train_stepwise
from .losses import GridLoss, grid_loss
from .memory import explain_out_of_memory, in_a_step
from .model import exit_vectors, with_heads
from .recipes import GridRecipe
from .work import WorkFolder

TOKEN_BUDGET = 384  # tokens of a group on a CPU: small groups have less padding, large groups use the cores better


class GridTraining:
    """A checkpoint in training with ``GridRecipe``. On a CPU, a process that loads ``state`` continues bit for bit."""

    def __init__(self, job: Job) -> None:
        recipe, data = job.recipe, job.data
        if not isinstance(recipe, GridRecipe):
            raise TypeError(f"expected a GridRecipe, got {recipe}")
        torch.manual_seed(recipe.seed)
        checkpoint = with_heads(job.checkpoint, recipe.layers)
        self.recipe, self.data, self.checkpoint, self.spec = recipe, data, checkpoint, checkpoint.text
        self.device = torch.device(job.device)
        self.evaluator = Evaluator(checkpoint, data.dev, recipe.layers, recipe.dims)
        self.model = self.evaluator.model.to(self.device)
        self.budget = TOKEN_BUDGET if self.device.type == "cpu" else 1 << 30  # a GPU runs the whole step at once
        tokenizer = Tokenizer(checkpoint.tokenizer_json, checkpoint.text)
        self.train = tokenizer.encode(data.train.texts, checkpoint.text.prompt())
        self.unlabelled = tokenizer.encode(data.unlabelled, checkpoint.text.prompt())
        self.gold = torch.tensor(data.train.scores, dtype=torch.float32, device=self.device)
        heads, encoder = self._trainable()
        self.weights = [*encoder, *heads]
        self.optimizer = torch.optim.AdamW(
            [{"params": encoder, "lr": recipe.learning_rate}, {"params": heads, "lr": recipe.head_learning_rate}],
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.autocast = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(job.precision)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=job.precision == "fp16")
        self.epochs = Epochs.of(job)
        self.steps, self.step = self.epochs.steps, 0

    def _trainable(self) -> tuple[list[Tensor], list[Tensor]]:
        """The weights of the heads, and all other weights that an exit reads; the others are frozen."""
        heads: list[Tensor] = []
        others: list[Tensor] = []
        for name, weight in self.model.named_parameters():
            read = ".pooler." not in name  # BERT's pooler, for next-sentence prediction
            weight.requires_grad_(read)
            if read:
                (heads if name.startswith("heads.") else others).append(weight)
        return heads, others

    def take_step(self) -> float:
        """Train on the next batch; returns the loss. Raises TrainingError if it is not finite or memory runs out."""
        self._set_learning_rate()
        self.model.train()
        with explain_out_of_memory(self.device.type, in_a_step(self.recipe.batch_size)):
            loss = self._loss(self.epochs.rows(self.step))
            if not torch.isfinite(loss.total):
                raise undefined_loss(loss.total.item(), self.step + 1)
            self.optimizer.zero_grad()
            self.scaler.scale(loss.total).backward()  # type: ignore[no-untyped-call]
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.weights, self.recipe.clip_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.step += 1
        return loss.total.item()

    def unlabelled_batch(self, step: int) -> list[int]:
        """The places of a step's sentences without scores; empty if the data has none."""
        if not self.unlabelled:
            return []
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + self.recipe.epochs + step)
        places = torch.randint(len(self.unlabelled), (self.recipe.unlabelled,), generator=generator)
        return places.tolist()

    def _loss(self, pairs: Sequence[int]) -> GridLoss:
        sentences = [self.train[row] for row in (*self.data.train.left[pairs], *self.data.train.right[pairs])]
        sentences += [self.unlabelled[row] for row in self.unlabelled_batch(self.step)]
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            vectors = exit_vectors(self.model, sentences, self.spec, self.budget)
        return grid_loss(vectors.float(), self.gold[pairs], self.recipe.dims, self.recipe.weights)

    def _set_learning_rate(self) -> None:
        """Linear warm-up from 0, then linear decay to 0."""
        warmup = round(self.recipe.warmup_ratio * self.steps)
        share = self.step / warmup if self.step < warmup else (self.steps - self.step) / max(1, self.steps - warmup)
        rates = (self.recipe.learning_rate, self.recipe.head_learning_rate)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share

    def grid(self) -> Scores:
        """The dev score of every cell."""
        return self.evaluator.grid()

    def state(self) -> dict[str, Any]:
        """Everything that another process needs to continue."""
        return {
            "step": self.step,
            "weights": [weight.detach() for weight in self.weights],
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
        }

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """Load the ``state`` of another process, of a training with the same recipe, checkpoint and data."""
        self.step = state["step"]
        for weight, value in zip(self.weights, state["weights"], strict=True):
            weight.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"])

    def result(self) -> Checkpoint:
        """The checkpoint with its trained heads. A table is left out, because the space of the vectors has changed."""
        self.model.eval()
        return replace(self.checkpoint, table=None)


def train_grid(job: Job, work: WorkFolder, stop: Event, watcher: Watcher) -> Trained | None:
    """Train with ``GridRecipe`` from the state in ``work``; returns None if ``stop`` was set before the end."""
    return train_stepwise(GridTraining(job), job, work, stop, watcher)
