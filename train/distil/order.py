"""Which texts each step of a training reads."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .settings import OWN_WEIGHT

WINDOW = 32  # so many steps are planned together, so that many texts have similar lengths
GROUPS = 4  # of texts of similar length in a step: padding is rare, and a step still has several lengths


class Order:
    """Which texts each step reads: the user's have a larger share, and each list is read once before it repeats.

    ``own`` and ``mix`` are the lengths of the user's texts and of those of the mix, in tokens.
    """

    def __init__(self, own: Sequence[int], mix: Sequence[int], batch: int, seed: int) -> None:
        self.own, self.mix, self.seed = len(own), len(mix), seed
        self.lengths = torch.tensor([*own, *mix])
        self.batch = min(batch, self.own + self.mix) // GROUPS * GROUPS
        self.share = OWN_WEIGHT * self.own / (OWN_WEIGHT * self.own + self.mix)
        epoch = self.own / (self.share * self.batch)  # steps until the user's texts repeat
        self.window = max(1, min(WINDOW, int(epoch)))  # a text that came twice in it could come twice in a step
        self._planned: tuple[int, Tensor] = (-1, torch.empty(0))
        self._shuffled: dict[tuple[int, int], Tensor] = {}

    def rows(self, step: int) -> Tensor:
        """The places of the texts of a step among the user's texts, followed by those of the mix."""
        window, place = divmod(step, self.window)
        if self._planned[0] != window:
            self._planned = (window, self._plan(window))
        return self._planned[1][place]

    def _plan(self, window: int) -> Tensor:
        """The texts of all steps of a window: (steps, batch)."""
        steps = window * self.window, (window + 1) * self.window
        first, end = (int(step * self.batch * self.share) for step in steps)
        own = self._read(0, self.own, first, end - first)
        mix = self._read(self.own, self.mix, steps[0] * self.batch - first, self.window * self.batch - len(own))
        rows = torch.cat([own, mix])
        groups = rows[self.lengths[rows].argsort()].view(self.window * GROUPS, -1)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + window)
        return groups[torch.randperm(len(groups), generator=generator)].view(self.window, self.batch)

    def _read(self, offset: int, count: int, start: int, length: int) -> Tensor:
        parts, end = [torch.empty(0, dtype=torch.int64)], start + length
        while start < end:
            epoch, row = divmod(start, count)
            parts.append(self._order(offset, count, epoch)[row : row + end - start])
            start += len(parts[-1])
        return torch.cat(parts) + offset

    def _order(self, offset: int, count: int, epoch: int) -> Tensor:
        key = (offset, epoch)
        if key not in self._shuffled:
            self._shuffled = {kept: order for kept, order in self._shuffled.items() if kept[0] != offset}
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + 2 * epoch + (offset > 0))
            self._shuffled[key] = torch.randperm(count, generator=generator)
        return self._shuffled[key]
