"""One distillation from its inputs to a published checkpoint."""

import dataclasses
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Event
from typing import Any

from m2d_export.checkpoints.load import Checkpoint, load_checkpoint
from m2d_export.errors import CheckpointError, TrainingError
from m2d_export.host.files import check_room, writing
from m2d_export.host.folders import new_folder
from m2d_export.spec import Cell, Grid, default_dims

from ..device import choose_device
from ..evaluate import Scores
from ..memory import IN_DISTILLATION, explain_out_of_memory
from ..screen import Screen
from ..stop import stop_on_signal
from ..work import START, TARGETS, WorkFolder
from .choose import choose_reads
from .corpus import Reading, load_texts
from .facts import KIND, facts_of, mix_name
from .features import Teacher
from .job import Job
from .judge import STATED, agreement_grid, shown
from .publish import publish_checkpoint, write_checkpoint
from .settings import Settings
from .solve import solve_heads
from .steps import Training

SAVE_SECONDS = 60  # between two saved states, if saving takes less than SAVE_SHARE of the time
SAVE_SHARE = 0.05
COPIES = 8  # of the weights on disk at most: the start, two states with two values of AdamW each, and the output


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a distillation wrote: the grids of the base and of the checkpoint, and whether it was stopped."""

    before: Scores
    after: Scores
    stopped: bool
    step: int


def prepare(
    name: str,
    reading: Reading,
    target: Path,
    *,
    revision: str | None = None,
    pooling: str | None = None,
    layers: tuple[int, ...] | None = None,
    dims: tuple[int, ...] | None = None,
    max_drift: float = 0.015,
    keep_space: bool = False,
    fresh: bool = False,
    device: str | None = None,
    steps: int | None = None,
    minutes: float = 10,
) -> Job:
    """Load the checkpoint and the texts, and check everything that can be checked before the work; writes nothing.

    ``layers`` and ``dims`` are those of ``build`` by default; the depth and the width are always among them. ``steps``
    replaces ``minutes``. Raises SpecError, DataError, CheckpointError, RuntimeUnavailable.
    """
    where = choose_device(device, KIND)
    base = load_checkpoint(name, revision, pooling)
    chosen = dims if dims is not None else base.trained_dims or default_dims(base.width)
    every = tuple(sorted({*(base.exits if layers is None else layers), base.depth}))
    grid = Grid(base.depth, base.width, every, tuple(sorted({*chosen, base.width}, reverse=True)), (base.width,))
    settings = Settings(grid.layers, grid.dims, max_drift, reading.seed, keep_space, fresh)
    texts = load_texts(base, reading, where)
    seconds = None if steps is not None else minutes * 60
    return Job(base, reading, texts, settings, where, target, steps, seconds)


def distil(job: Job, screen: Screen, resume: bool = False) -> Outcome:
    """Solve heads, train, and publish the checkpoint at the job's target.

    A signal stops the training after the running step: the target is then its last good state, and ``resume`` goes on.
    Before and after the training, a signal raises KeyboardInterrupt; ``resume`` goes on from the last finished stage.
    Raises OutputError if the target exists or cannot be written, TrainingError if it cannot be resumed or memory runs
    out.
    """
    if not resume:
        weights = sum(tensor.nbytes for tensor in job.base.encoder.state_dict().values())
        check_room(job.target, weights * (COPIES if job.trains else 2))
    with WorkFolder(job, resume, KIND) as work:
        _announce(job, screen)
        try:
            with explain_out_of_memory(job.device, IN_DISTILLATION):
                return _distil(job, screen, work)
        except KeyboardInterrupt:
            if (work.path / START).is_dir():
                screen.print(f"what is finished is kept in {work.path}: run the same command with --resume")
            raise


def _distil(job: Job, screen: Screen, work: WorkFolder) -> Outcome:
    teacher = Teacher(job.base, job.device)
    saved = work.saved()
    state = saved[0] if saved else _solved(job, teacher, work, screen)
    start = _start(job, work, state)
    before = {Cell.parse(cell): value for cell, value in state["before"].items()}
    made, step, seconds, stopped = start, 0, 0.0, False
    if job.trains:
        with stop_on_signal() as stop:
            made, step, seconds, stopped = _train(job, teacher, start, work, state, stop, screen)
    if job.trains and not stopped:
        _remember(work, teacher)
        made = choose_reads(teacher, made, job.texts.solved, screen.print)
    screen.print("writing the checkpoint")

    def measure(loaded: Checkpoint) -> Scores:
        return {} if stopped else _grid(job, teacher, loaded)

    facts = facts_of(job, made, step, (state["seconds"], seconds), stopped)
    after = publish_checkpoint(made, work, facts, before, measure)
    if job.trains:
        _name_losers(before, after, job, screen)
    if not stopped:
        work.remove()
    return Outcome(before, after, stopped, step)


def _solved(job: Job, teacher: Teacher, work: WorkFolder, screen: Screen) -> dict[str, Any]:
    """Stage 1; its checkpoint and the targets that it computed are saved in the work folder."""
    started = time.perf_counter()
    solved = solve_heads(teacher, job.texts.solved, job.settings, screen.print, then_trained=job.trains)
    seconds = time.perf_counter() - started
    before = _grid(job, teacher, job.base)
    folder = work.path / START
    if folder.exists():  # another process was killed before it saved a state
        with writing(folder):
            shutil.rmtree(folder)
    with new_folder(folder) as staging:
        write_checkpoint(solved, staging, {})
    state = {
        "start": load_checkpoint(str(folder)).origin.fingerprint,
        "before": {str(cell): value for cell, value in before.items()},
        "seconds": seconds,
        "training": None,
    }
    work.save(teacher.memory(), name=TARGETS)
    work.save(state)
    return state


def _start(job: Job, work: WorkFolder, state: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint of stage 1, from its files, so that a resumed training starts from the same."""
    try:
        start, expected = load_checkpoint(str(work.path / START)), state["start"]
    except (CheckpointError, KeyError, TypeError) as error:
        raise TrainingError(f"{work.path} is damaged ({error}): remove it and start again") from error
    if start.origin.fingerprint != expected:
        raise TrainingError(f"{work.path / START} was changed: remove {work.path} and start again")
    return dataclasses.replace(start, origin=job.base.origin, folder=job.base.folder)


