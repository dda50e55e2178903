"""Is ``encode`` as fast after a change of the code as before it?

    M2D_STSB=DIR python -m benchmarks.before_after --before OLD --after . --work DIR -o before_after.json

OLD and the other path are two checkouts of this repository. One Python runs both; PYTHONPATH decides which code it
imports. Each checkout first builds its own bundle of the checkpoint. A pair is two fresh processes, one of each
checkout, in alternating order. A process encodes the sentences of STS-B test in one call, and some of them one at a
time. The ratio of a pair is the time before over the time after, so it is above 1 if the code became faster. The mean
over the pairs has a 95 % interval (bootstrap over the pairs), because processes differ more than rounds in one process.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.peers.child import Child
from m2d_export.host.machine import cores

SINGLES, SINGLE_TURNS = 200, 2  # texts encoded one at a time, how often
ORIGIN = "import m2d_export; print(m2d_export.__file__)"


def variables(checkout: Path, threads: int) -> dict[str, str]:
    """Environment variables with which a process imports the code of a checkout."""
    counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")}
    return {**os.environ, **counts, "PYTHONPATH": str(checkout), "TOKENIZERS_PARALLELISM": "true"}


def run(checkout: Path, threads: int, *command: str) -> str:
    """Run Python with the code of a checkout; returns its output."""
    return subprocess.check_output([sys.executable, "-P", *command], env=variables(checkout, threads), text=True)


def prepared(checkout: Path, checkpoint: Path, bundle: Path, threads: int) -> Path:
    """The bundle of the checkpoint that this checkout builds: once for a commit, each time if files have changed."""
    origin = Path(run(checkout, threads, "-c", ORIGIN).strip())
    if not origin.is_relative_to(checkout):
        raise SystemExit(f"{checkout} is not a checkout of m2d-export: Python imports {origin}")
    if not bundle.exists() or bundle.stem.endswith("dirty"):
        bundle.parent.mkdir(parents=True, exist_ok=True)
        build = ["-m", "m2d_export", "build", str(checkpoint), "--precision", "fp32,int8", "--force"]
        run(checkout, threads, *build, "-o", str(bundle))
    return bundle


def seconds(checkout: Path, settings: dict[str, Any], texts: dict[str, Path], log: Path) -> dict[str, float]:
    """Start a process with the code of a checkout; returns the seconds of its workloads after a warm-up."""
    child = Child(Path(sys.executable), settings, log, variables(checkout, settings["threads"]))
    found = {}
    for workload, path in texts.items():
        single = workload == "single"
        child.ask(texts=path, single=single)  # the warm-up
        turns = [child.ask(texts=path, single=single)["seconds"] for _ in range(SINGLE_TURNS if single else 1)]
        found[workload] = median(spent for turn in turns for spent in turn)
    child.close()
    return found


def arguments_of(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments, with absolute paths."""
    parser.add_argument("--before", type=Path, required=True, help="checkout of the old code")
    parser.add_argument("--after", type=Path, default=common.ROOT, help="checkout of the new code; default: this one")
    parser.add_argument("--work", type=Path, required=True, help="folder for the two bundles")
    parser.add_argument("--pairs", type=common.positive, default=10, help="pairs of processes; default 10")
    parser.add_argument("--runtime", default="onnxrt,openvino", help="with commas; default: onnxrt,openvino")
    parser.add_argument("--precision", default="fp32,int8", help="with commas; default: fp32,int8")
    parser.add_argument("--threads", type=common.positive, default=cores(), help="default: all cores")
    parser.add_argument("--limit", type=common.positive, help="take only this many sentences, for a trial")
    common.add_checkpoint(parser)
    arguments = parser.parse_args()
    for name in ("before", "after", "work"):
        setattr(arguments, name, getattr(arguments, name).resolve())
    return arguments


def commit_of(checkout: Path) -> str:
    """The commit of a checkout, marked if files have changed since."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.check_output(command, text=True).strip()


def main() -> None:
    """Build, measure, write, print."""
    parser = common.parser("before_after", __doc__)
    arguments = arguments_of(parser)
    sentences = common.sentences(common.stsb_test(parser))[: arguments.limit]
    workloads = {"many": sentences, "single": common.spread(sentences, SINGLES)}
    checkouts: dict[str, Path] = {"before": arguments.before, "after": arguments.after}
    commits = {side: commit_of(checkout) for side, checkout in checkouts.items()}
    checkpoint = common.checkpoint_of(arguments).resolve()
    bundles = {
        side: prepared(checkout, checkpoint, arguments.work / f"{side}-{commits[side]}.m2d", arguments.threads)
        for side, checkout in checkouts.items()
    }
    texts = {name: arguments.work / f"{name}.json" for name in workloads}
    for name, path in texts.items():
        path.write_text(json.dumps(workloads[name]), encoding="utf-8")
    rows = []
    for runtime, precision in product(arguments.runtime.split(","), arguments.precision.split(",")):
        spent: dict[str, list[dict[str, float]]] = {side: [] for side in checkouts}
        for number in range(arguments.pairs):
            for side in list(checkouts)[:: -1 if number % 2 else 1]:
                settings = {"load": "bundle", "path": str(bundles[side]), "runtime": runtime, "precision": precision}
                settings |= {"threads": arguments.threads}
                log = arguments.work / f"{side}.log"
                spent[side].append(seconds(checkouts[side], settings, texts, log))
        for workload in workloads:
            own = {side: [found[workload] for found in spent[side]] for side in spent}
            ratios = np.divide(own["before"], own["after"])
            ratio = common.ratio_of(ratios)
            row = {"runtime": runtime, "precision": precision, "workload": workload, "ratio": asdict(ratio)}
            rows.append(row | {"ratio_of_pairs": ratios.round(4).tolist(), "seconds": own})
            times = ", ".join(f"{side} {1000 * median(values):.2f} ms" for side, values in own.items())
            interval = f"{ratio.mean:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
            print(f"{runtime:9} {precision:5} {workload:7} ratio {interval}  ({times})", flush=True)
    results = {
        "commits": commits,
        "pairs": arguments.pairs,
        "threads": arguments.threads,
        "texts": {name: len(own) for name, own in workloads.items()},
        "rows": rows,
    }
    common.write_results(arguments, results)


if __name__ == "__main__":
    main()
