"""The rotation of the vector space by the principal axes of the last exit's vectors: dims that were never trained."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import Dense
from torch import Tensor, nn

from m2d_export.checkpoints.heads import Head
from m2d_export.checkpoints.load import Checkpoint
from m2d_export.checkpoints.slice import with_modules

from ..publish import digest_of


class Axes:
    """Collects the second moment of vectors (texts, width)."""

    def __init__(self, width: int) -> None:
        self._moment = torch.zeros(width, width, dtype=torch.float64)

    def add(self, vectors: Tensor, weights: Tensor) -> None:
        """Add vectors (texts, width) with their ``weights``."""
        self._moment += (vectors * weights[:, None]).T @ vectors

    def rotation(self) -> Tensor:
        """The principal axes as columns, the largest first: (width, width)."""
        axes: Tensor = torch.linalg.eigh(self._moment).eigenvectors
        return axes.flip(1).float().contiguous()


def assembled(
    base: Checkpoint,
    heads: Mapping[int, Head],
    table: nn.Module | None,
    rotation: Tensor | None,
    layers: tuple[int, ...],
    dims: tuple[int, ...],
) -> Checkpoint:
    """A copy of ``base`` with these heads, this table, and if given, a rotation after all its modules."""
    original = copy.deepcopy(base.original)
    first, pooling, *rest = list(original)
    tail = rest[:-1] if base.normalize else rest
    digest = base.rotation
    if rotation is not None:
        dense = Dense(base.width, base.width, bias=False, activation_function=nn.Identity())
        with torch.no_grad():
            dense.linear.weight.copy_(rotation.T)
        digest = digest_of(dense)
        original = with_modules(base, [first, pooling, *tail, dense, *rest[len(tail) :]], base.truncate_dim).eval()
        tail = [*tail, dense]
    encoder: Any = first
    return replace(
        base,
        original=original,
        encoder=encoder.auto_model,
        tail=tuple(tail),
        heads=dict(heads),
        table=table,
        rotation=digest,
        trained_layers=layers,
        trained_dims=tuple(sorted(dims)),
    )
