"""The plan of a build: everything that can be checked before the work starts is checked here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from m2d_export.bundle.disk import Bundle
from m2d_export.bundle.manifest import MANIFEST
from m2d_export.checkpoints.load import NO_TABLE, Checkpoint, load_checkpoint
from m2d_export.engines.builds import EnginePlan, plan_engines
from m2d_export.errors import BundleError, ManifestError, OutputError, SpecError
from m2d_export.host.extras import require
from m2d_export.host.files import check_parent, check_room, expanded, followed, utf8_path, writing
from m2d_export.host.folders import check_replaceable, other_file
from m2d_export.precisions import PRECISIONS
from m2d_export.spec import Grid, Precision, ShapeRange, check_flag, check_items, default_dims
from m2d_export.text.files import calibration_texts, read_texts

CALIBRATION_TEXTS = 300

Progress = Callable[[str], None]


def no_progress(step: str) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Calibration:
    """Texts that give int8 the ranges of its activations; ``source`` says where they are from."""

    source: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What a build will make; ``weight_bytes`` is the size of the float32 weights in memory."""

    checkpoint: Checkpoint
    grid: Grid
    precisions: tuple[Precision, ...]
    calibration: Calibration | None
    target: Path
    weight_bytes: int
    engines: EnginePlan
    force: bool
    partial: bool


class BuildOptions(TypedDict, total=False):
    """The keywords of ``build``, which ``plan`` describes."""

    revision: str | None
    pooling: str | None
    layers: Sequence[int] | None
    dims: Sequence[int] | None
    precisions: Sequence[str]
    calibration: Path | None
    engines: Sequence[str]
    shapes: Sequence[ShapeRange] | None
    targets: Sequence[str]
    force: bool
    partial: bool
    max_tokens: int | None


def plan(
    checkpoint: str | Path,
    target: str | Path,
    *,
    revision: str | None = None,
    pooling: str | None = None,
    layers: Sequence[int] | None = None,
    dims: Sequence[int] | None = None,
    precisions: Sequence[str] = (Precision.FP32,),
    calibration: Path | None = None,
    engines: Sequence[str] = (),
    shapes: Sequence[ShapeRange] | None = None,
    targets: Sequence[str] = (),
    force: bool = False,
    partial: bool = False,
    max_tokens: int | None = None,
    progress: Progress = no_progress,
) -> Plan:
    """Load the checkpoint and check everything that can be checked before the work starts; writes nothing.

    ``revision`` is the branch, tag or commit of a Hub id. ``pooling`` is the mode of a checkpoint without a Pooling;
    if it is None, m2d.json says the mode, or else it is mean. ``layers`` are the exit layers; None is all layers.
    ``dims`` are the dims that bench measures; None is the trained ones if they are known, else ``default_dims``.
    ``calibration`` is a file for int8 with one text in each line; None is texts of this package. ``engines`` are kinds
    of TensorRT engine, ``shapes`` their profiles and ``targets`` their compute capabilities. ``force`` replaces the
    bundle at ``target``. ``partial`` publishes the graphs that pass their gate, also if others fail.
    ``max_tokens`` is where the bundle cuts texts; None is the checkpoint's own maximum.

    Raises SpecError, DataError, CheckpointError, OutputError, DiskFullError, RuntimeUnavailable.
    """
    path = followed(target)
    check_flag(partial, "partial")
    with writing(path):
        check_target(path, check_flag(force, "force"))
        check_parent(path)
    utf8_path(path)
    require("onnxruntime", "cpu")  # the gate runs every graph
    chosen = _precisions(check_items(precisions, str, "precisions"))
    texts = _calibration(chosen, None if calibration is None else expanded(calibration))
    kinds, gpus = check_items(engines, str, "engines"), check_items(targets, str, "targets")
    ranges = None if shapes is None else check_items(shapes, ShapeRange, "shapes")
    progress("loading the checkpoint")
    loaded = load_checkpoint(str(checkpoint), revision, pooling)
    if max_tokens is not None:
        loaded = _cut_texts(loaded, max_tokens)
    grid = _grid(loaded, layers, dims)
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in loaded.encoder.state_dict().values()}
    planned = plan_engines(kinds, ranges, gpus, chosen, loaded.text.max_tokens)
    found = Plan(loaded, grid, chosen, texts, path, sum(tensors.values()), planned, force, partial)
    check_room(path, _bytes_needed(found))
    return found


