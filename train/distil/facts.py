"""How a checkpoint was made, for its ``m2d.json`` and its README."""

import dataclasses
from importlib.metadata import version
from pathlib import Path
from typing import Any

from m2d_export.checkpoints.load import Checkpoint

from ..device import hardware
from .card import license_of
from .corpus import Reading, Texts
from .job import Job
from .mix import NONE
from .steps import BATCH

KIND = "distil"  # the extra, and the ending of the work folder's name
PACKAGES = ("torch", "transformers", "sentence-transformers")


def mix_name(reading: Reading) -> str:
    """What the mix is, in words."""
    if reading.mix is None:
        return "WordNet (English)"
    return "no mix" if reading.mix == NONE else Path(reading.mix).name


def origin_of(base: Checkpoint, reading: Reading, texts: Texts) -> dict[str, Any]:
    """The base and the texts that a checkpoint was distilled from."""
    return {
        "base": base.origin.name,
        "revision": base.origin.revision,
        "fingerprint": base.origin.fingerprint,
        "license": license_of(base.folder),
        "texts": {
            "source": ", ".join(Path(path).name for path in reading.paths),
            "own": texts.own,
            "read": texts.read,
            "mix": texts.mix,
            "mix_source": mix_name(reading),
            "held_out": len(texts.solved.held_out),
            "sha256": texts.sha256,
        },
    }


def facts_of(job: Job, made: Checkpoint, step: int, seconds: tuple[float, float], stopped: bool) -> dict[str, Any]:
    """How the checkpoint was made, for ``m2d.json`` and the card; ``seconds`` are those of the heads and the steps."""
    return {
        "recipe": KIND,
        **origin_of(job.base, job.reading, job.texts),
        "settings": {
            **{
                name: list(value) if isinstance(value, tuple) else value
                for name, value in dataclasses.asdict(job.settings).items()
            },
            "max_tokens": job.reading.max_tokens,
            "max_texts": job.reading.max_texts,
            "mix": job.reading.mix if job.reading.mix in (None, NONE) else mix_name(job.reading),
            "steps": job.steps,
            "minutes": None if job.seconds is None else job.seconds / 60,
            "device": job.device,
        },
        "steps": step,
        "seconds": {"heads": round(seconds[0], 1), "training": round(seconds[1], 1)},
        "stopped": stopped,
        "rotated": made.rotation is not None,
        "batch": BATCH[job.device],
        "machine": hardware(job.device),
        "versions": {package: version(package) for package in PACKAGES},
    }
