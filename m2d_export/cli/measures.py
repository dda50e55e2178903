"""The command that measures a bundle: bench."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from m2d_export.cli.common import (
    ALL_OR_NUMBERS,
    DEFAULT_COMPUTE,
    NUMBERS,
    OUTPUT_FILE,
    PATH,
    RESULTS,
    bundle_argument,
    checkpoint_option,
    examples,
    is_default,
    note_other_results,
    steps,
    threads_option,
    warn_if_int8_is_slow,
    words,
)
from m2d_export.errors import DataError, IntegrityError, RuntimeUnavailable, SpecError
from m2d_export.host.files import STDOUT, check_output

if TYPE_CHECKING:
    from m2d_export.bench.bm25 import Bm25
    from m2d_export.bench.deep_index import DeepIndex
    from m2d_export.bench.quality import Measure
    from m2d_export.bench.records import Record
    from m2d_export.bench.sts import Pairs
    from m2d_export.bench.sweep import Matrix
    from m2d_export.bundle.disk import Bundle


@click.command(
    epilog=examples(
        "m2d-export bench minilm.m2d",
        "m2d-export bench minilm.m2d --sts toy,pairs.csv --columns left,right,grade --texts texts.txt --dims 64,32",
        "m2d-export bench minilm.m2d --layers 1,2 --batch-size 1,8 --tokens 16 -o shallow.jsonl",
        "m2d-export bench minilm.m2d --layers 1 --runtime onnxrt,pytorch --checkpoint ./minilm",
    )
)
@bundle_argument
@click.option(
    "--sts",
    default="toy",
    metavar="toy|stsb|FILE,..",
    help="Graded pairs: toy (in the package), stsb (from the Hub), or files.",
)
@click.option("--columns", metavar="A,B,SCORE", help="Columns of FILE: names, or numbers from 1 if FILE has no header.")
@click.option(
    "--texts",
    type=PATH,
    help="File of your own texts, one in each line, to compare each cell with the deepest exit with all dims.",
)
@click.option("--retrieval", type=PATH, help="Folder in BEIR's layout, to measure how well each cell searches.")
@click.option(
    "--index",
    type=PATH,
    metavar="BUNDLE",
    help="Bundle whose deepest exit makes an index, to measure what queries of each cell find in it.  "
    "[default: BUNDLE itself]",
)
@click.option(
    "--bm25",
    default="english",
    metavar="LANGUAGE|off",
    help="Language of the documents of --retrieval. BM25 searches them too (stems, without stop words).",
)
@click.option("--layers", type=ALL_OR_NUMBERS, default="all", help="Exit layers to measure.")
@click.option("--dims", type=NUMBERS, help="Dims to score.  [default: the bundle's]")
@click.option("--batch-size", "batch_sizes", type=NUMBERS, default="1,32", help="Batch sizes to time.")
@click.option("--tokens", type=NUMBERS, default="16,128", help="Token lengths to time.")
@click.option(
    "--runtime",
    "runtimes",
    type=words("onnxrt,openvino,.."),
    default="onnxrt",
    help="Libraries that run the exits.",
)
@click.option(
    "--precision", "precisions", type=words("fp32,.."), default="fp32", help="Precisions of the stored weights."
)
@click.option(
    "--compute",
    "computes",
    type=words("fp32,.."),
    default=(),
    help=f"Types that floats are multiplied in.  {DEFAULT_COMPUTE}",
)
@threads_option
@checkpoint_option
@click.option("-o", "--output", default=RESULTS, type=OUTPUT_FILE, help="File that the results are added to.")
@click.option("--fresh", is_flag=True, help="Measure again what the file already has.")
@click.option("--all", "show_all", is_flag=True, help="Print all tables instead of the summary.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON lines instead of tables.")
def bench(
    bundle: Path,
    sts: str,
    columns: str | None,
    texts: Path | None,
    retrieval: Path | None,
    index: Path | None,
    bm25: str,
    layers: tuple[int, ...] | None,
    dims: tuple[int, ...] | None,
    tokens: tuple[int, ...],
    output: Path,
    fresh: bool,
    show_all: bool,
    as_json: bool,
    checkpoint: str | None,
    **setups: Any,
) -> None:
    """Measure the quality of every cell of BUNDLE, and the cost of every layer.

    Every combination of --runtime, --precision and --compute is measured. Exits take turns while they are timed, so
    that a slow moment of the machine affects all of them. Each result becomes one line of the output file. If a run was
    interrupted, repeat the command to continue it.
    """
    from m2d_export.bench.deep_index import index_measures
    from m2d_export.bench.records import append, done, read_existing, recording, unmeasured
    from m2d_export.bench.sts import TOY, load_pairs
    from m2d_export.bench.sweep import Matrix, Sweep
    from m2d_export.bundle.disk import Bundle

    if as_json:
        check_output(STDOUT)
    click.get_current_context().with_resource(recording(output))  # held until the end, because measuring takes long
    opened = Bundle.open(bundle, checkpoint)
    longest = opened.manifest.text.max_tokens
    matrix = Matrix(
        layers=opened.grid.layers if layers is None else layers,
        dims=opened.grid.dims if dims is None else dims,
        tokens=tuple(sorted({min(count, longest) for count in tokens})) if is_default("tokens") else tokens,
        **setups,
    ).checked(opened)
    measures = _measures(opened, sts, columns, texts, retrieval)
    searched, deep = _baselines(measures, bm25), _deep_index(opened, measures, index, matrix)
    before = read_existing(output)
    warn_if_int8_is_slow(matrix.precisions)
    new = []
    with steps() as progress:
        sweep = Sweep(
            bundle=opened,
            matrix=matrix,
            measures=(*measures, *(index_measures(measures, deep) if deep else ())),
            bm25=searched,
            index=deep,
            texts=load_pairs(TOY).texts,  # always the same texts, so that costs do not depend on --sts
            command=_command(),
            done=frozenset() if fresh else done(before),
            progress=progress,
        )
        for record in sweep.records():
            append(output, record)
            new.append(record)
    if as_json:
        click.echo("".join(json.dumps(record) + "\n" for record in new), nl=False)
    else:
        _print(bundle, opened.id, output, show_all=show_all)
        if not new:
            click.echo(f"nothing was measured: {output} has all results. Measure again with --fresh")
    _check_measured(opened, unmeasured(new))


def _measures(
    bundle: "Bundle", sts: str, columns: str | None, texts: Path | None, retrieval: Path | None
) -> "tuple[Measure, ...]":
    from m2d_export.bench.quality import GradedPairs, OwnTexts, Searched
    from m2d_export.bench.retrieval import load_collection
    from m2d_export.text.files import read_texts

    found: list[Measure] = [GradedPairs(pairs, bundle.manifest.normalize) for pairs in _graded(sts, columns)]
    if texts:
        found.append(OwnTexts(texts.name, read_texts(texts)))
    if retrieval:
        found.append(Searched(load_collection(retrieval)))
    return tuple(found)


def _baselines(measures: "tuple[Measure, ...]", language: str) -> "tuple[Bm25, ...]":
    from m2d_export.bench.bm25 import OFF, Bm25
    from m2d_export.bench.quality import Searched

    searched = [measure for measure in measures if isinstance(measure, Searched)]
    if not searched and language != OFF and not is_default("bm25"):
        raise SpecError("--bm25 needs documents to search: give --retrieval FOLDER too")
    return () if language == OFF else tuple(Bm25(measure, language) for measure in searched)


def _deep_index(
    bundle: "Bundle", measures: "tuple[Measure, ...]", index: Path | None, matrix: "Matrix"
) -> "DeepIndex | None":
    """The index of --index, or of the bundle itself; None without texts or a collection to search."""
    from m2d_export.bench.deep_index import DeepIndex
    from m2d_export.bench.quality import GradedPairs
    from m2d_export.bundle.disk import Bundle
    from m2d_export.spec import Precision

    if all(isinstance(measure, GradedPairs) for measure in measures):
        if index is not None:
            raise SpecError("--index needs something to search: give --retrieval FOLDER or --texts FILE too")
        return None
    variants = [(entry.layer, entry.precision) for entry in bundle.manifest.variants]
    if index is None and (bundle.grid.full.layer, Precision.FP32) not in variants:
        click.echo("note: this bundle has no float32, so it makes no index: give another bundle with --index", err=True)
        return None
    found = DeepIndex(bundle if index is None else Bundle.open(index), bundle, matrix.threads)
    left = found.dims(matrix.dims)
    if not left:
        raise SpecError(
            f"{index} and {bundle.root.name} do not have the same rotation, so their vectors can be compared with "
            f"all dims only: add {bundle.grid.width} to --dims"
        )
    if len(left) < len(matrix.dims):
        click.echo(
            f"note: {index} and {bundle.root.name} do not have the same rotation: queries are searched in the index "
            f"with all {bundle.grid.width} dims only, after the rotation is undone",
            err=True,
        )
    return found


def _print(bundle: Path, identity: str, output: Path, *, show_all: bool) -> None:
    """Print all results of a bundle on this machine, those of earlier runs included."""
    from rich.console import Console

    from m2d_export.bench.records import hardware, measured, read_records
    from m2d_export.host.machine import machine
    from m2d_export.report.terminal import summary, tables

    records = read_records(output)
    here = hardware({"machine": machine()})
    own = [record for record in records if record["bundle"] == identity and hardware(record) == here]
    if len(own) < len(records):
        note_other_results(output, len(records) - len(own), "these tables")
    if measured(own):
        Console().print(tables(own) if show_all else summary(own, bundle, output))


def _check_measured(bundle: "Bundle", failed: "list[Record]") -> None:
    """Raise an error if anything could not be measured; a damaged bundle is the likely reason, so check it."""
    if failed:
        first = f"{failed[0]['kind']} of layer {failed[0]['layer']}: {failed[0]['error']}"
        error = IntegrityError if bundle.problems() else RuntimeUnavailable
        raise error(f"{len(failed)} results could not be measured. First {first}. Run bench again to measure them")


def _graded(sts: str, columns: str | None) -> "list[Pairs]":
    """The sets of pairs in --sts; --columns is for the files among them."""
    from m2d_export.bench.sts import STSB, TOY, load_pairs

    names = [name.strip() for name in columns.split(",")] if columns else None
    sources = [source.strip() for source in sts.split(",")]
    files = [source for source in sources if source not in (TOY, STSB)]
    found = [load_pairs(source, names if source in files or not files else None) for source in sources]
    known = [pairs.name for pairs in found]
    twice = next((name for name in known if known.count(name) > 1), None)
    if twice:
        raise DataError(f"--sts has two sets named {twice}, and results are identified by that name: rename one file")
    return found


def _command() -> str:
    """The command line as it was typed, without folders, because other people read the records."""
    shown, option = [], ""
    for word in sys.argv[1:]:
        name, value = _option_and_value(word)
        option = name.rstrip("=") or option
        shown.append(name + _without_folders(option, value))
        option = "" if value else option  # a word after a value belongs to no option
    return shlex.join(["m2d-export", *shown])


def _option_and_value(word: str) -> tuple[str, str]:
    """``--sts=a`` and ``-oa`` are an option and its value; any other word is only one of them."""
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return name + equals, value
    return (word[:2], word[2:]) if word.startswith("-") else ("", word)


def _without_folders(option: str, value: str) -> str:
    """A value without folders: --sts is a list of files, and --columns has no files."""
    if option == "--columns":
        return value
    parts = value.split(",") if option == "--sts" else [value]
    return ",".join(Path(part).name or part for part in parts)