def check_target(target: Path, force: bool) -> None:
    """Raise OutputError if ``target`` exists, unless ``force`` is set and it is a bundle with no other file."""
    if not target.exists() and not target.is_symlink():
        return
    if target.is_mount():
        raise OutputError(f"{target} is a mount point, which cannot be replaced: choose a path inside it")
    check_replaceable(target, why_not_replaced, target)
    if not force:
        raise OutputError(f"{target} exists: use --force (in Python: force=True) to replace it, or choose another path")


def why_not_replaced(folder: Path) -> str | None:
    """Why a build must not replace ``folder``, in words that follow its path; None for a bundle with no other file."""
    if not folder.is_dir():
        return "exists and is not a bundle"
    try:
        known = {*Bundle.open(folder).manifest.files, MANIFEST}
    except BundleError as error:
        reason = f" ({error})" if isinstance(error, ManifestError) else ""  # a newer format says to update
        return f"exists and is not a bundle{reason}: it {other_file(folder, (), 'a bundle') or 'is empty'}"
    return other_file(folder, known, "the bundle")


def _cut_texts(loaded: Checkpoint, max_tokens: int) -> Checkpoint:
    """The checkpoint with texts cut at ``max_tokens``, which must leave room for one token of a text.

    ``max_tokens`` may not exceed the maximum of the checkpoint.
    """
    least, most = len(loaded.reference_ids("")) + 1, loaded.text.max_tokens
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or not least <= max_tokens <= most:
        raise SpecError(
            f"max_tokens is {max_tokens!r}, expected {least} to {most}: this checkpoint reads at most {most} tokens, "
            f"and {least - 1} of them do not belong to the text"
        )
    loaded.original.max_seq_length = max_tokens
    return replace(loaded, text=replace(loaded.text, max_tokens=max_tokens))


def _grid(loaded: Checkpoint, layers: Sequence[int] | None, dims: Sequence[int] | None) -> Grid:
    trained = loaded.trained_dims or (loaded.width,)
    every = loaded.exits if layers is None else check_items(layers, int, "layers")
    if 0 in every and loaded.table is None:
        raise SpecError(NO_TABLE)
    chosen = loaded.trained_dims or default_dims(loaded.width) if dims is None else check_items(dims, int, "dims")
    return Grid(
        depth=loaded.depth,
        width=loaded.width,
        layers=tuple(sorted(set(every))),
        dims=tuple(sorted(set(chosen), reverse=True)),
        trained_dims=tuple(sorted(trained, reverse=True)),
    )


def _precisions(names: Sequence[str]) -> tuple[Precision, ...]:
    try:
        chosen = {Precision(name) for name in names}
    except ValueError as error:
        raise SpecError(f"{error}: a bundle can have {', '.join(Precision)}") from None
    if not chosen:
        raise SpecError(f"no precision is named: a bundle can have {', '.join(Precision)}")
    return tuple(precision for precision in Precision if precision in chosen)


def _calibration(precisions: Sequence[Precision], path: Path | None) -> Calibration | None:
    """Up to 300 texts, taken evenly from the whole file; None if int8 is not built."""
    if Precision.INT8 not in precisions:
        if path is not None:
            raise SpecError("calibration belongs to int8: add int8 to the precisions, or leave calibration out")
        return None
    require("scipy.stats", "bench")  # the gate of int8 compares ranks
    texts = calibration_texts() if path is None else read_texts(path, "calibration")
    taken = texts[:: -(-len(texts) // CALIBRATION_TEXTS)]
    return Calibration(f"{len(taken)} texts of {'this package' if path is None else path.name}", taken)


def _bytes_needed(plan: Plan) -> int:
    """An estimate of a build's disk space: weights are in the new bundle and among what is kept for the next build.

    In a partial build, the weights of graphs that passed may be written a third time. An engine has its own copy.
    """
    embedding = sum(value.nbytes for value in plan.checkpoint.encoder.get_input_embeddings().parameters())
    blocks = plan.weight_bytes - embedding
    per_engine_kind = sum(embedding + blocks * layer // plan.grid.depth for layer in plan.grid.layers)
    needed = 0
    for row in (PRECISIONS[precision] for precision in plan.precisions):
        kinds = len(plan.engines.versions) if row.tensorrt else 0
        needed += ((3 if plan.partial else 2) * plan.weight_bytes + per_engine_kind * kinds) * row.weight_bytes
    return needed // PRECISIONS[Precision.FP32].weight_bytes
