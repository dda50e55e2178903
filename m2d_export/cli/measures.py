"""The command that measures bundles: bench."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from m2d_export.cli.common import (
    RESULTS,
    UNTOLD,
    Numbers,
    Words,
    examples,
    is_default,
    say_of_int8,
    say_others,
    steps,
    threads_option,
)
from m2d_export.errors import DataError, IntegrityError, OutputError, RuntimeUnavailable

if TYPE_CHECKING:
    from m2d_export.bench.sts import Pairs


@click.command(
    epilog=examples(
        "m2d-export bench minilm.m2d",
        "m2d-export bench minilm.m2d --sts toy,pairs.csv --columns left,right,grade --texts texts.txt --dims 64,32",
        "m2d-export bench minilm.m2d --layers 1,2 --batch-size 1,8 --tokens 16 -o shallow.jsonl",
        "m2d-export bench minilm.m2d --layers 1 --runtime onnxrt,pytorch -o runtimes.jsonl",
    )
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--sts", default="toy", metavar="toy|stsb|FILE,..", help="Graded pairs: packaged, of the Hub, or files.")
@click.option("--columns", metavar="A,B,SCORE", help="Columns of FILE: names, or places from 1 without a header.")
@click.option("--texts", type=click.Path(path_type=Path), help="File of your own texts, one a line: agreement.")
@click.option("--retrieval", type=click.Path(path_type=Path), help="Folder in BEIR's layout: retrieval and cascades.")
@click.option("--layers", type=Numbers("all"), metavar="all|1,2,..", default="all", help="Exit layers to measure.")
@click.option("--dims", type=Numbers(), help="Dims to score.  [default: the bundle's]")
@click.option("--batch-size", "batch_sizes", type=Numbers(), default="1,32", help="Batch sizes to time.")
@click.option("--tokens", type=Numbers(), default="16,128", help="Token lengths to time.")
@click.option(
    "--runtime",
    "runtimes",
    type=Words(),
    metavar="onnxrt,openvino,..",
    default="onnxrt",
    help="What runs the exits.",
)
@click.option(
    "--precision", "precisions", type=Words(), metavar="fp32,..", default="fp32", help="What weights are stored in."
)
@click.option(
    "--compute", "computes", type=Words(), metavar="fp32,..", default=(), help=f"What runtimes multiply in.  {UNTOLD}"
)
@threads_option
@click.option("-o", "--output", default=RESULTS, type=click.Path(path_type=Path), help="Adds records here.")
@click.option("--fresh", is_flag=True, help="Measure again what the output has already.")
@click.option("--json", "as_json", is_flag=True, help="Print the records instead of tables.")
def bench(
    bundle: Path,
    sts: str,
    columns: str | None,
    texts: Path | None,
    retrieval: Path | None,
    layers: tuple[int, ...] | None,
    dims: tuple[int, ...] | None,
    batch_sizes: tuple[int, ...],
    tokens: tuple[int, ...],
    runtimes: tuple[str, ...],
    precisions: tuple[str, ...],
    computes: tuple[str, ...],
    threads: int | None,
    output: Path,
    fresh: bool,
    as_json: bool,
) -> None:
    """Measure BUNDLE: how good every cell is, what every layer costs.

    Everything runs on the shipped graphs, in every combination of what is listed, calls taking turns. Each result is
    one line of the output file, with its raw seconds; a run that was stopped goes on where it was.
    """
    from rich.console import Console

    from m2d_export.bench.quality import GradedPairs, Measure, OwnTexts, Searched
    from m2d_export.bench.records import append, done, existing, hardware, measured, read_records, unmeasured
    from m2d_export.bench.retrieval import load_collection
    from m2d_export.bench.sts import TOY, load_pairs
    from m2d_export.bench.sweep import Matrix, Sweep
    from m2d_export.bundle.bundle import Bundle
    from m2d_export.host.machine import machine
    from m2d_export.report.terminal import tables
    from m2d_export.text.files import read_texts

    opened = Bundle.open(bundle)
    longest = opened.manifest.text.max_tokens
    matrix = Matrix(
        layers=opened.grid.layers if layers is None else layers,
        dims=opened.grid.dims if dims is None else dims,
        batch_sizes=batch_sizes,
        tokens=tuple(sorted({min(count, longest) for count in tokens})) if is_default("tokens") else tokens,
        runtimes=runtimes,
        precisions=precisions,
        computes=computes,
        threads=threads,
    ).checked(opened)
    pairs = _graded(sts, columns)
    measures: list[Measure] = [GradedPairs(graded, opened.manifest.normalize) for graded in pairs]
    if texts:
        measures.append(OwnTexts(texts.name, read_texts(texts)))
    if retrieval:
        measures.append(Searched(load_collection(retrieval)))
    if not output.absolute().parent.is_dir():  # said before an hour of work, not after it
        raise OutputError(f"cannot write {output}: No such file or directory")
    before = existing(output)
    say_of_int8(precisions)
    new = []
    with steps() as report:
        sweep = Sweep(
            bundle=opened,
            matrix=matrix,
            measures=tuple(measures),
            texts=load_pairs(TOY).texts,  # always the same, so that cost does not hang on whose pairs came first
            command=_command(),
            done=frozenset() if fresh else done(before),
            report=report,
        )
        for record in sweep.records():
            append(output, record)
            new.append(record)
    there = read_records(output)
    if as_json:
        click.echo("".join(json.dumps(record) + "\n" for record in new), nl=False)
    else:
        # What this machine has measured before belongs to the same picture.
        mine = [r for r in there if r["bundle"] == opened.id and hardware(r) == hardware({"machine": machine()})]
        if len(mine) < len(there):
            say_others(output, len(there) - len(mine), "these tables")
        if measured(mine):
            Console().print(tables(mine))
        if not new:
            click.echo(f"nothing was measured: {output} has all of it. Measure again with --fresh")
    failed = unmeasured(new)
    if failed:
        first = f"{failed[0]['kind']} of layer {failed[0]['layer']}: {failed[0]['error']}"
        error = IntegrityError if opened.problems() else RuntimeUnavailable  # a damaged bundle fails its gate
        raise error(f"{len(failed)} results could not be measured; the next run tries again. First {first}")


def _graded(sts: str, columns: str | None) -> "list[Pairs]":
    """The sets that --sts names; --columns is for the files among them."""
    from m2d_export.bench.sts import STSB, TOY, load_pairs

    names = [name.strip() for name in columns.split(",")] if columns else None
    sources = [source.strip() for source in sts.split(",")]
    own = [source for source in sources if source not in (TOY, STSB)]
    found = [load_pairs(source, names if source in own or not own else None) for source in sources]
    known = [pairs.name for pairs in found]
    twice = next((name for name in known if known.count(name) > 1), None)
    if twice:
        raise DataError(f"--sts names two sets called {twice}: results are told apart by that name, so rename a file")
    return found


def _command() -> str:
    """The command line as it was typed, but for the folders of files: records are shown to others."""
    shown, option = [], ""
    for word in sys.argv[1:]:
        name, value = _option_and_value(word)
        option = name.rstrip("=") or option
        shown.append(name + _without_folders(option, value))
        option = "" if value else option  # what follows a value belongs to no option
    return shlex.join(["m2d-export", *shown])


def _option_and_value(word: str) -> tuple[str, str]:
    """``--sts=a`` is an option and its value, as is ``-oa``; any other word is the one or the other."""
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return name + equals, value
    return (word[:2], word[2:]) if word.startswith("-") else ("", word)


def _without_folders(option: str, value: str) -> str:
    """A value without the folders that are in it: of every part of a list of files, none in the name of a column."""
    if option == "--columns":
        return value
    parts = value.split(",") if option == "--sts" else [value]
    return ",".join(Path(part).name or part for part in parts)
