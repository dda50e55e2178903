"""After the training: fewer layers for a head where held-out text shows no loss, and the table once more."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from m2d_export.checkpoints.load import Checkpoint

from .features import Progress, Teacher, reads_of
from .heads import Regressions, Solved, closest
from .judge import LARGEST, Judge, shown
from .ridge import Sums
from .settings import Corpus
from .table import TableRegression

TEXTS = 4000  # from which a smaller head is solved
TOLERANCE = 0.1  # of agreement, Spearman x 100: so much less is no loss


def choose_reads(teacher: Teacher, trained: Checkpoint, corpus: Corpus, progress: Progress) -> Checkpoint:
    """The trained checkpoint in which a head reads fewer layers if it agrees as well with the base on held-out text.

    The smaller head is solved from the vectors of the trained one. The table is solved again from the trained word
    embeddings.
    """
    student = Teacher(trained, teacher.device)
    layers = sorted(trained.heads)
    regressions = Regressions(student, layers)
    held_out = corpus.held_out[:LARGEST]
    judge = Judge(teacher.collected(held_out, ()).vectors)
    held = student.collected(held_out, regressions.reads)
    every = -(-len(corpus.texts) // TEXTS)
    some, weights = corpus.texts[::every], torch.tensor(corpus.weights[::every])
    features = student.collected(some, regressions.reads)
    heads = dict(trained.heads)
    for layer, head in trained.heads.items():
        before = judge.agreement(teacher.after_tail(regressions.output(head, held)))
        goal = regressions.output(head, features)
        for spec in regressions.options[layer]:
            if len(spec.reads) >= len(head.spec.reads):
                continue
            inputs = regressions.features(features, reads_of(spec))
            sums = Sums(inputs.shape[1], student.pooled)
            sums.add(inputs, goal, weights)
            kept = regressions.features(held, reads_of(spec))
            linear, agreement = closest(sums, slice(None), kept, teacher.after_tail, judge)  # without a rotation
            if agreement >= before - TOLERANCE:
                heads[layer] = Solved(spec, linear, agreement).head()
                progress(f"exit {layer} reads only {spec}: agreement {shown(before)} -> {shown(agreement)}")
                break
    table = trained.table if trained.table is None else _table(teacher, trained, corpus, judge, progress)
    return replace(trained, heads=heads, table=table)


def _table(teacher: Teacher, trained: Checkpoint, corpus: Corpus, judge: Judge, progress: Progress) -> nn.Module:
    """The better of the trained checkpoint's table and one that is solved from the trained word embeddings."""
    words: Any = trained.encoder.get_input_embeddings()
    texts, rows = corpus.texts, teacher.known()
    some = [texts[row] for row in rows.tolist()]
    regression = TableRegression(words.weight, some, teacher)
    targets, weights = teacher.targets(texts, rows), torch.tensor(corpus.weights)[rows]
    regression.sums.add(regression.means(some), targets, weights)
    solved = regression.solve(corpus.held_out[:LARGEST], teacher, judge, trained.table)
    which = "the table stays" if solved.table is trained.table else "a table of the trained word embeddings"
    progress(f"exit 0: {which}, agreement with the base {shown(solved.agreement)}")
    return solved.table
