"""How much memory does a process need if it has every exit of a bundle open?

    python -m benchmarks.open_exits minilm.m2d -o benchmarks/results/open_exits.json

A process opens all exits, one after the other, and encodes some texts with each. Another process opens only the deepest
exit. This is done for each runtime on the CPU and each precision of the bundle.
"""

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import common
from m2d_export import Bundle, Encoder
from m2d_export.bench.memory import peak_bytes
from m2d_export.runtimes.table import RUNTIMES

SHORT = [f"The {word} was seen by nobody." for word in ("cat", "ship", "storm", "end")] * 512
LONG = ["The cat was seen by nobody, and so were the ship and the storm. " * 15] * 64
TEXTS = SHORT + LONG  # many batches of short and long texts: a runtime may open its model again for each kind


def peak_mb(bundle: Bundle, layers: list[int], runtime: str, precision: str) -> float:
    """Peak memory of this process in MB after every exit has encoded."""
    with ExitStack() as stack:
        for layer in layers:
            encoder = stack.enter_context(Encoder(bundle, layer, runtime=runtime, precision=precision))
            encoder.encode(TEXTS)
        return peak_bytes() / 1e6


def in_a_process(path: Path, layers: list[int], runtime: str, precision: str) -> float:
    """``peak_mb`` in a process of its own."""
    code = "import sys, json; from benchmarks.open_exits import *; path, layers, *rest = sys.argv[1:]"
    code += "; print(peak_mb(Bundle.open(path), json.loads(layers), *rest))"
    command = [sys.executable, "-c", code, str(path), json.dumps(layers), runtime, precision]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=common.ROOT)
    return float(done.stdout)


def main() -> None:
    """Measure, write."""
    parser = common.parser("open_exits", __doc__)
    parser.add_argument("bundle", type=Path)
    arguments = parser.parse_args()
    path = arguments.bundle.resolve()
    bundle = Bundle.open(path)
    built = sorted({entry.precision for entry in bundle.manifest.variants})
    rows = []
    for runtime, spec in RUNTIMES.items():
        for precision in [precision for precision in built if precision in spec.precisions and spec.device == "cpu"]:
            row: dict[str, Any] = {"runtime": runtime, "precision": str(precision)}
            for name, layers in {"all_mb": bundle.grid.layers, "deepest_mb": bundle.grid.layers[-1:]}.items():
                row[name] = in_a_process(path, list(layers), runtime, str(precision))
            print(row, flush=True)
            rows.append(row)
    common.write_results(arguments, {"exits": len(bundle.grid.layers), "rows": rows})


if __name__ == "__main__":
    main()
