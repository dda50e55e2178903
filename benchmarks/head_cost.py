"""How much time does the head of an exit take, if it reads one layer or all layers up to the exit?

    python -m benchmarks.head_cost -o benchmarks/results/head_cost.json

The checkpoint gets heads with random weights: their time does not depend on the weights. Each exit runs in ONNX Runtime
in float32 without a head, with a head that reads its own layer, and with one that reads all layers from 0. The three
take turns. Ratios are computed in each round.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch

from benchmarks import common
from benchmarks.int8 import session
from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.checkpoints.heads import Head
from m2d_export.checkpoints.load import Checkpoint, load_checkpoint
from m2d_export.graphs.export import cut_graph, export_exits
from m2d_export.host.extras import require
from m2d_export.host.machine import cores
from m2d_export.spec import HeadSpec

EXITS = (3, 5)
NONE, OWN, ALL = "no head", "its own layer", "all layers"
CALLS = {(1, 16): 64, (1, 128): 16, (32, 16): 8, (32, 128): 1}  # calls in a turn, by texts and tokens
COMPARED = {"own_over_none": (OWN, NONE), "all_over_own": (ALL, OWN)}
REST = 0.02


def graphs(loaded: Checkpoint, kind: str) -> dict[int, ir.Model]:
    """The graph of each exit with one kind of head, of random weights."""
    heads = {} if kind == NONE else {layer: random_head(loaded, layer, kind) for layer in EXITS}
    exits = ExitEncoder(replace(loaded, heads=heads), EXITS).eval()
    model = export_exits(exits, loaded.width, loaded.text)
    return {layer: cut_graph(model, layer, loaded.width) for layer in EXITS}


def random_head(loaded: Checkpoint, layer: int, kind: str) -> Head:
    """A head at ``layer`` that reads its own layer or all."""
    spec = HeadSpec(layer, (layer,) if kind == OWN else tuple(range(layer + 1)))
    hidden = loaded.encoder.config.hidden_size
    dense = require("sentence_transformers.base.modules.dense", "build").Dense
    return Head(spec, dense(hidden * len(spec.reads), hidden, activation_function=torch.nn.Identity()).eval())


def several(opened: onnxruntime.InferenceSession, shape: tuple[int, int], vocabulary: int) -> Callable[[], float]:
    """A turn: the mean seconds of several calls."""
    ids = np.random.default_rng(0).integers(1000, vocabulary - 1000, shape)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    turn = common.timed(lambda: [opened.run(None, inputs) for _ in range(CALLS[shape])])
    return lambda: turn() / CALLS[shape]


def times(models: Mapping[str, ir.Model], vocabulary: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Milliseconds of an exit with each kind of head by shape, and the ratios with their intervals."""
    opened = {kind: session(model, cores()) for kind, model in models.items()}
    found = {}
    for shape in CALLS:
        turns = {kind: several(one, shape, vocabulary) for kind, one in opened.items()}
        seconds = common.take_turns(turns, rounds, warm_up=2, rest=REST)
        found["x".join(map(str, shape))] = {
            "milliseconds": {kind: 1000 * median(taken) for kind, taken in seconds.items()},
            **{name: _ratio(seconds, pair) for name, pair in COMPARED.items()},
        }
    return found


def _ratio(seconds: Mapping[str, list[float]], pair: tuple[str, str]) -> dict[str, float]:
    ratio = common.ratio_of(np.array(seconds[pair[0]]) / np.array(seconds[pair[1]]))
    return {"mean": ratio.mean, "low": ratio.low, "high": ratio.high}


def main() -> None:
    """Export, time, write."""
    parser = common.parser("head_cost", __doc__, rounds=12)
    common.add_checkpoint(parser)
    arguments = parser.parse_args()
    loaded = load_checkpoint(str(common.checkpoint_of(arguments)))
    exported = {kind: graphs(loaded, kind) for kind in (NONE, OWN, ALL)}
    found = {}
    for layer in EXITS:
        models = {kind: models[layer] for kind, models in exported.items()}
        found[str(layer)] = times(models, loaded.text.vocabulary, arguments.rounds)
    common.write_results(arguments, {"threads": cores(), "rounds": arguments.rounds, "exits": found})


if __name__ == "__main__":
    main()
