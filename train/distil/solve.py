"""Stage 1: everything that has a closed form, from one pass over the texts: heads, the table, the rotation."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from m2d_export.checkpoints.heads import Head
from m2d_export.checkpoints.load import Checkpoint

from .features import Block, Progress, Teacher
from .heads import ADDED, AT_ONCE, Regressions, choose
from .judge import LARGEST, Judge, shown
from .rotation import Axes, assembled
from .settings import Corpus, Settings
from .table import TableRegression


def solve_heads(
    teacher: Teacher, corpus: Corpus, settings: Settings, progress: Progress, then_trained: bool
) -> Checkpoint:
    """The checkpoint with heads, a table if layer 0 is asked for, and a rotation where it helps the smallest dim.

    Heads and a table that exist stay, unless ``settings.fresh``. An exit that would agree less with the base than
    before stays as it is, with its head if it has one. With ``then_trained``, the exit before the last reads only its
    own layer: training makes more of that.
    """
    base = teacher.checkpoint
    below = [layer for layer in settings.layers if 0 < layer < base.depth]
    heads = {} if settings.fresh else {layer: head for layer, head in base.heads.items() if layer in below}
    table = base.table if 0 in settings.layers and not settings.fresh else None
    existing = {*base.heads, *({0} if base.table is not None else ())}
    if others := sorted(existing - set(settings.layers)):
        progress(f"left out, because --layers does not name them: exits {', '.join(map(str, others))}")
    texts, held_out = corpus.texts, corpus.held_out[:LARGEST]
    regressions = Regressions(teacher, [layer for layer in below if layer not in heads])
    if regressions.numbers > AT_ONCE:
        progress(f"heads read two layers at most: all layers give {regressions.numbers:,} numbers, over {AT_ONCE:,}")
    tokens = None
    if 0 in settings.layers and table is None:
        words: Any = base.encoder.get_input_embeddings()
        tokens = TableRegression(words.weight, texts, teacher)
    axes = Axes(base.width)
    _pass_over(teacher, corpus, regressions, tokens, axes, progress)
    held = teacher.collected(held_out, regressions.reads)
    judge = Judge(held.vectors)
    heads |= _heads(regressions, held, judge, most_weights(base, heads), progress, then_trained)
    if tokens is not None:
        solved = tokens.solve(held_out, teacher, judge, base.table)
        progress(f"exit 0: a table, agreement with the base {shown(solved.agreement)}")
        table = solved.table
    rotation = _rotation(axes, held, judge, settings, base, progress)
    return assembled(base, heads, table, rotation, settings.layers, settings.dims)


def most_weights(base: Checkpoint, heads: Mapping[int, Head]) -> int:
    """How many weights heads may still add to the encoder of ``base`` beside ``heads``."""
    kept = sum(weight.numel() for head in heads.values() for weight in head.dense.parameters())
    return int(ADDED * sum(weight.numel() for weight in base.encoder.parameters())) - kept


def _pass_over(
    teacher: Teacher,
    corpus: Corpus,
    regressions: Regressions,
    tokens: TableRegression | None,
    axes: Axes,
    progress: Progress,
) -> None:
    texts, weights, done = corpus.texts, torch.tensor(corpus.weights), 0
    for block in teacher.blocks(texts, regressions.reads):
        own = weights[block.rows]
        regressions.add(block, own)
        axes.add(block.vectors, own)
        if tokens is not None:
            tokens.add(block, own)
        teacher.remember(block, len(texts))
        tenths = 10 * done // len(texts)
        done += len(block.rows)
        if 10 * done // len(texts) > tenths:
            progress(f"read {done:,} of {len(texts):,} texts")


def _heads(
    regressions: Regressions, held: Block, judge: Judge, most: int, progress: Progress, then_trained: bool
) -> dict[int, Head]:
    base, options = regressions.teacher.checkpoint, {}
    for layer, specs in regressions.options.items():
        single = then_trained and layer == base.depth - 1
        options[layer] = [regressions.solve(spec, held, judge) for spec in specs if len(spec.reads) == 1 or not single]
    heads = {}
    for layer, solved in sorted(choose(options, most).items()):
        before = regressions.before(layer, held, judge)
        if solved.agreement > before:
            heads[layer] = solved.head()
            progress(
                f"exit {layer}: agreement with the base {shown(before)} -> {shown(solved.agreement)}, "
                f"from {solved.spec}"
            )
        else:
            heads |= {layer: base.heads[layer]} if layer in base.heads else {}
            progress(f"exit {layer} stays as it is: agreement {shown(before)}, solved {shown(solved.agreement)}")
    return heads


def _rotation(
    axes: Axes, held: Block, judge: Judge, settings: Settings, base: Checkpoint, progress: Progress
) -> Tensor | None:
    dim = settings.dims[-1]
    if settings.keep_space or base.rotation is not None or dim == base.width:
        return None
    rotation = axes.rotation()
    before, after = (judge.agreement(vectors[:, :dim]) for vectors in (held.vectors, held.vectors @ rotation))
    is_better = after > before
    progress(
        f"the vectors are {'' if is_better else 'not '}rotated: at {dim} dims the last exit's agreement with all "
        f"{base.width} is {shown(before)} without, {shown(after)} with"
        + (". They do not fit an index that the base made: --keep-space prevents this" if is_better else "")
    )
    return rotation if is_better else None
