"""One training from its inputs to a published checkpoint, for every recipe."""

import dataclasses
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from m2d_export.errors import TrainingError

from .data import fingerprint
from .device import hardware
from .energy import Energy, measure_energy
from .evaluate import SplitScores
from .grid import train_grid
from .job import Job
from .log import Trained
from .multitask import train_multitask
from .publish import publish_checkpoint
from .screen import Screen
from .seed import differences, train_seed
from .stop import stop_on_signal
from .work import LAST_GOOD, WorkFolder

TRAIN = {"seed": train_seed, "grid": train_grid, "multitask": train_multitask}  # by the name of a recipe
PACKAGES = ("torch", "transformers", "sentence-transformers")


def train(job: Job, screen: Screen, resume: bool) -> dict[str, SplitScores] | None:
    """Train and publish; returns the scores of the checkpoint by split, or None if a signal stopped the training.

    Raises OutputError if the target exists, or an unfinished training of it that is not resumed. Raises TrainingError
    if a training cannot be resumed, or if training fails; the last good checkpoint, if any, is then in the work folder.
    """
    started = time.perf_counter()
    with WorkFolder(job, resume) as work:
        _announce(job, screen)
        with stop_on_signal() as stop, measure_energy() as energy:
            trained = TRAIN[job.recipe.name](job, work, stop, screen)
        if trained is None:
            return None
        target = job.target if trained.failure is None else work.path / LAST_GOOD
        screen.print("scoring the checkpoint from its files")
        facts = _facts(job, trained, energy, time.perf_counter() - started, resume)
        scores = publish_checkpoint(job, trained, facts, target)
        if trained.failure is not None:
            raise TrainingError(
                f"{trained.failure}. The last good checkpoint is in {target}. To try again, choose another --output, "
                f"or move the checkpoint away and remove {work.path}"
            )
        work.remove()
    return scores


def _announce(job: Job, screen: Screen) -> None:
    screen.print(f"{job.recipe.name} recipe on {job.device} in {job.precision}")
    counts = ", ".join(f"{len(pairs.scores):,} {name}" for name, pairs in job.data.splits().items())
    more = f"; {len(job.data.unlabelled):,} sentences without scores" if job.data.unlabelled else ""
    screen.print(f"pairs: {counts}{more}; scores from {job.data.scale[0]:g} to {job.data.scale[1]:g}")
    for line in job.notes():
        screen.print(line)
    for name, count in job.data.overlap().items():
        if count:
            screen.print(f"warning: {count} pairs of {name} are in train too: scores on {name} will be too high")
    for line in differences(job.recipe):
        screen.print(f"difference to the training of the model card: {line}")


def _facts(job: Job, trained: Trained, energy: Energy, seconds: float, resumed: bool) -> dict[str, Any]:
    """How the checkpoint was made, for ``m2d.json`` and the card."""
    data = job.data
    return {
        "name": job.target.name,
        "base": Path(job.base).name if Path(job.base).exists() else job.base,
        "recipe": job.recipe.name,
        "settings": dataclasses.asdict(job.recipe),
        "data": {
            "source": Path(data.source).name if Path(data.source).exists() else data.source,
            "scale": data.scale,
            "pairs": {name: len(pairs.scores) for name, pairs in data.splits().items()},
            "overlap": data.overlap(),
            "unlabelled": len(data.unlabelled),
            "sha256": fingerprint(data),
        },
        "precision": job.precision,
        "machine": hardware(job.device),
        "seconds": round(seconds, 1),
        "resumed": resumed,  # after a resume, seconds and energy are those of the last process only
        "energy": dataclasses.asdict(energy),
        "versions": {package: version(package) for package in PACKAGES},
        "differences": differences(job.recipe),
        **job.facts(),
        "log": [entry.to_json() for entry in trained.log],
    }
