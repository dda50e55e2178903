"""The weights of a training, and their mean over the last steps: single steps scatter around a better place."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

AVERAGED = 20  # about so many of the last steps count in the mean


class AveragedWeights:
    """Some ``weights`` in training, with the mean of each."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.weights = list(weights)
        self._means = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def add(self, step: int) -> None:
        """Count the weights after ``step`` steps in the means."""
        for mean, weight in zip(self._means, self.weights, strict=True):
            mean.lerp_(weight, 1 / min(AVERAGED, step))

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Give the modules that have the weights their means."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for mean, weight in zip(self._means, self.weights, strict=True):
            mean.data, weight.data = weight.data, mean.data

    def state(self) -> dict[str, list[Tensor]]:
        """Copies of the weights and of the means, on the CPU."""
        weights, means = ([one.detach().cpu().clone() for one in some] for some in (self.weights, self._means))
        return {"weights": weights, "average": means}

    @torch.no_grad()
    def load(self, state: Mapping[str, Any]) -> None:
        """Take over a ``state``; raises ValueError if it has another number of weights."""
        for own, saved in ((self.weights, state["weights"]), (self._means, state["average"])):
            for weight, value in zip(own, saved, strict=True):
                weight.copy_(value)
