"""How much time does each setting of an ONNX Runtime session save?

    python -m benchmarks.session_settings minilm.m2d -o benchmarks/results/session_settings.json

The deepest exit runs in fp32 and int8 on one text of 16 tokens, on 64 such texts, and on 8 texts of 128 tokens. One
setting is changed at a time. A turn of a session is several calls in a row, after a rest.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime

from benchmarks import common
from m2d_export import Bundle
from m2d_export.host.machine import cores
from m2d_export.runtimes.onnxrt import NO_SKIP_LAYER_NORM_FUSION, SETTINGS, session_options

REST = 0.2
CALLS = {(1, 16): 64, (64, 16): 8, (8, 128): 8}  # calls in a turn, by texts and tokens: more of the short ones
SHIPPED = "as shipped"
SPINNING = "session.force_spinning_stop"
SETTINGS_OF: Mapping[str, Mapping[str, str]] = {
    SHIPPED: SETTINGS,
    "spinning after a call": {key: value for key, value in SETTINGS.items() if key != SPINNING},
    "skip layer norms fused": {key: value for key, value in SETTINGS.items() if key not in NO_SKIP_LAYER_NORM_FUSION},
    "no spinning": {**SETTINGS, "session.intra_op.allow_spinning": "0"},
}
OTHER_CHANGES = ("no arena", "no memory pattern", "parallel executor", "one thread")
CHANGES = (*SETTINGS_OF, *OTHER_CHANGES)


def session(path: Path, change: str) -> onnxruntime.InferenceSession:
    """A session with the runtime's settings, except for one."""
    options = session_options(1 if change == "one thread" else cores(), SETTINGS_OF.get(change, SETTINGS))
    options.log_severity_level = 3  # errors only
    options.enable_cpu_mem_arena = change != "no arena"
    options.enable_mem_pattern = change != "no memory pattern"
    if change == "parallel executor":
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def several(opened: onnxruntime.InferenceSession, shape: tuple[int, int]) -> Callable[[], float]:
    """A turn: the median seconds of several calls."""
    ids = np.random.default_rng(0).integers(1000, 20_000, shape)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    call = common.timed(lambda: opened.run(None, inputs))
    return lambda: median(call() for _ in range(CALLS[shape]))


def main() -> None:
    """Measure, write."""
    parser = common.parser("session_settings", __doc__, rounds=5)
    parser.add_argument("bundle", type=Path)
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle)
    rows: dict[str, Any] = {}
    for precision in common.fp32_and_int8(bundle):
        path = bundle.variant(bundle.grid.depth, precision, "onnxrt").path
        sessions = {change: session(path, change) for change in CHANGES}
        turns = {(change, shape): several(opened, shape) for change, opened in sessions.items() for shape in CALLS}
        seconds = common.take_turns(turns, arguments.rounds, rest=REST)
        rows[precision] = {
            change: {"x".join(map(str, shape)): 1000 * median(seconds[change, shape]) for shape in CALLS}
            for change in CHANGES
        }
        print(precision, json.dumps(rows[precision], indent=1), flush=True)
    common.write_results(arguments, {"rounds": arguments.rounds, "calls": list(CALLS.values()), "milliseconds": rows})


if __name__ == "__main__":
    main()
