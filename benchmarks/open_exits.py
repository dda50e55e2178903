"""Memory of a process that has every exit of a bundle open at once, by runtime and precision.

    python -m benchmarks.open_exits minilm.m2d -o benchmarks/results/open_exits.json

Each way is a process of its own: it opens the exits one after the other, encodes a few texts with each, and says how
much memory it had at most, beside that of one that opens the deepest alone.
"""

import argparse
import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from m2d_export import Bundle, Encoder
from m2d_export.bench.memory import peak_bytes
from m2d_export.host.machine import machine
from m2d_export.spec import RUNTIMES

TEXTS = [f"The {word} was seen by nobody." for word in ("cat", "ship", "storm", "end")] * 512  # many batches
TEXTS += [
    "The cat was seen by nobody, and so were the ship and the storm. " * 15
] * 64  # long ones have streams of their own


def opened(bundle: Bundle, layers: list[int], runtime: str, precision: str) -> float:
    """Peak memory in MB after every exit has encoded."""
    with ExitStack() as stack:
        for layer in layers:
            encoder = stack.enter_context(Encoder(bundle, layer, runtime=runtime, precision=precision))
            encoder.encode(TEXTS)
        return peak_bytes() / 1e6


def main() -> None:
    """Measure in children, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--child", nargs=3, metavar=("LAYERS", "RUNTIME", "PRECISION"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.output and not arguments.child:
        parser.error("name an output: -o")
    bundle = Bundle.open(arguments.bundle)
    if arguments.child:
        layers, runtime, precision = arguments.child
        print(opened(bundle, json.loads(layers), runtime, precision))
        return
    built = sorted({entry.precision for entry in bundle.manifest.variants})
    rows = []
    for runtime, spec in RUNTIMES.items():
        for precision in [precision for precision in built if precision in spec.precisions and not spec.gpu]:
            row: dict[str, object] = {"runtime": runtime, "precision": precision}
            for name, layers in {"all_mb": bundle.grid.layers, "deepest_mb": bundle.grid.layers[-1:]}.items():
                child = ["--child", json.dumps(layers), runtime, precision]
                command = [sys.executable, "-m", "benchmarks.open_exits", str(arguments.bundle), *child]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                row[name] = float(done.stdout)
            print(row, flush=True)
            rows.append(row)
    result = {"exits": len(bundle.grid.layers), "rows": rows, "machine": machine()}
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
