"""What does a build cost: how many seconds does each step take, and how many bytes does each file have?

    python -m benchmarks.build_cost -o benchmarks/results/build_cost.json

The seconds are those of one build in a new process. They include the imports, because a user waits for them too.
"""

import tempfile
import time
from pathlib import Path

STARTED = time.perf_counter()  # before the imports, which a user waits for as well

from benchmarks import common  # noqa: E402
from m2d_export import build  # noqa: E402


def main() -> None:
    """Build, write, print."""
    parser = common.parser("build_cost", __doc__)
    common.add_checkpoint(parser)
    arguments = parser.parse_args()
    begun: dict[str, float] = {}

    def progress(step: str) -> None:
        begun[step] = time.perf_counter() - STARTED

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "bundle.m2d"
        bundle = build(common.checkpoint_of(arguments), target, progress=progress)
        total = time.perf_counter() - STARTED
    files = {name: entry.size for name, entry in bundle.manifest.files.items()}
    graphs = sum(size for name, size in files.items() if name.startswith("graphs/"))
    deepest = bundle.manifest.variants[-1]
    ends = [*list(begun.values())[1:], total]
    size = graphs / (files[deepest.graph()] + files[deepest.weights])
    results = {
        "seconds": total,
        "steps": {step: end - start for (step, start), end in zip(begun.items(), ends, strict=True)},
        "graphs": len(bundle.manifest.variants),
        "files": files,
        "all_graphs_over_the_deepest_alone": size,
    }
    common.write_results(arguments, results)
    print(f"{total:.1f} s; the size of all graphs is {size:.4f} times that of the deepest")


if __name__ == "__main__":
    main()
