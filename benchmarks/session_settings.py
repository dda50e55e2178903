"""What each setting of an ONNX Runtime session is worth here: the one that is shipped, and others, taking turns.

    python -m benchmarks.session_settings minilm.m2d -o benchmarks/results/session_settings.json

The deepest exit in every precision of the bundle: one text of 16 tokens, 64 of them, and 8 of 128 tokens. Settings are
changed one at a time; a session gets its calls in a row, after a rest, so that none meets the threads of another.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime

from m2d_export import Bundle
from m2d_export.host.machine import cores, machine
from m2d_export.runtimes.onnxrt import SETTINGS

ROUNDS, REST = 5, 0.2
CALLS = {(1, 16): 64, (64, 16): 8, (8, 128): 8}  # of each shape in a turn: enough of the small one to tell
SHIPPED = "as shipped"
LEFT_OUT = {
    "spinning after a call": "session.force_spinning_stop",
    "skip layer norms fused": "optimization.disable_specified_optimizers",
}


def session(path: Path, changed: str) -> onnxruntime.InferenceSession:
    """A session like the runtime's, but for one setting."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1 if changed == "one thread" else cores()
    options.log_severity_level = 3
    left_out = LEFT_OUT.get(changed)
    for key, value in SETTINGS.items():
        if key != left_out:
            options.add_session_config_entry(key, value)
    if changed == "no spinning":
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = changed != "no arena"
    options.enable_mem_pattern = changed != "no memory pattern"
    if changed == "parallel executor":
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


CHANGES = (
    *(SHIPPED, *LEFT_OUT, "no spinning", "no arena", "no memory pattern"),
    *("parallel executor", "one thread"),
)


def main() -> None:
    """Measure in turns, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle)
    chance = np.random.default_rng(0)
    inputs = {}
    for shape in CALLS:
        ids = chance.integers(1000, 20_000, shape)
        inputs["x".join(map(str, shape))] = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    rows: dict[str, Any] = {}
    for precision in sorted({entry.precision for entry in bundle.manifest.variants} & {"fp32", "int8"}):
        path = bundle.variant(bundle.grid.depth, precision, "onnxrt").path
        sessions = {change: session(path, change) for change in CHANGES}
        spent: dict[str, dict[str, list[float]]] = {change: {name: [] for name in inputs} for change in CHANGES}
        for number in range(ROUNDS + 1):  # the first one is not counted
            for change, opened in sessions.items():
                for name, values in inputs.items():
                    time.sleep(REST)
                    taken = []
                    for _ in range(CALLS[values["input_ids"].shape]):
                        started = time.perf_counter()
                        opened.run(None, values)
                        taken.append(time.perf_counter() - started)
                    if number:
                        spent[change][name].append(median(taken))
        rows[precision] = {
            change: {name: 1000 * median(taken) for name, taken in shapes.items()} for change, shapes in spent.items()
        }
        print(precision, json.dumps(rows[precision], indent=1), flush=True)
    result = {"rounds": ROUNDS, "calls": list(CALLS.values()), "milliseconds": rows, "machine": machine()}
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
