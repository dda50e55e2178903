"""The graphs of a build as files: written for every exit and precision, and removed where they fail their gate."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from m2d_export.bundle import manifest as layout
from m2d_export.bundle.manifest import VariantEntry
from m2d_export.plan import Plan, Progress
from m2d_export.precisions import PRECISIONS, function_of
from m2d_export.spec import DEFAULT, LONG, Precision
from m2d_export.text.batches import SAMPLE_TOKENS, sample_spec
from m2d_export.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import onnx_ir as ir

Graphs = dict[tuple[int, Precision], dict[str, str]]  # by layer and precision: a path in the bundle by runtime


def write_graphs(plan: Plan, model: "ir.Model", staging: Path, progress: Progress) -> Graphs:
    """Make the graphs of each precision from the uncut graph, cut them per exit, and store their weights once."""
    from m2d_export.graphs.export import cut_graph, save_graphs
    from m2d_export.graphs.int8 import calibration_samples
    from m2d_export.graphs.passes.block_attention import block_attention

    (staging / layout.GRAPHS).mkdir()
    samples = None
    if plan.calibration:
        tokenizer = Tokenizer(plan.checkpoint.tokenizer_json, sample_spec(plan.checkpoint.text))
        samples = calibration_samples(plan.calibration.texts, tokenizer)
    paths: Graphs = {}
    for precision in plan.precisions:
        progress(f"making the {precision} graphs of every exit")
        uncut = function_of(PRECISIONS[precision].graphs)(model, precision, samples, progress)
        if plan.checkpoint.text.max_tokens > SAMPLE_TOKENS and block_attention(long := uncut[DEFAULT].clone()):
            uncut = {**uncut, f"onnxrt{LONG}": long}
        cuts = {}
        for layer in plan.grid.layers:
            paths[layer, precision] = {runtime: layout.graph_path(layer, precision, runtime) for runtime in uncut}
            for runtime, path in paths[layer, precision].items():
                cuts[staging / path] = cut_graph(uncut[runtime], layer, plan.grid.width)
        progress(f"writing {precision} graphs and their shared weights")
        save_graphs(cuts, staging / layout.weights_path(precision))
    return paths


def remove_failed(graphs: Graphs, variants: Sequence[VariantEntry], staging: Path) -> None:
    """Remove the graphs that are not in ``variants``; weights that no other graph of their precision has go too."""
    import onnx_ir as ir

    from m2d_export.graphs.export import save_graphs

    passed = {(entry.layer, entry.precision): entry for entry in variants}
    for place in graphs.keys() - passed.keys():
        for path in graphs[place].values():
            (staging / path).unlink()
    for precision in {precision for _, precision in graphs.keys() - passed.keys()}:
        paths = [staging / path for entry in variants if entry.precision == precision for path in entry.graphs.values()]
        left = {path: ir.external_data.load_to_model(ir.load(path)) for path in paths}
        weights = staging / layout.weights_path(precision)
        weights.unlink()
        if left:
            save_graphs(left, weights)
