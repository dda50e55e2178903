"""Which texts each step of a training reads."""

import torch
from torch import Tensor

from .settings import OWN_WEIGHT


class Order:
    """Which texts each step reads: the user's have a larger share, and each list is read once before it repeats."""

    def __init__(self, own: int, mix: int, batch: int, seed: int) -> None:
        self.own, self.mix, self.batch, self.seed = own, mix, min(batch, own + mix), seed
        self.share = OWN_WEIGHT * own / (OWN_WEIGHT * own + mix)
        self._shuffled: dict[tuple[int, int], Tensor] = {}

    def rows(self, step: int) -> Tensor:
        """The places of the texts of a step; first come the user's, then those of the mix."""
        first, end = (int(place * self.batch * self.share) for place in (step, step + 1))
        other = self.batch - (end - first)
        start = step * self.batch - first
        return torch.cat([self._read(0, self.own, first, end - first), self._read(self.own, self.mix, start, other)])

    def _read(self, offset: int, count: int, start: int, length: int) -> Tensor:
        rows = []
        for place in range(start, start + length):
            epoch, row = divmod(place, count)
            rows.append(offset + int(self._order(offset, count, epoch)[row]))
        return torch.tensor(rows, dtype=torch.int64)

    def _order(self, offset: int, count: int, epoch: int) -> Tensor:
        key = (offset, epoch)
        if key not in self._shuffled:
            self._shuffled = {kept: order for kept, order in self._shuffled.items() if kept[0] != offset}
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + 2 * epoch + (offset > 0))
            self._shuffled[key] = torch.randperm(count, generator=generator)
        return self._shuffled[key]
