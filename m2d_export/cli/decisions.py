"""Commands that decide by measured values: select, report."""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from m2d_export.cli.common import CELL, OUTPUT_FOLDER, PATH, RESULTS, bundle_argument, examples, note_other_results
from m2d_export.errors import DataError, SpecError
from m2d_export.host.files import STDOUT, check_output

if TYPE_CHECKING:
    from m2d_export.bench.records import Record
    from m2d_export.select.tasks import Task
    from m2d_export.spec import Cell


@click.command(
    epilog=examples(
        "m2d-export select minilm.m2d --results results.jsonl --min-retention 0.97",
        "m2d-export select minilm.m2d --results results.jsonl --max-latency-ms 1000 --max-index-gb 2 --vectors 10e6",
        "m2d-export select minilm.m2d --sts toy --min-retention 0.95 --batch-size 1 --tokens 16",
    )
)
@bundle_argument
@click.option("--results", default=RESULTS, type=PATH, help="File that bench has written.")
@click.option(
    "--min-retention",
    type=float,
    help="Least quality, as a share of the quality of the deepest exit with all dims: from 0 to 1.",
)
@click.option("--min-score", type=float, help="Lowest quality, x 100.")
@click.option("--max-latency-ms", type=float, help="Longest median time of a batch, in milliseconds.")
@click.option("--min-throughput", type=float, help="Least throughput, in sentences per second.")
@click.option("--max-index-gb", type=float, help="Largest index, in GB; needs --vectors.")
@click.option("--vectors", type=float, help="Number of vectors in the index.")
@click.option("--bytes-per-value", type=float, help="Bytes of one number in the index.  [default: 4]")
@click.option(
    "--task",
    type=click.Choice(["sts", "retrieval", "agreement"]),
    help="What counts as quality.  [default: sts; with --index-cell: retrieval]",
)
@click.option(
    "--index-cell",
    type=CELL,
    help="Cell that made an index that you keep: pick a cell that encodes queries for the index. For retention, its "
    "queries are then compared with those of the cell that made the index.",
)
@click.option("--index", metavar="NAME", help="Bundle that made the index.  [default: the other bundle measured last]")
@click.option("--sts", metavar="NAME", help="Set of pairs to judge by.  [default: the first that is not the toy set]")
@click.option("--texts", metavar="NAME", help="File of texts to judge by.  [default: the first]")
@click.option("--retrieval", "collection", metavar="NAME", help="Collection to judge by.  [default: the first]")
@click.option(
    "--batch-size", type=int, help="Batch size to judge by.  [default: smallest for latency, largest for throughput]"
)
@click.option("--tokens", type=int, help="Token length to judge by.  [default: the one that most exits were timed at]")
@click.option(
    "--scope",
    type=click.Choice(["text", "graph"]),
    help="Times to judge by: text is from text to vector, graph is the model only.  [default: text, if timed]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the choice as JSON.")
