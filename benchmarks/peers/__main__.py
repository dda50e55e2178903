"""How fast are other libraries on the same texts, weights and threads?

    M2D_STSB=DIR python -m benchmarks.peers --work DIR -o benchmarks/results/peers.json

Each system is a process in its own environment. The first run installs the environments from pinned requirements into
``--work`` and makes the files that peers export from the checkpoint. Then all systems are loaded and take turns; only
one works at a time. They encode the sentences of STS-B test and paragraphs of ten sentences. In many short turns, they
encode single texts. Peers keep their defaults, except for the number of threads. The file names each system that cannot
run, with the reason.
"""

import argparse
from pathlib import Path

from benchmarks import common
from benchmarks.peers.measure import Comparison, Place
from benchmarks.peers.systems import SYSTEMS
from m2d_export.host.machine import cores

ROUNDS = 5
SMALLEST = 20  # sentences of a trial


def arguments_of(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments, checked."""
    names = [system.name for system in SYSTEMS]
    parser.add_argument("--work", type=Path, required=True, help="folder for environments and exports")
    common.add_checkpoint(parser)
    parser.add_argument("--only", help="names of systems with commas between them, for a trial")
    parser.add_argument("--threads", type=common.positive, default=cores(), help="default: all cores")
    parser.add_argument("--limit", type=int, help=f"take only this many sentences, an even number from {SMALLEST}")
    arguments = parser.parse_args()
    arguments.only = arguments.only.split(",") if arguments.only else None
    arguments.published = common.RESULTS in arguments.output.resolve().parents
    if arguments.published and (arguments.limit or arguments.only or arguments.rounds < ROUNDS):
        parser.error(f"benchmarks/results takes a run of all systems and texts with {ROUNDS} rounds: choose another -o")
    if arguments.limit is not None and (arguments.limit < SMALLEST or arguments.limit % 2):
        parser.error(f"--limit must be an even number from {SMALLEST}")
    if unknown := set(arguments.only or ()) - set(names):
        parser.error(f"--only names no system: {', '.join(sorted(unknown))}. The systems are: {', '.join(names)}")
    return arguments


def refuse_failures(arguments: argparse.Namespace, comparison: Comparison) -> None:
    """End a run for benchmarks/results if a system failed for another reason than a missing flag of this CPU."""
    if arguments.published and comparison.failed:
        raise SystemExit("not published: a system failed (see above). Fix it, or write the results elsewhere with -o")


def main() -> None:
    """Prepare, measure, write, print."""
    parser = common.parser("peers", __doc__, rounds=ROUNDS)
    arguments = arguments_of(parser)
    pairs, stsb = common.stsb_test(parser), common.stsb_folder(parser)
    place = Place(arguments.work.resolve(), common.checkpoint_of(arguments).resolve(), stsb, arguments.threads)
    comparison = Comparison(place, pairs, arguments.limit)
    try:
        for system in SYSTEMS:
            if arguments.only and system.name not in arguments.only:
                comparison.not_run[system.name] = "left out by --only"
            else:
                comparison.open(system)
        refuse_failures(arguments, comparison)
        for number in range(arguments.rounds if comparison.children else 0):
            print(f"round {number + 1} of {arguments.rounds}", flush=True)
            comparison.round()
            refuse_failures(arguments, comparison)
    finally:
        comparison.close()
    results = {"rounds": arguments.rounds, "limit": arguments.limit, **comparison.results()}
    common.write_results(arguments, results)
    for name, row in comparison.rows.items():
        print(
            f"{name:46} {row['score']:6.2f} {row['short_per_second']:9.0f}/s {row['long_per_second']:8.0f}/s "
            f"{row['single_p50_ms']:8.2f} ms"
        )


if __name__ == "__main__":
    main()
