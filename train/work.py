"""What a training is given, and the folder next to the output in which it saves its state."""

import contextlib
import dataclasses
import json
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import torch

from m2d_export.checkpoints.load import Checkpoint
from m2d_export.errors import OutputError, TrainingError, first_line
from m2d_export.host.files import output_file, writing
from m2d_export.host.folders import check_new, check_replaceable, other_file
from m2d_export.host.staging import remove_stale

from .data import Data, fingerprint
from .log import REMEDY, Entry
from .recipes import GridRecipe, Recipe

STATE, IDENTITY, LAST_GOOD = "state.pt", "training.json", "last-good"
TARGETS, START, WRITTEN = "targets.pt", "start", "written.json"  # of a distillation
OF_TRAINER = ("checkpoint-*", "eval")  # folders of sentence-transformers' trainer


@dataclass(frozen=True)
class Job:
    """One training: the checkpoint, named ``base`` in the card, the data, the recipe, and the folder to write.

    ``precision`` is the type to compute in: fp32, or fp16 or bf16 with autocast. ``half`` stores the weights in fp16.
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
        """The exits to train: those of the grid recipe, or every layer for the seed recipe."""
        return self.recipe.layers if isinstance(self.recipe, GridRecipe) else tuple(range(1, self.checkpoint.depth + 1))

    def identity(self) -> dict[str, Any]:
        """Everything that must be the same when a training is resumed."""
        return {
            "recipe": type(self.recipe).__name__,
            "settings": dataclasses.asdict(self.recipe),
            "model": self.checkpoint.origin.fingerprint,
            "data": fingerprint(self.data),
            "device": self.device,
            "precision": self.precision,
        }


class Resumable(Protocol):
    """What a work folder must know of a training."""

    @property
    def target(self) -> Path:
        """The folder to write."""
        ...

    def identity(self) -> dict[str, Any]:
        """Everything that must be the same when the training is resumed."""
        ...


class _Keeping:
    """A file that keeps the error of a write: torch raises another one, which does not say that the disk is full."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def check_finite(state: object) -> None:
    """Raise TrainingError if a tensor in nested dicts and lists has NaN or infinity: no training can go on from it."""
    if isinstance(state, torch.Tensor):
        if not torch.isfinite(state).all():
            raise TrainingError(f"a weight or a value of the optimizer is NaN or infinity: {REMEDY}")
    elif isinstance(state, dict | list | tuple):
        for value in state.values() if isinstance(state, dict) else state:
            check_finite(value)


class WorkFolder:
    """``OUT.training``: a training's identity, and its last state with the log, until the checkpoint is published.

    ``kind`` is the ending of its name. Files that other programs wrote into it stay.

    Raises OutputError if the target exists and is not what this training wrote when it was stopped, or if the folder
    exists and ``resume`` is False. Raises TrainingError if ``resume`` is True and the folder is missing or belongs to
    another training.
    """

    def __init__(self, job: Resumable, resume: bool, kind: str = "training") -> None:
        identity, target = job.identity(), job.target
        self.path = target.with_name(f"{target.name}.{kind}")
        if not (resume and self.written()):
            check_new(target)
        elif target.exists():
            check_replaceable(target, self.why_not_replaced, target)
        if resume:
            self._check(identity)
        elif (self.path / IDENTITY).exists():
            raise OutputError(f"{self.path} has an unfinished training: continue it with --resume, or remove it")
        else:
            with writing(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
            with output_file(self.path / IDENTITY) as file:
                file.write(json.dumps(identity, indent=2).encode())

    def _check(self, identity: dict[str, Any]) -> None:
        if not self.path.is_dir():
            raise TrainingError(f"{self.path} does not exist, there is nothing to resume: leave --resume out")
        try:
            found = json.loads((self.path / IDENTITY).read_text(encoding="utf-8"))
            differing = [key for key in identity if found[key] != json.loads(json.dumps(identity[key]))]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"{self.path} has no valid {IDENTITY} ({error!r}): remove the folder") from error
        if differing:
            changes = "; ".join(f"{key} was {found[key]}, now {identity[key]}" for key in differing)
            raise TrainingError(
                f"{self.path} belongs to a training with other options ({changes}): give the same options, or remove it"
            )

    def written(self) -> list[str]:
        """The files that a stopped training wrote to its target, which the next one may replace."""
        try:
            return list(json.loads((self.path / WRITTEN).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return []

    def save_written(self, files: Sequence[str]) -> None:
        """Save that the target has these files."""
        with output_file(self.path / WRITTEN) as file:
            file.write(json.dumps(files).encode())

    def why_not_replaced(self, folder: Path) -> str | None:
        """The objection to replacing ``folder``, in words that follow its path; None if a stopped training wrote it."""
        return other_file(folder, self.written(), "the stopped training")

    def save(self, state: dict[str, Any], log: Sequence[Entry] = (), name: str = STATE) -> None:
        """Replace the saved state and its log, whole or not at all.

        Raises TrainingError if the new state has NaN or infinity; the earlier state then stays.
        """
        check_finite(state)
        with output_file(self.path / name) as file:
            kept = _Keeping(file)
            try:
                content = {"state": state, "log": [entry.to_json() for entry in log]}
                torch.save(content, kept)  # type: ignore[arg-type]  # it only writes
            except RuntimeError:
                if kept.error is not None:
                    raise kept.error from None
                raise

    def saved(self, name: str = STATE) -> tuple[dict[str, Any], list[Entry]] | None:
        """The last saved state and its log, None if there is none; raises TrainingError if the file is damaged."""
        path = self.path / name
        if not path.exists():
            return None
        try:
            with zipfile.ZipFile(path) as archive:  # torch does not compare the checksums of what it reads
                if damaged := archive.testzip():
                    raise ValueError(f"{damaged} has another checksum")
            found = torch.load(path, map_location="cpu", weights_only=True)
            check_finite(found["state"])
            return found["state"], [Entry.from_json(entry) for entry in found["log"]]
        except Exception as error:  # zip, pickle and tensors raise errors of many types
            raise TrainingError(
                f"{path} cannot be used ({first_line(error)}): remove {self.path} and start again"
            ) from error

    def remove_if_empty(self) -> None:
        """Remove the folder if nothing was saved in it, so that the next training can start without --resume."""
        if self.path.is_dir() and {path.name for path in self.path.iterdir()} <= {IDENTITY}:
            self.remove()

    def remove(self) -> None:
        """Remove what trainings write here, and the folder if it is empty then."""
        with contextlib.suppress(OSError):
            for path in (self.path / name for name in (STATE, TARGETS, WRITTEN, IDENTITY)):
                remove_stale(path)
                path.unlink(missing_ok=True)
            for path in (self.path / name for name in (LAST_GOOD, START)):
                remove_stale(path)
            for path in (path for name in (LAST_GOOD, START, *OF_TRAINER) for path in self.path.glob(name)):
                shutil.rmtree(path, ignore_errors=True)
            self.path.rmdir()
