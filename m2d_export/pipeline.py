"""The pipeline from a checkpoint to a published bundle: plain calls, in the order of the design."""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from m2d_export.bundle import bundle as layout
from m2d_export.bundle.bundle import Bundle, FileEntry, Manifest, VariantEntry
from m2d_export.checkpoints.load import Checkpoint, load_checkpoint
from m2d_export.engines.builds import EnginePlan, build_engines, clear_shelf, plan_engines
from m2d_export.errors import ExportError, OutputError, ParityError, SpecError
from m2d_export.host.extras import require
from m2d_export.host.files import check_room, publish, remove_stale, sha256_of, staged_directory, writing
from m2d_export.host.machine import versions
from m2d_export.runtimes import open_runtime
from m2d_export.spec import HALVES, TYPED, Grid, Precision, ShapeRange, Variant, default_dims
from m2d_export.text.batches import TokenIds, Tokenizer
from m2d_export.text.files import read_texts
from m2d_export.text.packaged import calibration_texts, held_out_texts

TOOLS = "m2d-export torch transformers sentence-transformers onnx-ir onnxscript onnxruntime onnxruntime-gpu"
CALIBRATION_TEXTS = 300
BYTES = {Precision.FP32: 4, Precision.FP16: 2, Precision.BF16: 2, Precision.INT8: 1}  # of a weight
if TYPE_CHECKING:
    import onnx_ir as ir

    from m2d_export.checkpoints.exits import ExitEncoder

Report = Callable[[str], None]


