"""The exits of a checkpoint as one PyTorch module: the float32 reference that every graph is compared with."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from m2d_export.checkpoints.load import NO_TABLE, Checkpoint
from m2d_export.checkpoints.modules import final_norm
from m2d_export.errors import CheckpointError
from m2d_export.spec import OUTPUT, Pooling
from m2d_export.text.tokenizer import Tokenizer
from m2d_export.vectors import FloatArray

if TYPE_CHECKING:
    from m2d_export.text.batches import Batch

SPECIAL_WEIGHT = 2.0**-20  # of a special token in exit 0; a power of two that fp16 can store


class ExitEncoder(nn.Module):
    """One forward pass gives a vector for each exit layer: exit k pools ``hidden_states[k]``, or what its head reads.

    Exit 0 is the mean of the token vectors of a table, without any layer. Special tokens have nearly no weight in it,
    as in StaticEmbedding of sentence-transformers. They decide only the vector of a text without other tokens.

    The last exit pools ``last_hidden_state``. The other exits have no final norm, because a 2D-Matryoshka loss trains
    them without it (docs/checkpoint-format.md). Vectors are not normalised.
    """

    token_weights: Tensor  # of each token in exit 0: (vocabulary,)

    def __init__(self, checkpoint: Checkpoint, layers: Sequence[int]) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.depth = checkpoint.depth
        self.pooling = checkpoint.pooling
        self.encoder = checkpoint.encoder
        self.specs = {layer: head.spec for layer, head in checkpoint.heads.items()}
        self.heads = nn.ModuleDict({str(layer): head.dense for layer, head in checkpoint.heads.items()})
        self.table = checkpoint.table
        if 0 in self.layers:
            if self.table is None:
                raise CheckpointError(NO_TABLE)
            weights = torch.ones(checkpoint.text.vocabulary)
            weights[Tokenizer(checkpoint.tokenizer_json, checkpoint.text).special_ids] = SPECIAL_WEIGHT
            self.register_buffer("token_weights", weights)
        self.tail = nn.ModuleList(checkpoint.tail)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, pooling_mask: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Vectors of each exit: (batch, tokens) int64 -> one (batch, width) float32 for each layer."""
        mask = attention_mask if pooling_mask is None else pooling_mask
        states = self.states(input_ids, attention_mask) if any(self.layers) else []
        pooled = cache(lambda layer, pooling: pool(states[layer], mask, pooling))  # heads share the layers they read
        return tuple(self.after_tail(self._own(layer, input_ids, mask, pooled)) for layer in self.layers)

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        """The output of the embeddings and of every layer: depth + 1 of (batch, tokens, hidden)."""
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
        states = [*output.hidden_states[:-1], output.last_hidden_state]
        if len(states) != self.depth + 1:
            raise CheckpointError(
                f"{type(self.encoder).__name__} returned the states of {len(states) - 1} layers, "
                f"but its config has {self.depth}: this architecture is not supported"
            )
        return states

    def _own(self, layer: int, input_ids: Tensor, mask: Tensor, pooled: Callable[[int, Pooling], Tensor]) -> Tensor:
        """The vector of an exit before the modules that all exits share."""
        if layer == 0:
            assert self.table is not None  # noqa: S101 - __init__ has checked it
            return pool(self.table(input_ids), mask * self.token_weights[input_ids], self.pooling.mean)
        if layer not in self.specs:
            return pooled(layer, self.pooling)
        spec = self.specs[layer]
        read = [pooled(place, spec.pooling(place, self.pooling)) for place in spec.reads]
        vector: Tensor = self.heads[str(layer)]({OUTPUT: torch.cat(read, dim=-1)})[OUTPUT]
        return vector

    def after_tail(self, vector: Tensor) -> Tensor:
        """The vector of an exit, (batch, width), from what its head or pooling gave."""
        features = {OUTPUT: vector}
        for module in self.tail:
            features = module(features)
        return features[OUTPUT]

    @torch.inference_mode()
    def vectors(self, batch: "Batch") -> tuple[FloatArray, ...]:
        """Vectors of each exit, (batch, width) float32, for weights on any device and of any type."""
        device = next(self.parameters()).device
        arrays = (batch.input_ids, batch.attention_mask, batch.pooling_mask)
        tensors = [None if array is None else torch.from_numpy(array).to(device) for array in arrays]
        return tuple(vector.float().cpu().numpy() for vector in self(*tensors))


def pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Pool the tokens whose mask is 1: (batch, tokens, hidden), (batch, tokens) -> (batch, hidden x modes).

    Padding is on the right. The result is the same as that of ``Pooling`` in sentence-transformers. Its operators are
    simple, so that every ONNX runtime fuses them.
    """
    weights = mask.to(states.dtype).unsqueeze(-1)  # (batch, tokens, 1)
    vectors = []
    for mode in pooling.modes:
        if mode in ("mean", "mean_sqrt_len_tokens"):
            count = weights.sum(dim=1).clamp(min=1e-9)
            vectors.append((states * weights).sum(dim=1) / (count if mode == "mean" else count.sqrt()))
        elif mode == "weightedmean":
            positions = torch.ones_like(weights).cumsum(dim=1) * weights  # 1, 2, 3, ... where the mask is 1
            vectors.append((states * positions).sum(dim=1) / positions.sum(dim=1).clamp(min=1e-9))
        elif mode == "max":
            # This is the lowest finite number, and not -inf, so that a text without any pooled token stays finite.
            vectors.append(states.masked_fill(weights == 0, torch.finfo(states.dtype).min).amax(dim=1))
        elif mode == "cls" and pooling.include_prompt:
            vectors.append(states[:, 0])
        else:  # "lasttoken", or "cls" after a prompt that is not pooled: one token has the weight 1
            count = mask.cumsum(dim=1) * mask  # 1 at the first pooled token, 2 at the second, ...
            wanted = count.amax(dim=1, keepdim=True) if mode == "lasttoken" else torch.ones_like(count[:, :1])
            pick = ((count == wanted) & (mask == 1)).to(states.dtype).unsqueeze(-1)
            vectors.append((states * pick).sum(dim=1))
    return torch.cat(vectors, dim=-1) if len(vectors) > 1 else vectors[0]


def cut_checkpoint(checkpoint: Checkpoint, layer: int) -> Checkpoint:
    """The checkpoint with only the first ``layer`` layers, and with the attention that transformers prefers.

    A final norm is removed with the layers, because exit ``layer`` is ``hidden_states[layer]``. Raises CheckpointError
    if the result does not give the vectors of that exit.
    """
    config = copy.deepcopy(checkpoint.encoder.config)
    config._attn_implementation = None  # lets transformers choose: sdpa if the architecture has it
    config.num_hidden_layers = blocks = max(layer, 1)  # exit 0 runs no layer, but an encoder needs one
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:blocks]
    encoder = type(checkpoint.encoder)(config).eval()  # type: ignore[no-untyped-call]
    encoder.load_state_dict(checkpoint.encoder.state_dict(), strict=False)
    if layer < checkpoint.depth and (norm := final_norm(encoder)):
        setattr(*norm, nn.Identity())
    heads = {layer: checkpoint.heads[layer]} if layer in checkpoint.heads else {}
    cut = replace(checkpoint, encoder=encoder, depth=layer, heads=heads)
    ids = torch.arange(2 * 8).reshape(2, 8) % checkpoint.text.vocabulary
    with torch.inference_mode():
        full, own = (ExitEncoder(which, [layer])(ids, torch.ones_like(ids))[0] for which in (checkpoint, cut))
    if not torch.allclose(full, own, rtol=1e-4, atol=1e-4):
        raise CheckpointError(
            f"{type(encoder).__name__} cut to {layer} layers does not give the vectors of exit {layer}: "
            "this architecture cannot be cut. Run its exits from a bundle instead"
        )
    return cut
