"""The model that the grid recipe trains: all exits from one forward pass, with a head on each exit except the last."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import torch
from sentence_transformers.sentence_transformer.modules import Dense
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.checkpoints.heads import Head
from m2d_export.checkpoints.load import Checkpoint
from m2d_export.spec import HeadSpec, TextSpec
from m2d_export.text.batches import batches
from m2d_export.text.tokenizer import TokenIds


def with_heads(checkpoint: Checkpoint, layers: Sequence[int]) -> Checkpoint:
    """The checkpoint with a linear head at every layer of ``layers`` below the depth; a new head is the identity."""
    width = checkpoint.encoder.config.hidden_size * len(checkpoint.pooling.modes)
    below = [layer for layer in layers if layer < checkpoint.depth]
    new = {layer: Head(HeadSpec(layer, (layer,)), identity_head(width)) for layer in below}
    kept = {layer: head for layer, head in checkpoint.heads.items() if layer in below}
    return replace(checkpoint, heads=new | kept)


def identity_head(width: int) -> nn.Module:
    """A sentence-transformers Dense that returns its input until it is trained: (texts, width) -> (texts, width)."""
    head = Dense(width, width, activation_function=nn.Identity())
    with torch.no_grad():
        nn.init.eye_(head.linear.weight)
        nn.init.zeros_(head.linear.bias)
    return head


def exit_vectors(
    model: ExitEncoder,
    sentences: Sequence[TokenIds],
    spec: TextSpec,
    token_budget: int,
    again: Callable[[], AbstractContextManager[None]] | None = None,
) -> Tensor:
    """The vectors of N sentences, (L, N, W), in their order.

    Sentences of similar length run together, which saves padding. With ``again``, memory has the activations of one
    group at a time: the backward pass computes them once more, within this context.
    """
    device = next(model.parameters()).device
    run: Callable[..., tuple[Tensor, ...]] = model
    if again is not None:
        run = partial(recomputed, model, use_reentrant=False, context_fn=lambda: (nullcontext(), again()))
    groups = list(batches(sentences, spec, token_budget))
    parts = [
        torch.stack(
            run(
                *(
                    None if array is None else torch.from_numpy(array).to(device)
                    for array in (group.input_ids, group.attention_mask, group.pooling_mask)
                )
            )
        )
        for group in groups
    ]
    rows = torch.tensor([row for group in groups for row in group.rows], device=device)
    return torch.cat(parts, dim=1)[:, rows.argsort()]
