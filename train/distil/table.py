"""Exit 0 in closed form: a table with a vector for each token; the vector of a text is the mean of its tokens' rows."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from m2d_export.text.tokenizer import TokenIds, Tokenizer

from .features import Block, Teacher
from .heads import closest
from .judge import Judge
from .ridge import Sums

COMMON = 0.001  # a in the weight a / (a + share) of a token (Arora et al. 2017)


class TableRegression:
    """The regression from the weighted mean of a text's word embeddings to the last exit's pooled vector.

    ``embeddings`` are (vocabulary, numbers). A token has the weight a / (a + its share of all tokens of ``texts``).
    Special tokens do not count, as in exit 0.
    """

    def __init__(self, embeddings: Tensor, texts: Sequence[TokenIds], teacher: Teacher) -> None:
        base = teacher.checkpoint
        self.texts, self.special = texts, set(Tokenizer(base.tokenizer_json, base.text).special_ids)
        counts = torch.zeros(len(embeddings), dtype=torch.float64)
        for item in texts:
            counts += torch.bincount(torch.tensor(item.ids), minlength=len(counts))
        counts[list(self.special)] = 0
        weights = COMMON / (COMMON + counts / counts.sum().clamp(min=1))
        self.rows = embeddings.detach().float().cpu() * weights.float()[:, None]
        self.sums = Sums(self.rows.shape[1], teacher.pooled)

    def add(self, block: Block, weights: Tensor) -> None:
        """Add a block of the texts with their ``weights``."""
        self.sums.add(self.means([self.texts[row] for row in block.rows]), block.targets, weights)

    def means(self, tokens: Sequence[TokenIds]) -> Tensor:
        """The mean of the rows of each text, without the tokens of its prompt that are not pooled: (texts, numbers)."""
        return mean_rows(self.rows, tokens, self.special)

    def solve(
        self, held_out: Sequence[TokenIds], teacher: Teacher, judge: Judge, old: nn.Module | None
    ) -> "SolvedTable":
        """The table with the best regularisation, or ``old`` if that agrees better with the base on held-out text."""
        linear, agreement = closest(self.sums, slice(None), self.means(held_out), teacher.after_tail, judge)
        if old is not None:
            rows: Any = old.weight
            before = judge.agreement(teacher.after_tail(mean_rows(rows.detach().cpu(), held_out, self.special)))
            if before >= agreement:
                return SolvedTable(old, before)
        table = nn.Embedding(len(self.rows), teacher.pooled, _weight=linear(self.rows), _freeze=True)
        return SolvedTable(table, agreement)


@dataclass(frozen=True)
class SolvedTable:
    """A table (vocabulary, pooled), and its agreement with the base on held-out text."""

    table: nn.Module
    agreement: float


def mean_rows(rows: Tensor, tokens: Sequence[TokenIds], special: Collection[int]) -> Tensor:
    """The mean of the rows of each text's pooled tokens: (vocabulary, numbers) -> (texts, numbers).

    A text without other tokens is the mean of its special tokens.
    """
    own = [list(item.ids[item.prompt_length :]) or list(item.ids) for item in tokens]
    pooled = [[number for number in ids if number not in special] or ids for ids in own]
    starts = torch.tensor([0, *(len(ids) for ids in pooled[:-1])]).cumsum(0)
    flat = torch.tensor([number for ids in pooled for number in ids])
    return nn.functional.embedding_bag(flat, rows, starts, mode="mean")
