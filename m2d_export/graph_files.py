"""Write the graphs of a build for every exit and precision, compare them, and remove the graphs that fail.

Finished graphs are kept for the next build. The results of graphs that passed their gate are kept too.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2d_export.bundle import manifest as layout
from m2d_export.bundle.manifest import VariantEntry
from m2d_export.host.files import sha256_of
from m2d_export.host.kept import Kept, digest_of
from m2d_export.host.machine import processor, versions
from m2d_export.plan import Plan, Progress
from m2d_export.precisions import PRECISIONS, function_of
from m2d_export.spec import DEFAULT, LONG, Precision, Variant
from m2d_export.text.batches import SAMPLE_TOKENS, sample_spec
from m2d_export.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import onnx_ir as ir

    from m2d_export.gate.reference import Reference

Graphs = dict[tuple[int, Precision], dict[str, str]]  # (layer, precision) -> runtime -> path in the bundle
TOOLS = "m2d-export torch transformers sentence-transformers onnx-ir onnxscript onnxruntime onnxruntime-gpu".split()


def write_graphs(plan: Plan, export: Callable[[], "ir.Model"], staging: Path, kept: Kept, progress: Progress) -> Graphs:
    """Write the graphs of each precision for every exit. The graphs of a precision share one file of weights.

    Graphs are cut from the graph of all exits. ``export`` makes this graph, and is called only if the graphs of a
    precision are not kept.
    """
    from m2d_export.graphs.int8 import calibration_samples
    from m2d_export.graphs.passes.block_attention import block_attention

    folder, samples = staging / layout.GRAPHS, None
    folder.mkdir()
    if plan.calibration:
        tokenizer = Tokenizer(plan.checkpoint.tokenizer_json, sample_spec(plan.checkpoint.text))
        samples = calibration_samples(plan.calibration.texts, tokenizer)
    graphs: Graphs = {}
    for precision in plan.precisions:
        texts = plan.calibration.texts if plan.calibration and precision is Precision.INT8 else ()
        key = digest_of(_origin(plan), precision, texts)
        runtimes = kept.take(key, folder)
        if runtimes is None:
            model = export()
            progress(f"making the {precision} graphs of every exit")
            uncut = function_of(PRECISIONS[precision].graphs)(model, precision, samples, progress)
            if plan.checkpoint.text.max_tokens > SAMPLE_TOKENS and block_attention(long := uncut[DEFAULT].clone()):
                uncut = {**uncut, f"onnxrt{LONG}": long}
            runtimes = list(uncut)
            kept.store(key, runtimes, _save(plan, precision, uncut, staging, progress))
        else:
            progress(f"keeping the {precision} graphs of every exit: an earlier build finished them")
        for layer in plan.grid.layers:
            graphs[layer, precision] = {runtime: layout.graph_path(layer, precision, runtime) for runtime in runtimes}
    return graphs


def _save(
    plan: Plan, precision: Precision, uncut: Mapping[str, "ir.Model"], staging: Path, progress: Progress
) -> list[Path]:
    """Cut the graph of each runtime at every exit, write all graphs and weights, and return their files."""
    from m2d_export.graphs.export import cut_graph, save_graphs

    cuts = {
        staging / layout.graph_path(layer, precision, runtime): cut_graph(model, layer, plan.grid.width)
        for layer in plan.grid.layers
        for runtime, model in uncut.items()
    }
    progress(f"writing {precision} graphs and their shared weights")
    weights = staging / layout.weights_path(precision)
    save_graphs(cuts, weights)
    return [*cuts, weights]


def check_graphs(
    plan: Plan, graphs: Graphs, reference: Callable[[], "Reference"], staging: Path, kept: Kept, progress: Progress
) -> tuple[tuple[VariantEntry, ...], list[str]]:
    """Compare every graph with the reference. Returns the variants that pass, and a text for each failure.

    ``reference`` is called only if a result is not kept. The result of a graph that failed is not kept, so the next
    build compares the graph again.
    """
    origin = digest_of(*_origin(plan), plan.grid.dims)
    weights = {precision: sha256_of(staging / layout.weights_path(precision)) for precision in plan.precisions}
    entries, failures = [], []
    for (layer, precision), paths in graphs.items():
        metrics, problems = {}, []
        for runtime, path in paths.items():
            name = f"layer {layer}, {precision}" + ("" if runtime == DEFAULT else f" for {runtime}")
            key = digest_of(origin, name, sha256_of(staging / path), weights[precision])
            metrics[runtime] = kept.take(key, staging)
            if metrics[runtime] is not None:
                progress(f"keeping the result of {name}: it passed its gate in an earlier build")
                continue
            expected = reference()
            progress(f"parity of {name}")
            variant = Variant(layer, precision, staging / path, plan.grid.width, plan.checkpoint.origin)
            parity, found = function_of(PRECISIONS[precision].gate)(variant, expected)
            metrics[runtime] = parity.metrics()
            problems += [f"{name}: {problem}" for problem in found]
            if not found:
                kept.store(key, metrics[runtime])
        failures += problems
        if not problems:
            entries.append(VariantEntry(layer, precision, paths, layout.weights_path(precision), metrics[DEFAULT]))
    return tuple(entries), failures


def _origin(plan: Plan) -> list[Any]:
    """Everything that the graphs of a precision and the results of a gate depend on."""
    checkpoint = plan.checkpoint
    text = (checkpoint.architecture, checkpoint.text, checkpoint.pooling)
    modules = (checkpoint.tail, checkpoint.heads, checkpoint.table)
    return [
        *(_own_files(), processor(), versions([*TOOLS, "numpy"]), checkpoint.origin.fingerprint),
        *(checkpoint.encoder.config.to_json_string(), repr(text), repr(modules)),
        *(checkpoint.normalize, plan.grid.layers),
    ]


@cache
def _own_files() -> str:
    """The sha256 of all files of this package. If its code has changed, nothing that was kept is used."""
    digest, folder = hashlib.sha256(), Path(__file__).parent
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def remove_failed(graphs: Graphs, variants: Sequence[VariantEntry], staging: Path) -> None:
    """Remove the graphs that are not in ``variants``, and the weights that only these graphs have."""
    import onnx_ir as ir

    from m2d_export.graphs.export import save_graphs

    passed = {(entry.layer, entry.precision): entry for entry in variants}
    for place in graphs.keys() - passed.keys():
        for name in graphs[place].values():
            (staging / name).unlink()
    for precision in {precision for _, precision in graphs.keys() - passed.keys()}:
        paths = [staging / path for entry in variants if entry.precision == precision for path in entry.graphs.values()]
        left = {path: ir.external_data.load_to_model(ir.load(path)) for path in paths}
        weights = staging / layout.weights_path(precision)
        weights.unlink()
        if left:
            save_graphs(left, weights)
