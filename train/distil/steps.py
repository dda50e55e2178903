"""Stage 2: heads and blocks by gradient, every exit and dim in every step, the last exit held to the base."""

import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.checkpoints.heads import Head
from m2d_export.checkpoints.load import Checkpoint
from m2d_export.errors import TrainingError
from m2d_export.text.tokenizer import TokenIds
from m2d_export.vectors import cosine

from ..arithmetic import fast_arithmetic
from ..memory import IN_DISTILLATION, explain_out_of_memory, fit_step
from ..model import exit_vectors, with_heads
from .average import AveragedWeights
from .features import Progress, Teacher, fast_attention
from .judge import all_vectors
from .loss import distillation_loss
from .order import Order
from .rotation import assembled
from .settings import Corpus, Settings

BATCH = {"cpu": 128, "cuda": 1024}  # texts in a step
BUDGET = {"cpu": 4096, "cuda": 48_000}  # tokens of a group
CHECK = {"cpu": 25, "cuda": 100}  # steps between two looks at the drift of the last exit
DRIFT_TEXTS = 200
RATE, HEAD_RATE, DECAY, CLIP = 3e-4, 1e-3, 0.01, 1.0
WARM_UP, LEAST_WARM_UP = 0.1, 40  # a share of the training, and a number of steps: the warm-up is the longer one
LAST = 6.0  # the weight of the last exit in the loss
RAISE, CALM = 1.5, 0.9  # after a return, the weight is multiplied by the first, the rate by at most the second
MOST_RETURNS = 6  # after so many returns the training ends with its last good state
ANSWERS = ("returns", "last", "calm")  # what a return changes


