"""The folder next to the output in which a training saves its state."""

import contextlib
import json
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import torch

from m2d_export.errors import OutputError, TrainingError, first_line
from m2d_export.host.files import is_only_holder, output_file, sha256_of, utf8_path, writing
from m2d_export.host.folders import check_new, check_replaceable, other_file
from m2d_export.host.staging import remove_stale

from .log import NOT_FINITE, Entry, check_finite, is_finite

STATE, IDENTITY, LAST_GOOD = "state.pt", "training.json", "last-good"
TARGETS, START, WRITTEN = "targets.pt", "start", "written.json"  # of a distillation
OF_TRAINER = ("checkpoint-*", "eval")  # folders of sentence-transformers' trainer


class Resumable(Protocol):
    """What a work folder must know of a training."""

    @property
    def target(self) -> Path:
        """The folder to write."""
        ...

    def identity(self) -> dict[str, Any]:
        """Everything that must be the same when the training is resumed."""
        ...


def _changes(before: dict[str, Any], now: dict[str, Any], of: str = "") -> list[str]:
    """What differs between two identities, each in words."""
    found = []
    for key, value in now.items():
        if isinstance(value, dict):
            # Another recipe has other settings: what it lacks was None.
            found += _changes({**dict.fromkeys(value), **before[key]}, value, f"{key}: ")
        elif before[key] != value:
            found.append(f"{of}{key} was {before[key]}, now {value}")
    return found


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


class WorkFolder:
    """``OUT.training``: a training's identity, and its last state with the log, until the checkpoint is published.

    ``kind`` is the ending of its name. Files that other programs wrote into it stay. As a context, it is closed at the
    end, and removed if nothing was saved in it. Until then, no other process can use it.

    Raises OutputError if the target exists and is not what this training wrote when it was stopped, if the folder
    exists and ``resume`` is False, or if another process uses the folder. Raises TrainingError if ``resume`` is True
    and the folder is missing or belongs to another training.
    """

    def __init__(self, job: Resumable, resume: bool, kind: str = "training") -> None:
        identity, self.target, self.kind = job.identity(), Path(utf8_path(job.target)), kind
        self.path = self.target.with_name(f"{self.target.name}.{kind}")
        if resume and not self.path.is_dir():
            raise TrainingError(f"{self.path} does not exist, there is nothing to resume: leave --resume out")
        if not resume:
            check_new(self.target)
            with writing(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
        with writing(self.path), contextlib.ExitStack() as stack:
            descriptor = os.open(self.path, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            if not is_only_holder(descriptor):
                raise OutputError(f"another process uses {self.path}: wait until it ends, or choose another --output")
            if resume:
                self._check_resumable(identity)
            else:
                self._begin(identity)
            self._held = stack.pop_all()

    def __enter__(self) -> "WorkFolder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove_if_empty()
        self._held.close()

    def _begin(self, identity: dict[str, Any]) -> None:
        if (self.path / IDENTITY).exists():
            raise OutputError(f"{self.path} has an unfinished training: continue it with --resume, or remove it")
        try:
            with output_file(self.path / IDENTITY) as file:
                file.write(json.dumps(identity, indent=2).encode())
        except OutputError:
            self.remove_if_empty()
            raise

    def _check_resumable(self, identity: dict[str, Any]) -> None:
        try:
            found = json.loads((self.path / IDENTITY).read_text(encoding="utf-8"))
            changes = _changes(found, json.loads(json.dumps(identity)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrainingError(f"{self.path} has no valid {IDENTITY} ({error!r}): remove the folder") from error
        if changes:
            raise TrainingError(
                f"{self.path} belongs to a training with other options ({'; '.join(changes)}): repeat that command, "
                "or remove the folder"
            )
        if not self._written():
            check_new(self.target)
        elif self.target.exists():
            check_replaceable(self.target, self.why_not_replaced, self.target)

    def _written(self) -> dict[str, list[str]]:
        """The files that this training may have written to its target, each with its sha256 at every time."""
        try:
            return {name: list(known) for name, known in json.loads((self.path / WRITTEN).read_bytes()).items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def note_written(self, staging: Path) -> None:
        """Save that the files in ``staging`` are going to be the target's, which a resumed training may replace."""
        found = self._written()
        for path in sorted(path for path in staging.rglob("*") if path.is_file()):
            found.setdefault(path.relative_to(staging).as_posix(), []).append(sha256_of(path))
        with output_file(self.path / WRITTEN) as file:
            file.write(json.dumps(found).encode())

    def why_not_replaced(self, folder: Path) -> str | None:
        """The objection to replacing ``folder``, in words that follow its path; None if this training wrote it."""
        if not folder.is_dir():
            return "is no folder"
        written = self._written()
        if other := other_file(folder, written, "the stopped training"):
            return other
        changed = (name for name, known in written.items() if (folder / name).is_file())
        changed = (name for name in changed if sha256_of(folder / name) not in written[name])
        return next((f"has {name}, which was changed after the training wrote it" for name in changed), None)

    def save(self, state: dict[str, Any], log: Sequence[Entry] = (), name: str = STATE) -> None:
        """Replace the saved state and its log, whole or not at all.

        Raises TrainingError if the new state has NaN or infinity; the earlier state then stays.
        """
        check_finite(state, self.kind)
        with output_file(self.path / name) as file:
            kept = _Keeping(file)
            try:
                torch.save({"state": state, "log": [entry.to_json() for entry in log]}, kept)  # type: ignore[arg-type]
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
            if not is_finite(found["state"]):
                raise ValueError(NOT_FINITE)
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
