"""Scores of a model on graded pairs: Spearman at every cell, and more metrics of the full cell."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from m2d_export.bench.similarity import correlations, emitted, spearman
from m2d_export.bench.sts import Pairs
from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.checkpoints.load import Checkpoint
from m2d_export.spec import Cell, TextSpec
from m2d_export.text.batches import TOKEN_BUDGET
from m2d_export.text.tokenizer import TokenIds, Tokenizer
from m2d_export.vectors import cosine

from .model import exit_vectors

Scores = Mapping[Cell, float | None]
BLOCK = 256  # texts that are encoded together, so that activations do not grow with the split


@dataclass(frozen=True)
class SplitScores:
    """The scores of a checkpoint on one split: Spearman x 100 of every cell, and ``card_metrics`` of the full cell."""

    grid: Scores
    metrics: Mapping[str, float | None]


class Evaluator:
    """Scores the exits of a checkpoint with their current weights, on pairs that are tokenized once."""

    def __init__(self, checkpoint: Checkpoint, pairs: Pairs, layers: Iterable[int], dims: Sequence[int]) -> None:
        self.checkpoint, self.pairs, self.layers, self.dims = checkpoint, pairs, tuple(layers), tuple(dims)
        self.model = ExitEncoder(checkpoint, self.layers)
        tokenizer = Tokenizer(checkpoint.tokenizer_json, checkpoint.text)
        self.sentences = tokenizer.encode(pairs.texts, checkpoint.text.prompt())

    def vectors(self) -> NDArray[np.float32]:
        """The vectors of every exit, not normalised: (exits, texts, width)."""
        return all_vectors(self.model, self.sentences, self.checkpoint.text)

    def grid(self) -> Scores:
        """Spearman x 100 of cosine at every cell."""
        return grid_scores(self.vectors(), self.pairs, self.layers, self.dims)

    def scores(self) -> SplitScores:
        """The grid, and the metrics of the full cell."""
        vectors = self.vectors()
        metrics = card_metrics(vectors[-1], self.pairs, self.checkpoint.normalize)
        return SplitScores(grid_scores(vectors, self.pairs, self.layers, self.dims), metrics)


@torch.inference_mode()
def all_vectors(model: ExitEncoder, sentences: Sequence[TokenIds], spec: TextSpec) -> NDArray[np.float32]:
    """The vectors of every exit in evaluation mode, not normalised: (exits, texts, width)."""
    training = model.training
    model.eval()
    by_length = sorted(range(len(sentences)), key=lambda row: len(sentences[row].ids))
    vectors: NDArray[np.float32] | None = None
    for start in range(0, len(by_length), BLOCK):
        rows = by_length[start : start + BLOCK]
        block = exit_vectors(model, [sentences[row] for row in rows], spec, TOKEN_BUDGET).float().cpu().numpy()
        if vectors is None:
            vectors = np.empty((block.shape[0], len(sentences), block.shape[2]), dtype=np.float32)
        vectors[:, rows] = block
    model.train(training)
    return vectors if vectors is not None else np.empty((0, 0, 0), dtype=np.float32)


def grid_scores(
    vectors: NDArray[np.float32], pairs: Pairs, layers: Sequence[int], dims: Sequence[int]
) -> dict[Cell, float | None]:
    """Spearman x 100 of cosine at every cell; None if it is undefined, as that of a diverged model is."""
    return {
        Cell(layer, dim): spearman(cosine(exit_[pairs.left, :dim], exit_[pairs.right, :dim]), pairs.scores)
        for layer, exit_ in zip(layers, vectors, strict=True)
        for dim in dims
    }


def card_metrics(full: NDArray[np.float32], pairs: Pairs, normalize: bool) -> dict[str, float | None]:
    """The ten metrics of sentence-transformers' EmbeddingSimilarityEvaluator, by name, for vectors (texts, width).

    They are Pearson and Spearman of four similarities, and the largest Pearson and Spearman, all from -1 to 1.
    """
    shipped = emitted(full, full.shape[1], normalize)
    found = correlations(shipped[pairs.left], shipped[pairs.right], pairs.scores)
    metrics: dict[str, float | None] = {}
    for kind, values in (("pearson", found.pearson), ("spearman", found.spearman)):
        metrics |= {f"{kind}_{name}": None if value is None else value / 100 for name, value in values.items()}
        metrics[f"{kind}_max"] = max((value / 100 for value in values.values() if value is not None), default=None)
    return metrics