@dataclass(frozen=True)
class Calibration:
    """Texts whose activations give int8 its ranges, and where they are from."""

    source: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What a build will make; ``weight_bytes`` is the size of its fp32 weights in memory."""

    checkpoint: Checkpoint
    grid: Grid
    precisions: tuple[Precision, ...]
    calibration: Calibration | None
    target: Path
    weight_bytes: int
    engines: EnginePlan


def plan(
    checkpoint: str,
    target: str | Path,
    *,
    revision: str | None = None,
    layers: Sequence[int] | None = None,
    dims: Sequence[int] | None = None,
    precisions: Sequence[str] = (Precision.FP32,),
    calibration: Path | None = None,
    engines: Sequence[str] = (),
    shapes: Sequence[ShapeRange] | None = None,
    targets: Sequence[str] = (),
    force: bool = False,
    report: Report = lambda step: None,
) -> Plan:
    """Load the checkpoint and settle everything that can fail before the work starts; writes nothing.

    ``layers`` None is every layer; ``dims`` None the checkpoint's own list, or its width and the powers of two
    below; ``calibration`` None texts of this package; ``shapes`` None a profile for each of a few lengths; ``targets``
    the compute capabilities of trt-rtx engines, those that it takes by itself where empty. Raises SpecError,
    DataError, CheckpointError, OutputError, DiskFullError, RuntimeUnavailable.
    """
    path = Path(os.path.expanduser(target)).absolute()
    with writing(path):
        _check_target(path, force)
    require("onnxruntime", "cpu")  # the parity gate runs every graph
    chosen = _precisions(precisions)
    texts = _calibration(chosen, calibration)
    report("loading the checkpoint")
    loaded = load_checkpoint(checkpoint, revision)
    trained = loaded.trained_dims or (loaded.width,)
    walked = dims if dims is not None else loaded.trained_dims or default_dims(loaded.width)
    grid = Grid(
        depth=loaded.depth,
        width=loaded.width,
        layers=tuple(sorted(set(layers))) if layers is not None else tuple(range(1, loaded.depth + 1)),
        dims=tuple(sorted(set(walked), reverse=True)),
        trained_dims=tuple(sorted(trained, reverse=True)),
    )
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in loaded.encoder.state_dict().values()}
    weight_bytes = sum(tensors.values())
    planned = plan_engines(engines, shapes, targets, chosen, loaded.text.max_tokens)
    found = Plan(loaded, grid, chosen, texts, path, weight_bytes, planned)
    check_room(path, _bytes_while_built(found))
    return found


def _bytes_while_built(plan: Plan) -> int:
    """About the room that a build takes: twice its weights in each precision, and engines with weights of their own."""
    embedding = sum(value.nbytes for value in plan.checkpoint.encoder.get_input_embeddings().parameters())
    blocks = plan.weight_bytes - embedding
    of_engines = sum(embedding + blocks * layer // plan.grid.depth for layer in plan.grid.layers)
    needed = 0
    for precision in plan.precisions:
        typed = len(plan.engines.versions) if precision in TYPED else 0
        needed += (2 * plan.weight_bytes + of_engines * typed) * BYTES[precision] // BYTES[Precision.FP32]
    return needed


def _precisions(names: Sequence[str]) -> tuple[Precision, ...]:
    try:
        chosen = {Precision(name) for name in names}
    except ValueError as error:
        raise SpecError(f"{error}: variants can be built in {', '.join(Precision)}") from None
    return tuple(precision for precision in Precision if precision in chosen)


def _calibration(precisions: Sequence[Precision], path: Path | None) -> Calibration | None:
    """Up to 300 texts, evenly from the whole file; None where nothing is quantized."""
    if Precision.INT8 not in precisions:
        if path is not None:
            raise SpecError("--calibration goes with --precision int8: nothing else takes ranges from texts")
        return None
    require("nncf", "int8")
    texts = calibration_texts() if path is None else read_texts(path, "calibration")
    taken = texts[:: -(-len(texts) // CALIBRATION_TEXTS)]
    return Calibration(f"{len(taken)} texts of {'this package' if path is None else path.name}", taken)


def build(plan: Plan, *, force: bool = False, report: Report = lambda step: None) -> Bundle:
    """Export, cut, check and publish what ``plan`` says; ``report`` is told each step as it begins.

    Until the last rename the target is what it was before. An engine that fails is left out, and said after the rest is
    published. Raises ExportError, ParityError, OutputError.
    """
    from m2d_export.checkpoints.exits import ExitEncoder
    from m2d_export.graphs import export as graphs

    loaded, grid = plan.checkpoint, plan.grid
    if removed := remove_stale(plan.target):
        report(f"removed {removed} unfinished build(s) of {plan.target.name}")
    exits = ExitEncoder(loaded, grid.layers).eval()
    report("exporting all exits once")
    model = graphs.model_from_exits(exits, grid.width, loaded.text.max_tokens)
    with staged_directory(plan.target) as staging, writing(plan.target):
        (staging / layout.GRAPHS).mkdir()
        (staging / layout.TOKENIZER).write_text(loaded.tokenizer_json, encoding="utf-8")
        inputs, of_onnxrt = graphs.input_names(exits), set()
        for precision in plan.precisions:
            forms = _in_precision(model, precision, plan, report)
            of_onnxrt |= {precision} if "onnxrt" in forms else set()
            report(f"cutting the {precision} graphs of every exit")
            cuts = {
                staging / layout.graph_path(layer, precision, runtime): graphs.graph_from_model(
                    whole, layer, inputs, grid.width
                )
                for layer, (runtime, whole) in product(grid.layers, forms.items())
            }
            report(f"writing {precision} graphs and their shared weights")
            graphs.save_graphs(cuts, staging / layout.weights_path(precision))
        variants = check_variants(plan, exits, staging, of_onnxrt, report)
        built, failed = build_engines(plan.engines, staging, plan.target, variants, report)
        report("writing the manifest")
        files = {
            path.relative_to(staging).as_posix(): FileEntry(path.stat().st_size, sha256_of(path))
            for path in sorted(staging.rglob("*"))
            if path.is_file()
        }
        manifest = Manifest(
            origin=loaded.origin,
            architecture=loaded.architecture,
            grid=grid,
            trained_layers=loaded.trained_layers or (loaded.depth,),
            pooling=loaded.pooling,
            heads=tuple(sorted(loaded.heads)),
            normalize=loaded.normalize,
            text=loaded.text,
            variants=variants,
            files=files,
            versions=versions([*TOOLS.split(), *(["nncf"] if plan.calibration else [])]),
            similarity=loaded.similarity,
            truncate_dim=loaded.truncate_dim,
            calibration=plan.calibration.source if plan.calibration else None,
            engines=built,
        )
        written = manifest.to_json()
        Manifest.from_json(written)  # before publishing: what the reader refuses must not replace anything
        (staging / layout.MANIFEST).write_text(written, encoding="utf-8")
        report("publishing")
        _check_target(plan.target, force)  # again: much may have happened since the plan
        publish(staging, plan.target, force)
    clear_shelf(plan.target)
    if failed:
        raise ExportError(f"{plan.target} is published, all but these engines: {'; '.join(failed)}")
    return Bundle.open(plan.target)


def _in_precision(model: "ir.Model", precision: Precision, plan: Plan, report: Report) -> "dict[str, ir.Model]":
    """The model of all exits in ``precision``, by the runtime that it is for: "" is every one that has none."""
    if precision is Precision.FP32:
        return {"": model}
    if precision in HALVES:
        from m2d_export.graphs.half import half_model

        return {"": half_model(model, precision)}
    assert plan.calibration is not None  # noqa: S101 - the plan has it wherever there is int8
    from m2d_export.graphs.int8 import calibration_samples, int8_models

    report(f"quantizing to int8, calibrated on {plan.calibration.source}")
    tokenizer = Tokenizer(plan.checkpoint.tokenizer_json, plan.checkpoint.text)
    whole, onnxrt = int8_models(model, calibration_samples(plan.calibration.texts, tokenizer))
    return {"": whole} | ({"onnxrt": onnxrt} if onnxrt else {})


def check_variants(
    plan: Plan, exits: "ExitEncoder", staging: Path, of_onnxrt: Collection[Precision], report: Report
) -> tuple[VariantEntry, ...]:
    """Run every graph in ``staging`` against the reference; raises ParityError naming what fails.

    In the precisions ``of_onnxrt``, ONNX Runtime has graphs of its own.
    """
    from m2d_export.gate.half import RoundedRuntime, compare_half, grid
    from m2d_export.gate.parity import check_reference, compare, compare_quantized, probe_tokens, reference_vectors

    tokenizer, layers = Tokenizer(plan.checkpoint.tokenizer_json, plan.checkpoint.text), plan.grid.layers
    report("running the reference")
    probes = probe_tokens(plan.checkpoint, tokenizer)
    check_reference(plan.checkpoint, tokenizer)
    references = dict(zip(layers, reference_vectors(exits, tokenizer, probes), strict=True))
    held_out: list[TokenIds] = []
    if Precision.INT8 in plan.precisions:
        held_out = tokenizer.encode(held_out_texts(), plan.checkpoint.text.prompt())
        ordinary = dict(zip(layers, reference_vectors(exits, tokenizer, held_out), strict=True))
    shapes = grid(probes, plan.checkpoint.text) if set(HALVES) & set(plan.precisions) else []
    over_shapes = [(batch, dict(zip(layers, exits.vectors(batch), strict=True))) for batch in shapes]
    entries, failures = [], []
    for precision, layer in product(plan.precisions, layers):
        graph, weights = layout.graph_path(layer, precision), layout.weights_path(precision)
        variant = Variant(layer, precision, staging / graph, plan.grid.width, plan.checkpoint.origin)
        onnxrt = layout.graph_path(layer, precision, "onnxrt") if precision in of_onnxrt else None
        report(f"parity of layer {layer}, {precision}")
        if precision in HALVES:
            expected = [(batch, vectors[layer]) for batch, vectors in over_shapes]
            with RoundedRuntime(variant) as rounded:
                parity = compare_half(rounded, references[layer], tokenizer, probes, plan.grid.dims, expected)
                failures += [f"layer {layer}, {precision}: {failure}" for failure in rounded.overflows()]
        elif precision is Precision.FP32:
            with open_runtime("onnxrt", variant) as runtime:
                parity = compare(runtime, references[layer], tokenizer, probes, plan.grid.dims)
        else:
            both = (references[layer], ordinary[layer])
            with open_runtime("onnxrt", variant) as runtime:
                parity = compare_quantized(runtime, both, tokenizer, (probes, held_out))
            if onnxrt is not None:
                with open_runtime("onnxrt", replace(variant, path=staging / onnxrt)) as runtime:
                    own = compare_quantized(runtime, both, tokenizer, (probes, held_out))
                failures += [f"layer {layer}, {precision} of onnxrt: {failure}" for failure in own.failures(precision)]
        failures += [f"layer {layer}, {precision}: {failure}" for failure in parity.failures(precision)]
        entries.append(VariantEntry(layer, precision, graph, weights, parity.figures(), onnxrt))
    if failures:
        raise ParityError(f"not published, since these variants fail parity: {'; '.join(failures)}")
    return tuple(entries)


def _check_target(target: Path, force: bool) -> None:
    """Refuse to touch what exists, unless it is a bundle and ``force`` says so."""
    if not target.exists() and not target.is_symlink():
        return
    if not (target.is_dir() and not target.is_symlink() and (target / layout.MANIFEST).is_file()):
        raise OutputError(f"{target} exists and is not a bundle: choose another path, or remove it yourself")
    if not force:
        raise OutputError(f"{target} exists: use --force to replace it, or choose another path")
