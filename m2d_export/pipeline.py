"""The pipeline from a checkpoint to a published bundle: plain calls, from top to bottom."""

import hashlib
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np

from m2d_export.bundle import manifest as layout
from m2d_export.bundle.disk import Bundle, files_in, published_engine
from m2d_export.bundle.manifest import Manifest, VariantEntry, read_manifest
from m2d_export.engines.builds import EngineCache, TypedGraph, build_engines
from m2d_export.errors import BundleError, ExportError, ParityError
from m2d_export.graph_files import TOOLS, check_graphs, remove_failed, write_graphs
from m2d_export.host.files import writing
from m2d_export.host.folders import publish, staged_directory
from m2d_export.host.kept import Kept
from m2d_export.host.machine import versions
from m2d_export.host.staging import remove_stale
from m2d_export.plan import BuildOptions, Plan, Progress, no_progress, plan, why_not_replaced
from m2d_export.precisions import PRECISIONS
from m2d_export.spec import EngineEntry, Precision
from m2d_export.vectors import FloatArray

if TYPE_CHECKING:
    import onnx_ir as ir

    from m2d_export.checkpoints.load import Checkpoint


def build(
    checkpoint: str | Path, target: str | Path, *, progress: Progress = no_progress, **options: Unpack[BuildOptions]
) -> Bundle:
    """Build a bundle from a checkpoint: one graph per exit, compared with PyTorch, and weights stored once.

    ``checkpoint`` is a sentence-transformers or transformers folder, or a Hub id. ``options`` are those of ``plan``.
    ``progress`` is called with the name of each step. The target appears whole, or stays as it was. Before the work
    starts, this raises what ``plan`` raises; during the work, ExportError and ParityError.
    """
    return build_planned(plan(checkpoint, target, progress=progress, **options), progress)


def build_planned(plan: Plan, progress: Progress = no_progress) -> Bundle:
    """Build what ``plan`` describes. If an engine fails, the rest is published, and ExportError names the engine.

    Raises ParityError if a graph fails its gate. Then nothing is published. With ``plan.partial``, the graphs that
    passed are published.
    """
    from m2d_export.checkpoints.exits import ExitEncoder
    from m2d_export.gate.reference import Reference, checked_reference
    from m2d_export.graphs.export import export_exits

    @cache
    def exported() -> "ir.Model":
        progress("exporting all exits once")
        return export_exits(exits, plan.grid.width, plan.checkpoint.text)

    @cache
    def reference() -> Reference:
        progress("running the reference")
        return checked_reference(plan.checkpoint, exits, plan.grid.dims)

    if removed := remove_stale(plan.target):
        progress(f"removed {removed} unfinished build(s) of {plan.target.name}")
    exits = ExitEncoder(plan.checkpoint, plan.grid.layers).eval()
    kept = Kept(plan.target)
    with staged_directory(plan.target) as staging, writing(plan.target):
        (staging / layout.TOKENIZER).write_text(plan.checkpoint.tokenizer_json, encoding="utf-8")
        if plan.checkpoint.rotation:
            np.save(staging / layout.ROTATION, rotation_matrix(plan.checkpoint))
        graphs = write_graphs(plan, exported, staging, kept, progress)
        variants, failures = check_graphs(plan, graphs, reference, staging, kept, progress)
        if failures and not (plan.partial and variants):
            remedy = "Build without these layers or precisions" + (", or with --partial" if variants else "")
            found = f". What is finished is kept in {kept.folder} for the next build" if kept.folder.is_dir() else ""
            raise ParityError(
                f"nothing is published, because these graphs fail their gate: {'; '.join(failures)}. {remedy}{found}"
            )
        if failures:
            remove_failed(graphs, variants, staging)
        typed = [
            TypedGraph(entry.layer, entry.precision, staging / entry.graph(), staging / entry.weights)
            for entry in variants
            if PRECISIONS[entry.precision].tensorrt
        ]
        engine_cache = EngineCache(kept, partial(published_engine, plan.target))
        engines, failed = build_engines(plan.engines, typed, staging, engine_cache, progress)
        progress("writing the manifest")
        write_manifest(plan, variants, engines, staging)
        lost = published_variants(plan.target) - {(entry.layer, entry.precision) for entry in variants}
        progress("publishing")
        publish(staging, plan.target, why_not_replaced if plan.force else None)
    kept.clear()
    if failures:
        without = [*failures, *failed]
        had = ", ".join(f"layer {layer} in {precision}" for layer, precision in sorted(lost))
        replaced = f". The bundle that it replaced had {had}" if had else ""
        raise ParityError(f"{plan.target} is published without what failed: {'; '.join(without)}{replaced}")
    if failed:
        raise ExportError(f"{plan.target} is published without these engines: {'; '.join(failed)}")
    return Bundle.open(plan.target, plan.checkpoint.folder)


def rotation_matrix(checkpoint: "Checkpoint") -> FloatArray:
    """The matrix (width, width) of the last Dense, which rotates vectors: rotated = vectors @ matrix.T.

    Raises ExportError unless its sha256 is the one that m2d.json states.
    """
    weight = getattr(getattr(checkpoint.tail[-1] if checkpoint.tail else None, "linear", None), "weight", None)
    matrix = None if weight is None else weight.detach().numpy()
    if matrix is None or hashlib.sha256(matrix.tobytes()).hexdigest() != checkpoint.rotation:
        raise ExportError(
            f"{checkpoint.folder}: m2d.json states a rotation, but its sha256 is not that of the last Dense: distil "
            "again, or remove rotation from m2d.json"
        )
    return np.asarray(matrix, dtype=np.float32)


def published_variants(target: Path) -> set[tuple[int, Precision]]:
    """The layers and precisions of the bundle at ``target``; empty if there is none."""
    try:
        return {(entry.layer, entry.precision) for entry in Bundle.open(target).manifest.variants}
    except BundleError:
        return set()


def write_manifest(
    plan: Plan, variants: tuple[VariantEntry, ...], engines: tuple[EngineEntry, ...], staging: Path
) -> None:
    """Describe everything in ``staging`` in its manifest; raises ExportError if a reader would refuse the bundle."""
    checkpoint, built = plan.checkpoint, {entry.precision for entry in variants}
    manifest = Manifest(
        origin=checkpoint.origin,
        architecture=checkpoint.architecture,
        config=checkpoint.config,
        grid=replace(plan.grid, layers=tuple(sorted({entry.layer for entry in variants}))),
        trained_layers=checkpoint.trained_layers or (checkpoint.depth,),
        pooling=checkpoint.pooling,
        heads=tuple(head.spec for _, head in sorted(checkpoint.heads.items())),
        normalize=checkpoint.normalize,
        text=checkpoint.text,
        variants=variants,
        files=files_in(staging),
        versions=versions(TOOLS),
        similarity=checkpoint.similarity,
        truncate_dim=checkpoint.truncate_dim,
        space=checkpoint.space,
        rotation=checkpoint.rotation,
        calibration=plan.calibration.source if plan.calibration and Precision.INT8 in built else None,
        engines=engines,
    )
    written = manifest.to_json()
    problems = Bundle(staging, read_manifest(written)).problems()
    if problems:
        raise ExportError(
            f"nothing is published, because no reader would load the bundle: {'; '.join(problems)}. Report a bug"
        )
    (staging / layout.MANIFEST).write_text(written, encoding="utf-8")