def _train(
    job: Job,
    teacher: Teacher,
    start: Checkpoint,
    work: WorkFolder,
    state: dict[str, Any],
    stop: Event,
    screen: Screen,
) -> tuple[Checkpoint, int, float, bool]:
    """Stage 2: the checkpoint, its steps and seconds, and whether a signal stopped it."""
    if job.texts.trained is job.texts.solved:
        _remember(work, teacher)
        own = teacher
    else:
        own = Teacher(job.base, job.device)  # what the other one remembers belongs to other texts
    training = Training(own, start, job.texts.trained, job.settings, screen.print, steps=job.steps, seconds=job.seconds)
    if state["training"] is not None:
        try:
            training.load_state(state["training"])
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise TrainingError(
                f"the state in {work.path} belongs to another distillation: remove the folder and start again"
            ) from error
        screen.print(f"going on after step {training.step:,}")
    saved, pause = time.monotonic(), float(SAVE_SECONDS)
    while not (training.finished or stop.is_set()):
        loss = training.take_step()
        screen.step(training.step, training.steps or round(training.step / max(training.share, 1e-6)), loss)
        if time.monotonic() - saved > pause:
            begun = time.monotonic()
            work.save({**state, "training": training.last_good})
            saved = time.monotonic()
            pause = max(SAVE_SECONDS, (saved - begun) / SAVE_SHARE)
    finished = training.finished  # before it returns to its last good state, which may be earlier
    work.save({**state, "training": training.state()})
    made = training.checkpoint()
    return made, training.step, training.elapsed, not finished


def _remember(work: WorkFolder, teacher: Teacher) -> None:
    if not len(teacher.known()) and (saved := work.saved(TARGETS)) is not None:
        teacher.load_memory(saved[0])


def _grid(job: Job, teacher: Teacher, checkpoint: Checkpoint) -> Scores:
    """The agreement with the base of every cell that the checkpoint has."""
    layers = [layer for layer in job.layers if layer in checkpoint.exits]
    return agreement_grid(teacher, checkpoint, job.texts.solved.held_out[:STATED], job.settings.dims, layers)


def _name_losers(before: Scores, after: Scores, job: Job, screen: Screen) -> None:
    """Name the exits that agree less with the base than before.

    They cannot go back to their old form, because the blocks of all exits were trained together.
    """
    for layer in job.layers[:-1]:
        old, new = (scores.get(Cell(layer, job.base.width)) for scores in (before, after))
        if old is not None and new is not None and new < old:
            screen.print(
                f"exit {layer} agrees less with the base than before, {shown(old)} -> {shown(new)}: give other texts "
                "or --minutes 0, or leave the exit out of --layers"
            )


def _announce(job: Job, screen: Screen) -> None:
    texts, base = job.texts, job.base
    screen.print(
        f"{base.architecture}, exits {', '.join(map(str, job.layers))}, dims {', '.join(map(str, job.settings.dims))}, "
        f"pooling {base.pooling}, on {job.device}"
    )
    mix = f", and {texts.mix:,} of {mix_name(job.reading)}" if texts.mix else ""
    screen.print(f"texts: {texts.own:,} of {texts.read:,}{mix}; {len(texts.solved.held_out):,} of them are held out")
    if job.trains and base.similarity == "dot" and not base.normalize:
        screen.print(
            "the base compares by dot product, but a training learns directions only, and not the lengths of vectors: "
            "compare by cosine, or give --minutes 0"
        )
