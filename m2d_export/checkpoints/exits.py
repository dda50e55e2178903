"""The exits of a checkpoint as one torch module: the fp32 reference that every variant is judged by."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import AutoModel

from m2d_export.checkpoints.load import Checkpoint
from m2d_export.errors import CheckpointError
from m2d_export.spec import Pooling
from m2d_export.vectors import FloatArray

if TYPE_CHECKING:
    from m2d_export.text.batches import Batch


class ExitEncoder(nn.Module):
    """One pooled vector per exit layer, from a single pass: exit k pools ``hidden_states[k]``.

    The last exit pools ``last_hidden_state``; below it no final norm is applied, which is what a
    2D-Matryoshka loss trains (decision 3 in docs/design.md). Vectors are not normalised.
    """

    def __init__(self, checkpoint: Checkpoint, layers: Sequence[int]) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.depth = checkpoint.depth
        self.pooling = checkpoint.pooling
        self.encoder = checkpoint.encoder
        self.heads = nn.ModuleDict({str(layer): head for layer, head in checkpoint.heads.items()})
        self.tail = nn.ModuleList(checkpoint.tail)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, pooling_mask: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Vectors of each exit: (batch, tokens) int64 -> as many (batch, width) float32 as there are layers."""
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
        states = [*output.hidden_states[:-1], output.last_hidden_state]  # depth + 1 of (batch, tokens, hidden)
        if len(states) != self.depth + 1:
            raise CheckpointError(f"the encoder gives {len(states) - 1} hidden states, its config says {self.depth}")
        mask = attention_mask if pooling_mask is None else pooling_mask
        return tuple(self._vector(states[layer], mask, str(layer)) for layer in self.layers)

    def _vector(self, states: Tensor, mask: Tensor, layer: str) -> Tensor:
        features = {"sentence_embedding": pool(states, mask, self.pooling)}
        for module in ([self.heads[layer]] if layer in self.heads else []) + list(self.tail):
            features = module(features)
        return features["sentence_embedding"]

    @torch.inference_mode()
    def vectors(self, batch: "Batch") -> tuple[FloatArray, ...]:
        """The same from and to numpy, wherever and in whatever the weights are."""
        device = next(self.parameters()).device
        arrays = (batch.input_ids, batch.attention_mask, batch.pooling_mask)
        tensors = [None if array is None else torch.from_numpy(array).to(device) for array in arrays]
        return tuple(vector.float().cpu().numpy() for vector in self(*tensors))


def pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Pool (batch, tokens, hidden) over the tokens whose mask is 1, padding on the right: (batch, hidden x modes).

    The same numbers as sentence-transformers' ``Pooling``, in operators that every ONNX runtime fuses.
    """
    weights = mask.to(states.dtype).unsqueeze(-1)  # (batch, tokens, 1)
    vectors = []
    for mode in pooling.modes:
        if mode in ("mean", "mean_sqrt_len_tokens"):
            count = weights.sum(dim=1).clamp(min=1e-9)
            vectors.append((states * weights).sum(dim=1) / (count if mode == "mean" else count.sqrt()))
        elif mode == "weightedmean":
            place = torch.ones_like(weights).cumsum(dim=1) * weights  # 1, 2, 3, ... where the mask is 1
            vectors.append((states * place).sum(dim=1) / place.sum(dim=1).clamp(min=1e-9))
        elif mode == "max":
            # A finite floor, so that a text whose every token is masked stays finite.
            vectors.append(states.masked_fill(weights == 0, torch.finfo(states.dtype).min).amax(dim=1))
        elif mode == "cls" and pooling.include_prompt:
            vectors.append(states[:, 0])
        else:  # "lasttoken", or "cls" behind a prompt that is not pooled: one token, picked by a 0/1 weight
            seen = mask.cumsum(dim=1) * mask  # 1 at the first pooled token, the count at the last
            wanted = seen.amax(dim=1, keepdim=True) if mode == "lasttoken" else torch.ones_like(seen[:, :1])
            pick = ((seen == wanted) & (mask == 1)).to(states.dtype).unsqueeze(-1)
            vectors.append((states * pick).sum(dim=1))
    return torch.cat(vectors, dim=-1) if len(vectors) > 1 else vectors[0]


def norms_its_last_layer(encoder: nn.Module) -> bool:
    """Whether this is a pre-LN encoder (ModernBERT), whose truncated model is not its exit."""
    return hasattr(encoder, "final_norm")


def truncate(checkpoint: Checkpoint, layer: int) -> Checkpoint:
    """The checkpoint with only ``layer`` blocks: what that exit costs in torch, with torch's own attention.

    A pre-LN encoder's final norm goes too, since exit ``layer`` is ``hidden_states[layer]``. Raises
    CheckpointError unless the result is seen to compute just that.
    """
    config = copy.deepcopy(checkpoint.encoder.config)
    config._attn_implementation = None  # transformers' choice: sdpa where the architecture has it
    config.num_hidden_layers = layer
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layer]
    encoder = AutoModel.from_config(config, dtype=torch.float32).eval()  # type: ignore[no-untyped-call]
    encoder.load_state_dict(checkpoint.encoder.state_dict(), strict=False)
    if layer < checkpoint.depth and norms_its_last_layer(encoder):
        encoder.final_norm = nn.Identity()
    heads = {layer: checkpoint.heads[layer]} if layer in checkpoint.heads else {}
    cut = replace(checkpoint, encoder=encoder, depth=layer, heads=heads)
    ids = torch.arange(2 * 8).reshape(2, 8) % checkpoint.encoder.config.vocab_size
    with torch.inference_mode():
        full, own = (ExitEncoder(which, [layer])(ids, torch.ones_like(ids))[0] for which in (checkpoint, cut))
    if not torch.allclose(full, own, rtol=1e-4, atol=1e-4):
        raise CheckpointError(
            f"{type(encoder).__name__} cut to {layer} layers does not give the vectors of exit {layer}: "
            "there is no truncated model of it"
        )
    return cut
