"""Write a checkpoint with exits as a sentence-transformers folder, which ``build`` takes."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from m2d_export.checkpoints.folder import M2D_JSON
from m2d_export.checkpoints.load import Checkpoint, load_checkpoint
from m2d_export.host.files import writing
from m2d_export.host.folders import publish, staged_directory

from ..evaluate import Scores
from ..publish import CARD, save_model, stated, write_json
from ..work import WorkFolder
from .card import card


def write_checkpoint(checkpoint: Checkpoint, folder: Path, facts: Mapping[str, Any]) -> None:
    """Write ``checkpoint`` into the empty ``folder``; ``facts`` go into m2d.json with what its format asks for."""
    save_model(checkpoint, folder)
    dims = sorted(checkpoint.trained_dims or (), reverse=True)
    found = stated(checkpoint.trained_layers or (), dims, checkpoint.heads)
    write_json(folder / M2D_JSON, {**found, "space": checkpoint.space, "rotation": checkpoint.rotation, **facts})


def publish_checkpoint(
    checkpoint: Checkpoint,
    work: WorkFolder,
    facts: Mapping[str, Any],
    before: Scores,
    measure: Callable[[Checkpoint], Scores],
) -> Scores:
    """Write ``checkpoint`` with its card to the target of ``work``, whole or not at all; returns its grid.

    ``before`` is the grid of the base; ``measure`` gives that of the checkpoint in the files. What a stopped training
    wrote is replaced. The files are noted first, so that a process that is killed at any moment can be resumed.
    """
    target = work.target
    with staged_directory(target) as staging, writing(target):
        write_checkpoint(checkpoint, staging, {})
        loaded = load_checkpoint(str(staging))
        after = measure(loaded)
        grids = {"before": _named(before), "after": _named(after)}
        found = json.loads((staging / M2D_JSON).read_text(encoding="utf-8"))
        write_json(staging / M2D_JSON, {**found, **facts, "agreement": grids})
        (staging / CARD).write_text(card(loaded, target.name, before, after, facts), encoding="utf-8")
        work.note_written(staging)
        publish(staging, target, work.why_not_replaced)
    return after


def _named(grid: Scores) -> dict[str, float | None]:
    return {str(cell): value for cell, value in grid.items()}
