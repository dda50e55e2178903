"""How close is int8 to float32 at every exit on texts that did not shape it, and what do products in float cost?

    python -m benchmarks.int8 NAME=FOLDER.. -o benchmarks/results/int8.json

Vectors are those of the sentences of STS-B dev ($M2D_STSB), which neither calibration nor the gate reads. Each change
is one constant of ``m2d_export.graphs.smoothing``. If products are in float, the deepest exit is timed in ONNX Runtime
on one thread, against the same exit with all products in int8.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx_ir as ir
import onnxruntime

from benchmarks import common
from m2d_export.bench.sts import load_pairs
from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.checkpoints.load import Checkpoint, load_checkpoint
from m2d_export.graphs import int8, smoothing
from m2d_export.graphs.activations import Activations, observe
from m2d_export.graphs.export import cut_graph, export_exits
from m2d_export.host.machine import cores
from m2d_export.runtimes.onnxrt import session_options
from m2d_export.spec import DEFAULT, Precision
from m2d_export.text.batches import Batch, batches, sample_spec
from m2d_export.text.files import calibration_texts
from m2d_export.text.tokenizer import Tokenizer
from m2d_export.vectors import FloatArray, cosine

SHIPPED, ALL_IN_INT8 = "as shipped", "all in int8"
NEVER = 1e9
CHANGES: Mapping[str, Mapping[str, float]] = {
    SHIPPED: {},
    ALL_IN_INT8: {"SENSITIVE": NEVER, "TOO_SENSITIVE": NEVER},
    "SENSITIVE 0.05": {"SENSITIVE": 0.05},
    "SENSITIVE 0.15": {"SENSITIVE": 0.15},
    "QUIET 0": {"QUIET": 0.0},
    "QUIET 0.8": {"QUIET": 0.8},
    "QUIET 0.97": {"QUIET": 0.97},
}
SHAPES = ((1, 16), (8, 32), (1, 128))


def main() -> None:
    """Export, quantize, compare, time, write."""
    parser = common.parser("int8", __doc__, rounds=30)
    options: dict[str, Any] = {"nargs": "+", "type": common.named_folder, "metavar": "NAME=FOLDER"}
    parser.add_argument("checkpoints", **options, help="checkpoints to measure")
    arguments = parser.parse_args()
    texts = common.sentences(load_pairs(str(common.stsb_folder(parser) / "dev.csv")))
    found = {}
    for name, folder in arguments.checkpoints:
        found[name] = measured(load_checkpoint(str(folder)), list(dict.fromkeys(texts)), arguments.rounds)
        print(name, {change: row["mean"] for change, row in found[name]["changes"].items()}, flush=True)
    common.write_results(arguments, {"texts": len(set(texts)), "checkpoints": found})


def measured(loaded: Checkpoint, texts: Sequence[str], rounds: int) -> dict[str, Any]:
    """Cosines by change and exit, the strengths that were chosen, the products in float, and milliseconds by shape."""
    layers = range(1, loaded.depth + 1)
    model = export_exits(ExitEncoder(loaded, layers).eval(), loaded.width, loaded.text)
    tokenizer = Tokenizer(loaded.tokenizer_json, loaded.text)
    samples = int8.calibration_samples(calibration_texts(), Tokenizer(loaded.tokenizer_json, sample_spec(loaded.text)))
    rows = list(batches(tokenizer.encode(texts), loaded.text))
    expected = vectors(model, rows)
    kept: dict[str, Activations] = {}

    def observe_once(*arguments: Any) -> dict[str, Activations]:
        kept.update(kept or observe(*arguments))
        return kept

    results: dict[str, Any] = {}
    timed_graphs = {"fp32": model}
    for change, constants in CHANGES.items():
        strengths: Counter[str] = Counter()
        in_float: list[str] = []

        def chosen(*arguments: Any, counted: Counter[str] = strengths) -> smoothing.Smoothing | None:
            best = smoothing.best_smoothing(*arguments)
            counted["none" if best is None else str(best.strength)] += 1
            return best

        with (
            patch.dict(vars(smoothing), constants),
            patch.object(int8, "best_smoothing", chosen),
            patch.object(int8, "observe", observe_once),
        ):
            graphs = int8.int8_graphs(model, Precision.INT8, samples, in_float.append)
        graph = graphs.get("onnxrt", graphs[DEFAULT])
        if change in (SHIPPED, ALL_IN_INT8):
            timed_graphs[change] = graph
        exits = [cosine(*pair) for pair in zip(vectors(graph, rows), expected, strict=True)]
        results[change] = {
            "mean": min(float(values.mean()) for values in exits),
            "least": min(float(values.min()) for values in exits),
            "exits": {
                layer: {"mean": float(values.mean()), "least": float(values.min())}
                for layer, values in zip(layers, exits, strict=True)
            },
            "strengths": dict(sorted(strengths.items())),
            "in_float": in_float,
        }
    cuts = {name: cut_graph(graph, loaded.depth, loaded.width) for name, graph in timed_graphs.items()}
    taken = times(cuts, loaded.text.vocabulary, rounds) if results[SHIPPED]["in_float"] else {}  # else one graph twice
    return {"changes": results, "milliseconds": taken}


def session(model: ir.Model, threads: int) -> onnxruntime.InferenceSession:
    """A session with the settings of the runtime; a graph over 2 GB has no such form."""
    data = ir.serde.serialize_model(model).SerializeToString()
    return onnxruntime.InferenceSession(data, session_options(threads), providers=["CPUExecutionProvider"])


def vectors(model: ir.Model, rows: Sequence[Batch]) -> list[FloatArray]:
    """Vectors of all texts in the order of the batches, (texts, width), by exit."""
    opened = session(model, cores())
    parts = [opened.run(None, batch.inputs()) for batch in rows]
    return [np.concatenate([part[exit] for part in parts]) for exit in range(len(parts[0]))]


def times(models: Mapping[str, ir.Model], vocabulary: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Milliseconds of each graph by shape, and all columns in int8 compared with the shipped graph, round by round."""
    chance, found = np.random.default_rng(0), {}
    opened = {name: session(model, 1) for name, model in models.items()}
    for shape in SHAPES:
        ids = chance.integers(1000, vocabulary - 1000, shape)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        turns = {name: several(one, inputs) for name, one in opened.items()}
        seconds = common.take_turns(turns, rounds, warm_up=3)
        ratio = common.ratio_of(np.array(seconds[SHIPPED]) / np.array(seconds[ALL_IN_INT8]))
        medians = {name: float(np.median(taken)) * 1e3 for name, taken in seconds.items()}
        found["x".join(map(str, shape))] = {**medians, "ratio": ratio.mean, "low": ratio.low, "high": ratio.high}
    return found


def several(opened: onnxruntime.InferenceSession, inputs: Mapping[str, Any]) -> Callable[[], float]:
    """A turn: the median seconds of five calls."""
    call = common.timed(lambda: opened.run(None, dict(inputs)))
    return lambda: float(np.median([call() for _ in range(5)]))


if __name__ == "__main__":
    main()
