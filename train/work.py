"""The folder beside the output in which a training keeps what it needs to go on after a stop."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from m2d_export.checkpoints.load import Checkpoint
from m2d_export.errors import OutputError, TrainingError
from m2d_export.host.files import atomic_file, writing
from train.data import Data, fingerprint
from train.log import Entry
from train.recipes import GridRecipe, Recipe

STATE, ABOUT, LOG = "state.pt", "training.json", "log.json"


@dataclass(frozen=True)
class Job:
    """One training: what ``checkpoint`` from, on what, how, and where to; ``base`` is what the checkpoint is called.

    ``precision`` is what is computed in: fp32, or fp16 or bf16 for autocast. ``half`` stores the weights in fp16.
    """

    base: str
    checkpoint: Checkpoint
    data: Data
    recipe: Recipe
    device: str
    precision: str
    target: Path
    half: bool = False

    @property
    def layers(self) -> tuple[int, ...]:
        """The exits that are trained: those of the grid recipe, every layer for the seed recipe."""
        return self.recipe.layers if isinstance(self.recipe, GridRecipe) else tuple(range(1, self.checkpoint.depth + 1))

    def about(self) -> dict[str, Any]:
        """What must be the same for a training to go on as if never stopped."""
        return {
            "recipe": type(self.recipe).__name__,
            "settings": dataclasses.asdict(self.recipe),
            "model": self.checkpoint.origin.fingerprint,
            "data": fingerprint(self.data),
            "device": self.device,
            "precision": self.precision,
        }


class Work:
    """``OUT.training``: what is being trained, its log, its last state; removed when the checkpoint is published.

    Raises OutputError where there is one already and ``resume`` is False, TrainingError where it is True and there is
    none, or it belongs to another one.
    """

    def __init__(self, job: Job, resume: bool) -> None:
        about, target = job.about(), job.target
        if target.exists() or target.is_symlink():
            raise OutputError(f"{target} exists: choose another --output, or remove it yourself")
        self.folder = target.with_name(f"{target.name}.training")
        if resume:
            self._check(about)
        elif self.folder.exists():
            raise OutputError(f"{self.folder} holds an unfinished training: --resume goes on with it, or remove it")
        else:
            with writing(self.folder):
                self.folder.mkdir(parents=True)
            with atomic_file(self.folder / ABOUT) as path:
                path.write_text(json.dumps(about, indent=2), encoding="utf-8")

    def _check(self, about: dict[str, Any]) -> None:
        if not self.folder.is_dir():
            raise TrainingError(f"there is no {self.folder} to resume: start without --resume")
        try:
            found = json.loads((self.folder / ABOUT).read_text(encoding="utf-8"))
            differing = [key for key in about if found[key] != json.loads(json.dumps(about[key]))]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"{self.folder} is no training of this program ({error!r}): remove it") from error
        if differing:
            said = "; ".join(f"{key} {found[key]} there, {about[key]} now" for key in differing)
            raise TrainingError(f"{self.folder} is another training ({said}): give it the same options, or remove it")

    def save(self, state: dict[str, Any]) -> None:
        """Keep ``state`` in place of an earlier one, whole or not at all."""
        with atomic_file(self.folder / STATE) as path:
            torch.save(state, path)

    def state(self) -> dict[str, Any] | None:
        """The last state that was kept, None where the training was stopped before its first one.

        Raises TrainingError for a file that is not whole.
        """
        path = self.folder / STATE
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # zip, pickle and tensor errors
            raise TrainingError(
                f"{path} cannot be read, it may be cut short: remove {self.folder} to start over"
            ) from error
        return state

    def save_log(self, log: Sequence[Entry]) -> None:
        """Keep the log in place of an earlier one."""
        with atomic_file(self.folder / LOG) as path:
            path.write_text(json.dumps([entry.to_json() for entry in log]), encoding="utf-8")

    def log(self, last: int) -> list[Entry]:
        """The log that was kept, up to step ``last``; raises TrainingError for a file that is none.

        It may be ahead of the state: the log is kept first.
        """
        path = self.folder / LOG
        if not path.exists():
            return []
        try:
            kept = [Entry.from_json(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
        except (ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"{path} cannot be read: remove {self.folder} to start over") from error
        return [entry for entry in kept if entry.step <= last]

    def remove_if_empty(self) -> None:
        """Remove the folder where nothing was kept: there is nothing to go on with, nor to go in another's way."""
        if {path.name for path in self.folder.iterdir()} <= {ABOUT}:
            self.remove()

    def remove(self) -> None:
        """Remove the folder, once there is nothing to go on with."""
        shutil.rmtree(self.folder, ignore_errors=True)
