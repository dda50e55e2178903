"""How well exits agree with the base on held-out text: every choice of a distillation is made by it."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from m2d_export.agreement import agreement_reference, correlation
from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.checkpoints.load import Checkpoint
from m2d_export.spec import Cell
from m2d_export.text.tokenizer import TokenIds
from m2d_export.vectors import cosine

from ..model import exit_vectors
from .features import TOKENS, Teacher, fast_attention

BLOCK = 512  # texts that are encoded together
LARGEST = 2500  # held-out texts that are used


class Judge:
    """The base's vectors of held-out texts, and comparisons with them."""

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors.numpy()
        self._pairs = agreement_reference(self.vectors)

    def agreement(self, vectors: Tensor) -> float:
        """Spearman x 100 between the cosines of text pairs and those of the base, as in ``bench --texts``.

        (texts, dim) -> a number; -100 if it is undefined, so that such vectors never win.
        """
        found = vectors.numpy()
        cosines = cosine(found[self._pairs.left], found[self._pairs.right])
        spearman = correlation("spearmanr", cosines, self._pairs.cosines)
        return -100.0 if spearman is None else spearman

    def closeness(self, vectors: Tensor) -> float:
        """The mean cosine between (texts, width) and the base's vectors; -1 if a number is not finite."""
        mean = float(cosine(vectors.numpy(), self.vectors).mean())
        return mean if np.isfinite(mean) else -1.0


def agreement_grid(
    teacher: Teacher, student: Checkpoint, held_out: Sequence[TokenIds], dims: Sequence[int], layers: Sequence[int]
) -> Mapping[Cell, float]:
    """The agreement of every cell of ``student`` with the base on held-out texts, Spearman x 100."""
    held_out = held_out[:LARGEST]
    judge = Judge(teacher.collected(held_out, ()).vectors)
    exits = ExitEncoder(fast_attention(student), layers).eval().to(teacher.device)
    return {
        Cell(layer, dim): judge.agreement(vectors[:, :dim])
        for layer, vectors in zip(layers, all_vectors(exits, held_out, teacher), strict=True)
        for dim in dims
    }


@torch.inference_mode()
def all_vectors(exits: ExitEncoder, tokens: Sequence[TokenIds], teacher: Teacher) -> Tensor:
    """The vectors of every exit, not normalised: (exits, texts, width) float32."""
    order = sorted(range(len(tokens)), key=lambda row: -len(tokens[row].ids))
    parts = []
    for start in range(0, len(order), BLOCK):
        some = [tokens[row] for row in order[start : start + BLOCK]]
        parts.append(exit_vectors(exits, some, teacher.checkpoint.text, TOKENS[teacher.device]).float().cpu())
    return torch.cat(parts, dim=1)[:, torch.tensor(order).argsort()]