class Training:
    """A training of ``steps`` steps or, if that is None, of ``seconds``.

    Its result has the mean of the weights of the last steps. A state is good if with these weights the last exit is
    near the base on held-out text. ``batch`` texts are in a step. ``rate`` and ``head_rate`` are the highest learning
    rates, and ``last`` is the weight of the last exit in the loss.
    """

    out_of_memory = IN_DISTILLATION
    others = 0  # texts that a subclass reads in a step too

    def __init__(
        self,
        teacher: Teacher,
        start: Checkpoint,
        corpus: Corpus,
        settings: Settings,
        progress: Progress,
        *,
        steps: int | None = None,
        seconds: float | None = None,
        batch: int | None = None,
        rate: float | None = None,
        head_rate: float | None = None,
        last: float = LAST,
    ) -> None:
        self.teacher, self.start, self.settings, self.progress = teacher, start, settings, progress
        self.device, self.texts = teacher.device, corpus.texts
        own, mix = ([len(text.ids) for text in texts] for texts in (corpus.own, corpus.mix))
        self.order = Order(own, mix, batch or BATCH[self.device], settings.seed)
        self.steps, self.seconds = steps, seconds
        self.step, self.elapsed, self.returns = 0, 0.0, 0
        self.last, self.calm = last, 1.0  # the weight of the last exit, and a factor of the learning rate
        self.layers = [layer for layer in settings.layers if layer > 0]
        self.checkpoint_in_training = with_heads(fast_attention(start), self.layers)
        self.exits = ExitEncoder(self.checkpoint_in_training, self.layers).eval().to(self.device)  # without dropout
        encoder, heads = self._trainable()
        self.averaged = AveragedWeights([*encoder, *heads])
        words: Any = self.checkpoint_in_training.encoder.get_input_embeddings()
        words.sparse = True  # else each group of texts fills a gradient of the size of the vocabulary
        groups: list[dict[str, Any]] = [
            {"params": [weight for weight in encoder if weight.ndim > 1], "top": rate or RATE},
            {"params": [weight for weight in encoder if weight.ndim < 2], "top": rate or RATE, "weight_decay": 0.0},
            {"params": heads, "top": head_rate or HEAD_RATE},
        ]
        groups = [group for group in groups if group["params"]]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=DECAY, fused=True)
        count, longest = self.order.batch + self.others, int(self.order.lengths.max())
        self.memory = fit_step(self.device, start.encoder.config, count, longest, BUDGET[self.device])
        if self.memory.again:
            progress("a step would need much of the memory, so it computes activations twice, which takes longer")
        self.held_out = corpus.held_out[:DRIFT_TEXTS]
        self.goal = self._goal(teacher.collected(self.held_out, ()).targets).cpu()
        self._good = self._state()

    def _trainable(self) -> tuple[list[Tensor], list[Tensor]]:
        """The weights of the encoder that an exit reads, and those of the heads; the tail and the table are frozen."""
        encoder: list[Tensor] = []
        heads: list[Tensor] = []
        for name, weight in self.exits.named_parameters():
            kind = name.partition(".")[0]
            weight.requires_grad_(kind in ("encoder", "heads") and ".pooler." not in name)
            if weight.requires_grad:
                (heads if kind == "heads" else encoder).append(weight)
        return encoder, heads

    @property
    def share(self) -> float:
        """How much of the training is done, from 0 to 1."""
        if self.steps is not None:
            return self.step / self.steps if self.steps else 1.0
        return min(1.0, self.elapsed / self.seconds) if self.seconds else 1.0

    @property
    def finished(self) -> bool:
        """Whether no step is left, or the last exit cannot be held near the base."""
        return self.share >= 1 or self.returns >= MOST_RETURNS

    def take_step(self) -> float:
        """Train on the next texts; returns the loss. Raises TrainingError if it is not finite or memory runs out."""
        started = time.perf_counter()
        rate = min(1.0, self.share / WARM_UP + 0.01, (self.step + 1) / LEAST_WARM_UP) * (1 - self.share) * self.calm
        for group in self.optimizer.param_groups:
            group["lr"] = group["top"] * rate
        with explain_out_of_memory(self.device, self.out_of_memory):
            loss = self.loss()
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss is {loss.item()} at step {self.step + 1}: the base's vectors overflow or the training "
                    "diverges; check the base's weights, and give another --seed"
                )
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for weight in self.averaged.weights:
                if weight.grad is not None and weight.grad.is_sparse:
                    weight.grad = weight.grad.to_dense()
            torch.nn.utils.clip_grad_norm_(self.averaged.weights, CLIP)
            self.optimizer.step()
        self.step += 1
        self.averaged.add(self.step)
        self.elapsed += time.perf_counter() - started
        if self.step % CHECK[self.device] == 0 or self.finished:
            self._check()
        return loss.item()

    def loss(self) -> Tensor:
        """The loss of the next texts: ()."""
        rows = self.order.rows(self.step)
        base = self._goal(self.teacher.targets(self.texts, rows))
        vectors = self.vectors([self.texts[row] for row in rows.tolist()])
        return distillation_loss(vectors, base, self.settings.dims, self.last)

    def vectors(self, tokens: Sequence[TokenIds]) -> Tensor:
        """The vectors of all exits, not normalised: (exits, texts, width) float32."""
        again = partial(fast_arithmetic, self.device) if self.memory.again else None
        with fast_arithmetic(self.device):
            return exit_vectors(self.exits, tokens, self.start.text, self.memory.budget, again).float()

    @torch.no_grad()
    def _goal(self, targets: Tensor) -> Tensor:
        """The unit vectors that the base's ``targets`` become after the modules that all exits share."""
        return functional.normalize(self.exits.after_tail(targets.to(self.device)), dim=-1)

    def _check(self) -> None:
        """Keep the state if it is good. Otherwise return to the last good one, and hold the last exit more tightly.

        Its weight is raised. The learning rate is lowered too, by as much as the drift is over its limit, because the
        size of AdamW's steps does not depend on the weight.
        """
        started = time.perf_counter()
        drift = self.drift()
        if drift <= self.settings.max_drift:
            self._good = self._state()
        elif self.step > self._good["step"]:
            self.returns += 1
            self.last *= RAISE
            self.calm *= CALM * self.settings.max_drift / drift
            self.progress(
                f"step {self.step}: the last exit drifted {drift:.4f} from the base on held-out text, over "
                f"{self.settings.max_drift:g}: back to step {self._good['step']}, with the weight {self.last:g} for it "
                f"and {self.calm:.2g} of the learning rate"
            )
            now = {name: getattr(self, name) for name in ("elapsed", *ANSWERS)}  # time goes on
            self._good = {**self._good, **now, "weights": self._good["average"]}  # the last step may have been bad
            self._load(self._good)
        self.elapsed += time.perf_counter() - started

    def drift(self) -> float:
        """1 - the mean cosine between the last exit and the base on held-out text."""
        with self.averaged.used():
            vectors = all_vectors(self.exits, self.held_out, self.teacher)[-1]
        return 1 - float(cosine(vectors.numpy(), self.goal.numpy()).mean())

    @property
    def last_good(self) -> dict[str, Any]:
        """The last good state that a check has found; unlike ``state``, this changes nothing."""
        return self._good

    def state(self) -> dict[str, Any]:
        """The last good state: everything that another process needs to continue from it."""
        if self.step != self._good["step"]:
            self._check()
        return self._good

    def load_state(self, state: dict[str, Any]) -> None:
        """Load the ``state`` of another process, of a training with the same settings, checkpoint and texts."""
        self._load(state)
        self._good = self._state()

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "elapsed": self.elapsed,
            **{name: getattr(self, name) for name in ANSWERS},
            **self.averaged.state(),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
        }

    def _load(self, state: dict[str, Any]) -> None:
        for name in ("step", "elapsed", *ANSWERS):
            setattr(self, name, state[name])
        self.averaged.load(state)
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))

    def checkpoint(self) -> Checkpoint:
        """The checkpoint in its last good state, with eager attention again, on the CPU."""
        self._load(self.state())
        made = assembled(self.start, {}, self.start.table, None, self.settings.layers, self.settings.dims)
        trained = self.checkpoint_in_training
        with self.averaged.used():
            made.encoder.load_state_dict({name: value.cpu() for name, value in trained.encoder.state_dict().items()})
            heads = {layer: Head(head.spec, copy.deepcopy(head.dense).cpu()) for layer, head in trained.heads.items()}
        return replace(made, heads=heads)
