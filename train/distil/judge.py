"""How well exits agree with the base on held-out text: every choice of a distillation is made by it."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from m2d_export.agreement import agreement_reference, correlation
from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.checkpoints.load import Checkpoint
from m2d_export.errors import CheckpointError
from m2d_export.report.formatting import score
from m2d_export.spec import Cell
from m2d_export.text.tokenizer import TokenIds
from m2d_export.vectors import cosine

from ..evaluate import Scores
from ..model import exit_vectors
from .features import TOKENS, Teacher, fast_attention

BLOCK = 512  # texts that are encoded together
LARGEST = 2500  # held-out texts that are used
STATED = 1000  # of these, the texts whose agreement the card states
UNDEFINED = -100.0  # agreement of vectors whose cosines are all the same or not finite: they never win


class Judge:
    """The base's vectors of held-out texts, and comparisons with them.

    Raises CheckpointError if these vectors are not finite or all the same: nothing can be learned from them.
    """

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors.numpy()
        if not np.isfinite(self.vectors).all():
            raise CheckpointError(
                "the base's vectors of held-out texts are not finite, its weights are too large: use other weights"
            )
        self._pairs = agreement_reference(self.vectors)
        if correlation("spearmanr", self._pairs.cosines, self._pairs.cosines) is None:
            raise CheckpointError(
                "the base gives the same vector to all held-out texts: check its weights, the texts and --max-tokens"
            )

    def measured(self, vectors: Tensor) -> float | None:
        """Spearman x 100 between the cosines of text pairs and those of the base, as in ``bench --texts``.

        (texts, dim) -> a number; None if it is undefined, as of vectors that are all the same or not finite.
        """
        found = vectors.numpy()
        cosines = cosine(found[self._pairs.left], found[self._pairs.right])
        return correlation("spearmanr", cosines, self._pairs.cosines)

    def agreement(self, vectors: Tensor) -> float:
        """The same as a number to choose by."""
        spearman = self.measured(vectors)
        return UNDEFINED if spearman is None else spearman

    def closeness(self, vectors: Tensor) -> float:
        """The mean cosine between (texts, width) and the base's vectors; -1 if a number is not finite."""
        mean = float(cosine(vectors.numpy(), self.vectors).mean())
        return mean if np.isfinite(mean) else -1.0


def shown(agreement: float) -> str:
    """An agreement to print."""
    return score(None if agreement == UNDEFINED else agreement)


def agreement_grid(
    teacher: Teacher, student: Checkpoint, held_out: Sequence[TokenIds], dims: Sequence[int], layers: Sequence[int]
) -> Scores:
    """The agreement of every cell of ``student`` with the base on held-out texts, Spearman x 100."""
    held_out = held_out[:LARGEST]
    judge = Judge(teacher.collected(held_out, ()).vectors)
    exits = ExitEncoder(fast_attention(student), layers).eval().to(teacher.device)
    return {
        Cell(layer, dim): judge.measured(vectors[:, :dim])
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
