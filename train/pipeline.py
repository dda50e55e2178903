"""A training from its inputs to a published checkpoint: the order of things, for both recipes."""

import dataclasses
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from m2d_export.errors import TrainingError
from m2d_export.host.machine import machine
from train.data import fingerprint
from train.energy import Energy, measured
from train.evaluate import Scored
from train.live import Screen
from train.log import Trained
from train.publish import publish_checkpoint
from train.recipes import SeedRecipe
from train.seed import differences, train_seed
from train.stop import asked_to_stop
from train.train import train_grid
from train.work import Job, Work

PACKAGES = ("torch", "transformers", "sentence-transformers")
LAST_GOOD = "last-good"


def train(job: Job, screen: Screen, resume: bool) -> dict[str, Scored] | None:
    """Train and publish; returns what the checkpoint scores by split, or None where it was asked to stop before.

    Raises OutputError where the target or an unfinished training of it exists, TrainingError where that cannot be
    resumed or a training is lost; its last good checkpoint is then published beside its state.
    """
    seed = isinstance(job.recipe, SeedRecipe)
    work = Work(job, resume)
    started = time.perf_counter()
    try:
        _announce(job, screen, seed)
        with asked_to_stop() as asked, measured() as energy:
            trained = (train_seed if seed else train_grid)(job, work, asked, screen)
    finally:
        work.remove_if_empty()
    if trained is None:
        return None
    target = job.target if trained.lost is None else work.folder / LAST_GOOD
    screen.say("scoring the checkpoint from its own files")
    scored = publish_checkpoint(
        job, trained, _facts(job, trained, energy, time.perf_counter() - started, resume), target
    )
    if trained.lost is not None:
        raise TrainingError(
            f"{trained.lost}. What there is of it is kept in {target}: move that "
            f"away and remove {work.folder} to try again, or choose another --output"
        )
    work.remove()
    return scored


def _announce(job: Job, screen: Screen, seed: bool) -> None:
    screen.say(f"{'seed' if seed else 'grid'} recipe on {job.device}, computing in {job.precision}")
    counts = ", ".join(f"{len(pairs.scores):,} {name}" for name, pairs in job.data.splits().items())
    more = f"; {len(job.data.unlabelled):,} sentences without a score" if job.data.unlabelled else ""
    screen.say(f"pairs: {counts}{more}; scores from {job.data.scale[0]:g} to {job.data.scale[1]:g}")
    for name, count in job.data.overlap().items():
        if count:
            screen.say(f"warning: {count} of the pairs in {name} are in train too: scores on {name} will flatter")
    for line in differences(job.recipe):
        screen.say(f"unlike the card: {line}")


def _facts(job: Job, trained: Trained, energy: Energy, seconds: float, resumed: bool) -> dict[str, Any]:
    """What ``m2d.json`` and the card say of how the checkpoint came about."""
    data = job.data
    here = machine()
    return {
        "name": job.target.name,
        "base": Path(job.base).name if Path(job.base).exists() else job.base,
        "recipe": "seed" if isinstance(job.recipe, SeedRecipe) else "grid",
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
        "machine": f"{here['cores']} cores of {here['cpu']}" if job.device == "cpu" else job.device,
        "seconds": round(seconds, 1),
        "resumed": resumed,  # then time and energy are those of the last process alone
        "energy": dataclasses.asdict(energy),
        "versions": {package: version(package) for package in PACKAGES},
        "differences": differences(job.recipe),
        "log": [entry.to_json() for entry in trained.log],
    }