def select(
    bundle: Path,
    results: Path,
    task: str | None,
    index_cell: "Cell | None",
    index: str | None,
    sts: str | None,
    texts: str | None,
    collection: str | None,
    batch_size: int | None,
    tokens: int | None,
    scope: str | None,
    as_json: bool,
    **budgets: Any,
) -> None:
    """Pick the cell of BUNDLE to ship, by your budgets.

    If you set a limit on quality, the fastest cell that is good enough is picked. If you do not, the best cell that is
    fast and small enough is picked.

    Latency is taken from the smallest timed batch, and throughput from the largest. --batch-size sets one batch for
    both. --bytes-per-value says how an index stores each number: 4 is float32. With fewer bytes, vectors lose
    precision in the index. If bench has measured the score of such vectors, this score is the quality.

    --index-cell is for an index that you keep. The cell that is picked encodes queries for it. Quality is how well
    these queries search the index. For --min-retention, it is divided by the quality of queries that the index's own
    cell encodes.
    """
    from dataclasses import asdict

    from rich.console import Console

    from m2d_export.bench.encoded import prompts
    from m2d_export.bench.metrics import candidates
    from m2d_export.bench.views import bm25_text, index_text, prompts_text, view_of
    from m2d_export.bundle.disk import Bundle
    from m2d_export.report.choice import choice_table, run_command
    from m2d_export.select.budgets import Budgets
    from m2d_export.select.rule import select as choose
    from m2d_export.select.tasks import TASKS, Task

    check_output(STDOUT)
    _show_warnings()
    asked = Budgets(**budgets)
    opened = Bundle.open(bundle)
    last = _of_last_machine(bundle, results, opened.id)
    names = {"sts": sts, "texts": texts, "collection": collection}
    view = view_of(last, **names, index=index, batch_size=batch_size, tokens=tokens, scope=scope)
    if index_cell is None and index is not None:
        raise SpecError("--index needs --index-cell, the cell that made the index")
    if index_cell is not None and task == "sts":
        raise SpecError("--index-cell needs a search: --task retrieval or agreement")
    judged_by = Task(task or "sts") if index_cell is None else Task(f"index-{task or 'retrieval'}")
    _note_default(results, last, judged_by, view, names)
    cells = candidates(last, view)
    choice = choose(cells, asked, judged_by, view, index_cell)
    picked = choice.picked
    text = opened.manifest.text
    prompt = prompts(text, text)["query_prompt"] if index_cell else None
    command = run_command(picked, bundle, last[-1]["machine"]["cores"], prompt) if picked else None
    if as_json:
        click.echo(json.dumps({**asdict(choice), "command": command}, default=str))
    else:
        Console().print(choice_table(choice, cells))
        if index_cell:
            click.echo(f"queries in an index of {index_cell}, made by {index_text(last, view.index)}")
        if searched := prompts_text(last, view, judged_by.replace("-", "_")):  # the kind of its records
            part = TASKS[judged_by].part
            bm25 = bm25_text(last, view.collection) if part == "collection" else ""
            click.echo(f"on {getattr(view, part)}: {'; '.join(filter(None, (bm25, searched)))}")
        if view.times:
            click.echo(f"times: {view.times}")
        for warning in choice.warnings:
            click.echo(f"warning: {warning}", err=True)
        if command:
            click.echo(f"to encode with it: {command}")
    if picked is None:
        if choice.unmeasured:
            raise SpecError(
                f"no cell has a measured {' or '.join(choice.unmeasured)}: run m2d-export bench for it first"
            )
        ways = "; ".join(map(str, choice.relaxations)) or "relax more than one of them"
        raise SpecError(f"no cell meets the budgets: {ways}")


@click.command(epilog=examples("m2d-export report results.jsonl -o report"))
@click.argument("results", type=PATH)
@click.option("-o", "--output", required=True, type=OUTPUT_FOLDER, help="Folder to write.")
def report(results: Path, output: Path) -> None:
    """Write RESULTS as a web page that needs no server, as Markdown, and as pictures."""
    from m2d_export.bench.records import read_records
    from m2d_export.report.page import write_report

    _show_warnings()
    write_report(read_records(results), output)
    click.echo(f"wrote {output}: open {output / 'index.html'}")


def _show_warnings() -> None:
    """Print the log's warnings about the results on standard error."""
    logging.basicConfig(format="warning: %(message)s", stream=sys.stderr)


def _of_last_machine(bundle: Path, results: Path, identity: str) -> "list[Record]":
    """The records of the machine that measured a bundle last; a note says what else the file has."""
    from m2d_export.bench.records import groups, hardware, measured, read_records

    found = read_records(results)
    own = [record for record in found if record["bundle"] == identity]
    mine = measured(own)
    if not mine:
        raise DataError(f"{results} has no results of {bundle}: run m2d-export bench {bundle} -o {results}")
    if len(own) < len(found):
        note_other_results(results, len(found) - len(own), "this choice")
    machines = len(groups(mine))
    if machines > 1:
        click.echo(
            f"note: {results} has results of {machines} machines: only those of the last machine are used", err=True
        )
    return [record for record in mine if hardware(record) == hardware(mine[-1])]


def _note_default(
    results: Path, records: "Sequence[Record]", task: "Task", view: Any, asked: dict[str, str | None]
) -> None:
    """If there are several sets, texts or collections and the user named none, say which one counts."""
    from m2d_export.bench.views import collection_names, sts_labels, text_names
    from m2d_export.select.tasks import TASKS

    part, option = TASKS[task].part, TASKS[task].option
    names = {"sts": [*sts_labels(records)], "texts": text_names(records), "collection": collection_names(records)}[part]
    if asked[part] is None and len(names) > 1:
        counts = f"{getattr(view, part)} is used; {option} chooses another"
        click.echo(f"note: {results} has {task} results on {', '.join(names)}: {counts}", err=True)
