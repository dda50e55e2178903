"""Heads in closed form: a linear map from pooled layers to the pooled vector of the last exit, for each exit."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from sentence_transformers.sentence_transformer.modules import Dense
from torch import Tensor, nn

from m2d_export.checkpoints.heads import Head
from m2d_export.spec import OUTPUT, HeadSpec

from .features import Block, Read, Teacher, reads_of
from .judge import Judge
from .ridge import Linear, Sums

REGULARISATIONS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
AT_ONCE = 10_240  # numbers of a text in one regression; with more, a head reads only its own layer and layer 0
ADDED = 0.15  # of the encoder's weights: what heads may add


@dataclass(frozen=True)
class Solved:
    """A head, and its agreement with the base on held-out text."""

    spec: HeadSpec
    linear: Linear
    agreement: float

    @property
    def weights(self) -> int:
        """The number of its weights."""
        return self.linear.weight.numel()

    def head(self) -> Head:
        """The head as a module of sentence-transformers."""
        inputs, outputs = self.linear.weight.shape
        dense = Dense(inputs, outputs, activation_function=nn.Identity())
        with torch.no_grad():
            dense.linear.weight.copy_(self.linear.weight.T)
            dense.linear.bias.copy_(self.linear.bias)
        return Head(self.spec, dense.eval())


class Regressions:
    """The regressions of the heads of ``layers``, from one pass over the texts.

    Small encoders have one sum for all heads. In large ones each head has its own, and reads two layers at most.
    """

    def __init__(self, teacher: Teacher, layers: Sequence[int]) -> None:
        self.teacher = teacher
        self.options = {layer: candidates(layer, teacher, several=True) for layer in layers}
        self.numbers = sum(teacher.sizes(needed(self.options)))  # of a text, in all layers
        is_small = self.numbers <= AT_ONCE
        if not is_small:
            self.options = {layer: candidates(layer, teacher, several=False) for layer in layers}
        existing = (read for head in teacher.checkpoint.heads.values() for read in reads_of(head.spec))
        self.reads = sorted({*needed(self.options), *((layer, False) for layer in layers), *existing})
        self._columns = _columns(self.reads, teacher)
        groups = [self.options] if is_small else [{layer: specs} for layer, specs in self.options.items()]
        self._sums = {tuple(needed(group)): Sums(sum(teacher.sizes(needed(group))), teacher.pooled) for group in groups}

    def features(self, block: Block, reads: Sequence[Read]) -> Tensor:
        """The columns of some ``reads`` in a block of ``self.reads``: (texts, numbers)."""
        return block.features[:, torch.cat([self._columns[read] for read in reads])] if reads else block.features[:, :0]

    def add(self, block: Block, weights: Tensor) -> None:
        """Add a block of texts with their ``weights``."""
        for reads, sums in self._sums.items():
            sums.add(self.features(block, reads), block.targets, weights)

    def solve(self, spec: HeadSpec, held_out: Block, judge: Judge) -> Solved:
        """The head of ``spec``."""
        wanted = reads_of(spec)
        reads = next(reads for reads in self._sums if set(wanted) <= set(reads))
        places = _columns(reads, self.teacher)
        columns = torch.cat([places[read] for read in wanted])
        linear, agreement = closest(
            self._sums[reads], columns, self.features(held_out, wanted), self.teacher.after_tail, judge
        )
        return Solved(spec, linear, agreement)

    def before(self, layer: int, held_out: Block, judge: Judge) -> float:
        """The agreement of an exit as the checkpoint has it: with its head, or without any."""
        head = self.teacher.checkpoint.heads.get(layer)
        vectors = self.features(held_out, [(layer, False)]) if head is None else self.output(head, held_out)
        return judge.agreement(self.teacher.after_tail(vectors))

    def output(self, head: Head, block: Block) -> Tensor:
        """What a head makes of a block, on the CPU: (texts, pooled)."""
        with torch.no_grad():
            features = {OUTPUT: self.features(block, reads_of(head.spec))}
            vectors: Tensor = copy.deepcopy(head.dense).cpu()(features)[OUTPUT]
        return vectors


def closest(
    sums: Sums, columns: Tensor | slice, held_out: Tensor, after: Callable[[Tensor], Tensor], judge: Judge
) -> tuple[Linear, float]:
    """The regression whose regularisation comes closest to the base on held-out text, and its agreement with it.

    ``held_out`` (texts, inputs) is what it reads there; ``after`` makes vectors of its results.
    """
    linears = [sums.solve(columns, regularisation) for regularisation in REGULARISATIONS]
    vectors = [after(linear(held_out)) for linear in linears]
    best = max(range(len(linears)), key=lambda place: judge.closeness(vectors[place]))
    return linears[best], judge.agreement(vectors[best])


def candidates(layer: int, teacher: Teacher, several: bool) -> list[HeadSpec]:
    """The heads that an exit may have: of its own layer, with layer 0, and with all layers between.

    If an encoder pools one token, a head may read the mean of a layer instead. At layer 0 it always does, because this
    token has one vector there, whatever the text is.
    """
    every = dict.fromkeys([(layer,), (0, layer), tuple(range(layer + 1))][: 3 if several else 2])
    if teacher.checkpoint.pooling.modes == ("mean",):
        return [HeadSpec(layer, reads) for reads in every]
    means = ((reads, mean) for reads in every for mean in dict.fromkeys([tuple(r for r in reads if r == 0), reads]))
    return [HeadSpec(layer, reads, mean) for reads, mean in means]


def choose(options: Mapping[int, Sequence[Solved]], most: int) -> dict[int, Solved]:
    """One head for each exit: more layers where they help most for their weights, up to ``most`` weights in all."""
    chosen = {
        layer: max((one for one in found if len(one.spec.reads) == 1), key=lambda one: one.agreement)
        for layer, found in options.items()
    }
    spent = sum(one.weights for one in chosen.values())

    def worth(one: Solved) -> float:
        single = chosen[one.spec.layer]
        return (one.agreement - single.agreement) / (one.weights - single.weights)

    larger = [one for found in options.values() for one in found if one.weights > chosen[one.spec.layer].weights]
    for one in sorted(larger, key=worth, reverse=True):
        before = chosen[one.spec.layer]
        if one.agreement > before.agreement and spent + one.weights - before.weights <= most:
            chosen[one.spec.layer] = one
            spent += one.weights - before.weights
    return chosen


def needed(options: Mapping[int, Sequence[HeadSpec]]) -> list[Read]:
    """Every read of some heads, ascending."""
    return sorted({read for specs in options.values() for spec in specs for read in reads_of(spec)})


def _columns(reads: Sequence[Read], teacher: Teacher) -> dict[Read, Tensor]:
    sizes = teacher.sizes(reads)
    ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
    return {read: torch.arange(end - size, end) for read, size, end in zip(reads, sizes, ends[1:], strict=True)}
