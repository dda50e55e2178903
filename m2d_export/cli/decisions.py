"""Commands that decide by what was measured: select, report."""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from m2d_export.cli.common import RESULTS, examples, say_others
from m2d_export.errors import DataError, SpecError

if TYPE_CHECKING:
    from m2d_export.bench.records import Record

# The option that chooses among several measurements of a task, and the part of the view it sets.
CHOOSES = {"sts": ("--sts", "sts"), "retrieval": ("--retrieval", "collection"), "agreement": ("--texts", "texts")}


@click.command(
    epilog=examples(
        "m2d-export select minilm.m2d --results results.jsonl --min-retention 0.97",
        "m2d-export select minilm.m2d --results results.jsonl --max-latency-ms 1000 --max-index-gb 2 --vectors 10e6",
        "m2d-export select minilm.m2d --sts toy --min-retention 0.95 --batch-size 1 --tokens 16",
    )
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--results", default=RESULTS, type=click.Path(path_type=Path), help="What bench has measured.")
@click.option("--min-retention", type=float, help="Least share of the full cell's quality, 0 to 1.")
@click.option("--min-score", type=float, help="Least quality, x 100.")
@click.option("--max-latency-ms", type=float, help="Most milliseconds a batch, at the median.")
@click.option("--min-throughput", type=float, help="Least sentences a second.")
@click.option("--max-index-gb", type=float, help="Most GB of an index of --vectors.")
@click.option("--vectors", type=float, help="Vectors that the index holds.")
@click.option("--bytes-per-value", type=float, help="Bytes of one number in the index.  [default: 4]")
@click.option(
    "--task", type=click.Choice(["sts", "retrieval", "agreement"]), default="sts", help="Whose quality counts."
)
@click.option("--sts", metavar="NAME", help="Which set's scores count.  [default: the first; toy if alone]")
@click.option("--texts", metavar="NAME", help="Which texts' agreement counts.  [default: the first]")
@click.option("--retrieval", "collection", metavar="NAME", help="Which collection counts.  [default: the first]")
@click.option("--batch-size", type=int, help="Whose times count.  [default: latency least, throughput most]")
@click.option("--tokens", type=int, help="The times of which length count.  [default: the shortest]")
@click.option("--scope", type=click.Choice(["text", "graph"]), help="Times to count.  [default: text, if timed]")
@click.option("--json", "as_json", is_flag=True, help="Print the choice as JSON.")
def select(
    bundle: Path,
    results: Path,
    task: str,
    sts: str | None,
    texts: str | None,
    collection: str | None,
    batch_size: int | None,
    tokens: int | None,
    scope: str | None,
    as_json: bool,
    **budgets: Any,
) -> None:
    """Pick the cell of BUNDLE to ship: the fastest that is good enough, or the best that is fast and small enough.

    Latency is that of one text, or of the smallest batch that was timed; throughput is that of the largest, unless
    --batch-size names one for both. An index of fewer bytes a value is judged by the score that it keeps.
    """
    from dataclasses import asdict

    from rich.console import Console

    from m2d_export.bench.metrics import candidates
    from m2d_export.bench.views import view_of
    from m2d_export.bundle.bundle import Bundle
    from m2d_export.report.choice import choice_table, deploying
    from m2d_export.select.budgets import Budgets
    from m2d_export.select.rule import Task
    from m2d_export.select.rule import select as choose

    _show_warnings()
    asked = Budgets(**budgets)
    last = _of_last_machine(bundle, results, Bundle.open(bundle).id)
    wanted = {"sts": sts, "texts": texts, "collection": collection}
    view = view_of(last, **wanted, batch_size=batch_size, tokens=tokens, scope=scope)
    _say_which(results, last, task, view, wanted)
    cells = candidates(last, view)
    choice = choose(cells, asked, Task(task), view)
    picked = choice.picked
    deploy = deploying(picked, bundle, last[-1]["machine"]["cores"]) if picked else None
    if as_json:
        click.echo(json.dumps({**asdict(choice), "deploy": deploy}, default=str))
    else:
        Console().print(choice_table(choice, cells))
        if view.times:
            click.echo(f"times: {view.times}")
        for warning in choice.warnings:
            click.echo(f"warning: {warning}", err=True)
        if deploy:
            click.echo(f"to run it: {deploy}")
    if picked is None:
        if choice.unmeasured:
            raise SpecError(
                f"{' and '.join(choice.unmeasured)} not measured of any cell: run m2d-export bench for it first"
            )
        ways = "; ".join(map(str, choice.relaxations)) or "it takes more than one budget to relax"
        raise SpecError(f"no cell meets the budgets: {ways}")


@click.command(epilog=examples("m2d-export report results.jsonl -o report"))
@click.argument("results", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
def report(results: Path, output: Path) -> None:
    """Write RESULTS as a page that opens from disk, the same in Markdown, and pictures for a README."""
    from m2d_export.bench.records import read_records
    from m2d_export.report.page import write_report
    from m2d_export.select.budgets import Budgets
    from m2d_export.select.rule import select as choose

    _show_warnings()
    write_report(read_records(results), output, lambda cells, least: choose(cells, Budgets(min_retention=least)))
    click.echo(f"wrote {output}: open {output / 'index.html'}")


def _show_warnings() -> None:
    """Have what reading results warns of said as a warning."""
    logging.basicConfig(format="warning: %(message)s", stream=sys.stderr)


def _of_last_machine(bundle: Path, results: Path, identity: str) -> "list[Record]":
    """What was measured of a bundle, by the last machine that did; what else there is is said."""
    from m2d_export.bench.records import groups, hardware, measured, read_records

    there = read_records(results)
    own = [record for record in there if record["bundle"] == identity]
    mine = measured(own)
    if not mine:
        raise DataError(f"{results} has no results of {bundle}: run m2d-export bench {bundle} -o {results}")
    if len(own) < len(there):
        say_others(results, len(there) - len(own), "this choice")
    machines = len(groups(mine))
    if machines > 1:
        click.echo(f"{results} has results of {machines} machines: the last one measured counts", err=True)
    return [record for record in mine if hardware(record) == hardware(mine[-1])]


def _say_which(results: Path, records: "Sequence[Record]", task: str, view: Any, wanted: dict[str, str | None]) -> None:
    """Name the set, texts or collection that counts, where there are several and none was asked for."""
    from m2d_export.bench.views import collection_names, sts_labels, text_names

    option, part = CHOOSES[task]
    names = {"sts": [*sts_labels(records)], "texts": text_names(records), "collection": collection_names(records)}[part]
    if wanted[part] is None and len(names) > 1:
        counts = f"{getattr(view, part)} counts, {option} names another"
        click.echo(f"{results} has {task} results on {', '.join(names)}: {counts}", err=True)
