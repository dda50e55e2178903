"""Build a bundle step by step: seconds of every step, bytes of every file.

    python benchmarks/build_cost.py CHECKPOINT -o benchmarks/results/build_cost.json

Seconds are those of one build in a fresh process, imports included: what a user waits.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Measure, print, write."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()

    from m2d_export import pipeline
    from m2d_export.host.machine import machine

    steps: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:

        def report(step: str) -> None:
            steps.append((step, time.perf_counter() - started))

        plan = pipeline.plan(arguments.checkpoint, Path(folder) / "bundle.m2d", report=report)
        bundle = pipeline.build(plan, report=report)
        total = time.perf_counter() - started
    files = {name: entry.size for name, entry in bundle.manifest.files.items()}
    graphs = sum(size for name, size in files.items() if name.startswith("graphs/"))
    deepest = bundle.manifest.variants[-1]
    ends = [begun for _, begun in steps[1:]] + [total]
    result = {
        "command": "python benchmarks/build_cost.py all-MiniLM-L6-v2",
        "seconds": total,
        "steps": {step: end - begun for (step, begun), end in zip(steps, ends, strict=True)},
        "graphs": len(bundle.manifest.variants),
        "files": files,
        "all_graphs_over_the_deepest_alone": graphs / (files[deepest.path] + files[deepest.weights]),
        "machine": machine(),
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{total:.1f} s, all graphs {result['all_graphs_over_the_deepest_alone']:.4f} x the deepest alone")


if __name__ == "__main__":
    main()
