"""The pooled vectors of all layers of a frozen encoder, from which heads are solved, and the vectors to learn."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from m2d_export.checkpoints.exits import ExitEncoder, pool
from m2d_export.checkpoints.load import Checkpoint
from m2d_export.spec import HeadSpec, Pooling
from m2d_export.text.batches import Batch, batches
from m2d_export.text.tokenizer import TokenIds

from ..arithmetic import fast_arithmetic

Progress = Callable[[str], None]
Read = tuple[int, bool]  # a layer that a head reads, and whether it is read as a mean
REMEMBERED = 200_000  # targets that are kept in memory
BLOCK = 512  # texts whose features are in memory at a time
TOKENS = {"cpu": 1024, "cuda": 65536}  # tokens of a batch


@dataclass(frozen=True)
class Block:
    """Some texts by their ``rows``: features (texts, numbers), and what heads learn, ``targets`` (texts, pooled).

    ``vectors`` (texts, width) are the vectors of the last exit, of unit length.
    """

    rows: list[int]
    features: Tensor
    targets: Tensor
    vectors: Tensor


class Teacher:
    """A checkpoint whose last exit the others learn from; its weights do not change."""

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        self.checkpoint, self.device = checkpoint, device
        self.exits = ExitEncoder(fast_attention(checkpoint), [checkpoint.depth]).eval().to(device)
        self.hidden = int(checkpoint.encoder.config.hidden_size)
        self.pooled = self.hidden * len(checkpoint.pooling.modes)
        only_direction = checkpoint.normalize and not any(_bends(module) for module in checkpoint.tail)
        self.scale_targets = only_direction  # the length of a target carries nothing then
        self._known = torch.zeros(0, dtype=torch.bool)  # for each text to learn from: whether its target is kept
        self._targets = torch.empty(0)

    def remember(self, block: Block, count: int) -> None:
        """Keep the targets of a block of the ``count`` texts to learn from, because training needs them again."""
        if not len(self._known):
            self._known = torch.zeros(count, dtype=torch.bool)
            self._targets = torch.empty(min(count, REMEMBERED), self.pooled, dtype=torch.float16)
        rows = torch.tensor(block.rows)
        kept = rows < len(self._targets)
        self._targets[rows[kept]] = block.targets[kept].half()
        self._known[rows[kept]] = True

    def memory(self) -> dict[str, Tensor]:
        """The targets that are kept, for another process with the same texts."""
        return {"known": self._known, "targets": self._targets}

    def load_memory(self, memory: dict[str, Tensor]) -> None:
        """Keep the targets of another process."""
        self._known, self._targets = memory["known"], memory["targets"]

    def known(self) -> Tensor:
        """The rows whose targets are kept, ascending."""
        return self._known.nonzero()[:, 0]

    def targets(self, tokens: Sequence[TokenIds], rows: Tensor) -> Tensor:
        """The targets of some ``rows`` of ``tokens``, the texts to learn from: (rows, pooled) float32."""
        if not len(self._known) or not self._known[rows].all():
            with fast_arithmetic(self.device):
                found = self.collected([tokens[row] for row in rows.tolist()], ())
            self.remember(replace(found, rows=rows.tolist()), len(tokens))
            return found.targets.half().float()  # as they are kept, so that a resumed training reads the same
        return self._targets[rows].float()

    def sizes(self, reads: Sequence[Read]) -> list[int]:
        """How many numbers each read gives."""
        return [self.hidden * len(self._pooling(read).modes) for read in reads]

    def _pooling(self, read: Read) -> Pooling:
        usual = self.checkpoint.pooling
        return usual.mean if read[1] else usual

    @torch.inference_mode()
    def blocks(self, tokens: Sequence[TokenIds], reads: Sequence[Read]) -> Iterator[Block]:
        """The features and targets of texts, in blocks of texts of similar length."""
        order = sorted(range(len(tokens)), key=lambda row: -len(tokens[row].ids))
        for start in range(0, len(order), BLOCK):
            places = order[start : start + BLOCK]
            rows, features, targets = [], [], []
            for batch in batches([tokens[row] for row in places], self.checkpoint.text, TOKENS[self.device]):
                rows += [places[row] for row in batch.rows]
                found = self._pooled(batch, [*reads, (self.checkpoint.depth, False)])
                features.append(torch.cat(found[:-1], dim=1) if reads else found[-1][:, :0])
                targets.append(found[-1])
            pooled = torch.cat(targets)
            vectors = nn.functional.normalize(self.after_tail(pooled), dim=-1).cpu()
            if self.scale_targets:
                pooled = nn.functional.normalize(pooled, dim=-1)
            yield Block(rows, torch.cat(features).float().cpu(), pooled.float().cpu(), vectors)

    @torch.inference_mode()
    def after_tail(self, pooled: Tensor) -> Tensor:
        """The vectors, not normalised, that the modules after a head make: (texts, pooled) -> (texts, width)."""
        return self.exits.after_tail(pooled.to(self.device).float()).to(pooled.device)

    def _pooled(self, batch: Batch, reads: Sequence[Read]) -> list[Tensor]:
        arrays = (batch.input_ids, batch.attention_mask, batch.pooling_mask)
        ids, attended, own = (None if array is None else torch.from_numpy(array).to(self.device) for array in arrays)
        assert ids is not None  # noqa: S101 - only the pooling mask is optional
        assert attended is not None  # noqa: S101
        states = self.exits.states(ids, attended)
        mask = attended if own is None else own
        return [pool(states[read[0]], mask, self._pooling(read)) for read in reads]

    def collected(self, tokens: Sequence[TokenIds], reads: Sequence[Read]) -> Block:
        """The features and targets of all texts, in their order."""
        found = list(self.blocks(tokens, reads))
        order = torch.tensor([row for block in found for row in block.rows]).argsort()
        parts = (torch.cat([getattr(block, name) for block in found])[order] for name in _PARTS)
        return Block(list(range(len(tokens))), *parts)


_PARTS = ("features", "targets", "vectors")


def fast_attention(checkpoint: Checkpoint) -> Checkpoint:
    """A copy of the checkpoint with the fastest attention that its encoder has; the weights are copied too."""
    encoder = copy.deepcopy(checkpoint.encoder)
    if getattr(encoder, "_supports_sdpa", False):
        encoder.set_attn_implementation("sdpa")
    return replace(checkpoint, encoder=encoder)


def reads_of(spec: HeadSpec) -> list[Read]:
    """The reads of a head, in its order."""
    return [(layer, layer in spec.mean) for layer in spec.reads]


def _bends(module: nn.Module) -> bool:
    """Whether what a module gives depends on more than the direction of its input."""
    linear = getattr(module, "linear", None)
    activation = getattr(module, "activation_function", None)
    return linear is None or linear.bias is not None or not isinstance(activation, nn.Identity)
