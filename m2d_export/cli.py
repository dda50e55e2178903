"""The command line. The only module that knows click; every command imports what it needs when it runs."""

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

import click

from m2d_export import __version__
from m2d_export.errors import DataError, IntegrityError, M2DError, OutputError, SpecError
from m2d_export.spec import RUNTIMES, Precision, parse_numbers

INTERRUPTED, TERMINATED = 130, 143
PRECISIONS = [precision.value for precision in Precision]
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}


class Numbers(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """Whole numbers separated by commas; where ``word`` is given, that word stands for all of them, as None."""

    name = "1,2,.."

    def __init__(self, word: str | None = None) -> None:
        self.word = word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the list, or fail as click does."""
        if not isinstance(value, str):
            return value
        if value == self.word:
            return None
        try:
            return parse_numbers(value, param.opts[-1] if param else "this option")
        except SpecError as error:
            self.fail(str(error), param, ctx)


def runtime_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what runs a variant."""
    for option in (
        click.option("--threads", type=click.IntRange(min=1), help="Threads to use.  [default: every core]"),
        click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", help="What weights are stored in."),
        click.option("--runtime", type=click.Choice(RUNTIMES), default="onnxrt", help="What runs the model."),
    ):
        command = option(command)
    return command


def examples(*lines: str) -> str:
    """The end of a command's help; its first character keeps click from wrapping what follows."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="m2d-export")
def cli() -> None:
    """ONNX export and optimised inference for 2D-Matryoshka sentence encoders.

    Every prefix of such an encoder's layers and of its dims is a usable encoder: build makes one verified graph per
    exit layer, bench measures the layer x dim grid, encode runs a cell of it.
    """


@cli.command(
    epilog=examples(
        "m2d-export build ./minilm -o minilm.m2d",
        "m2d-export build ./minilm -o shallow.m2d --layers 1,2 --dims 64,128",
        "m2d-export build ./minilm -o minilm.m2d --force --dry-run",
    )
)
@click.argument("checkpoint")
@click.option("-o", "--output", "target", required=True, type=click.Path(path_type=Path), help="Bundle to write.")
@click.option("--revision", help="Branch, tag or commit of a Hub checkpoint.")
@click.option("--layers", type=Numbers("all"), metavar="all|1,2,..", default="all", help="Exit layers to build.")
@click.option("--dims", type=Numbers(), help="Dims that bench walks.  [default: the trained ones, or powers of two]")
@click.option("--force", is_flag=True, help="Replace the bundle that is there.")
@click.option("--dry-run", is_flag=True, help="Load and check everything, say what would be built, write nothing.")
def build(
    checkpoint: str,
    target: Path,
    revision: str | None,
    layers: tuple[int, ...] | None,
    dims: tuple[int, ...] | None,
    force: bool,
    dry_run: bool,
) -> None:
    """Build a bundle from CHECKPOINT: one verified ONNX graph per exit layer, weights stored once.

    CHECKPOINT is a sentence-transformers folder, a transformers folder (mean pooling), or a Hub id.
    """
    from m2d_export import build as pipeline

    with steps() as report:
        planned = pipeline.plan(
            checkpoint, target, revision=revision, layers=layers, dims=dims, force=force, report=report
        )
        grid = planned.grid
        what = (
            f"{len(grid.layers)} exits of {planned.checkpoint.architecture} (layers {_listed(grid.layers)} of "
            f"{grid.depth}), {planned.precision}, dims {_listed(grid.dims)}, pooling {planned.checkpoint.pooling}, "
            f"about {planned.weight_bytes / 1e6:.0f} MB"
        )
        if not dry_run:
            pipeline.build(planned, force=force, report=report)
    click.echo(f"{'would build' if dry_run else 'built'} {target}: {what}")


@cli.command(
    epilog=examples(
        "m2d-export bench minilm.m2d",
        "m2d-export bench minilm.m2d --sts pairs.csv --columns left,right,grade --dims 64,32",
        "m2d-export bench minilm.m2d --layers 1,2 --batch-size 1,8 --tokens 16 -o shallow.jsonl",
    )
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--sts", default="toy", metavar="toy|stsb|FILE", help="Graded pairs: packaged, from the Hub, or a file.")
@click.option("--columns", metavar="A,B,SCORE", help="Columns of FILE: names, or places from 1 without a header.")
@click.option("--layers", type=Numbers("all"), metavar="all|1,2,..", default="all", help="Exit layers to measure.")
@click.option("--dims", type=Numbers(), help="Dims to score.  [default: the bundle's]")
@click.option("--batch-size", "batch_sizes", type=Numbers(), default="1,32", help="Batch sizes to time.")
@click.option("--tokens", type=Numbers(), default="16,128", help="Token lengths to time.")
@runtime_options
@click.option("-o", "--output", default="results.jsonl", type=click.Path(path_type=Path), help="Adds records here.")
@click.option("--json", "as_json", is_flag=True, help="Print the records instead of tables.")
def bench(
    bundle: Path,
    sts: str,
    columns: str | None,
    layers: tuple[int, ...] | None,
    dims: tuple[int, ...] | None,
    batch_sizes: tuple[int, ...],
    tokens: tuple[int, ...],
    runtime: str,
    precision: str,
    threads: int | None,
    output: Path,
    as_json: bool,
) -> None:
    """Measure BUNDLE: the STS score of every cell, latency and throughput of every layer.

    Everything runs on the shipped graphs. Each result is one line of the output file, with its raw seconds.
    """
    from rich.console import Console

    from m2d_export.bench.report import tables
    from m2d_export.bench.sts import load_pairs
    from m2d_export.bench.sweep import Matrix, sweep
    from m2d_export.bundle import Bundle
    from m2d_export.files import writing

    opened = Bundle.open(bundle)
    longest = opened.manifest.text.max_tokens
    chosen = tuple(sorted({min(count, longest) for count in tokens})) if _is_default("tokens") else tokens
    matrix = Matrix(
        layers=opened.grid.layers if layers is None else layers,
        dims=opened.grid.dims if dims is None else dims,
        batch_sizes=batch_sizes,
        tokens=chosen,
        runtime=runtime,
        precision=Precision(precision),
        threads=threads,
    ).checked(opened)
    pairs = load_pairs(sts, [name.strip() for name in columns.split(",")] if columns else None)
    records = []
    with steps() as report:
        for record in sweep(opened, matrix, pairs, report):
            records.append(record)
            with writing(output), output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
    if as_json:
        click.echo("\n".join(map(json.dumps, records)))
    else:
        Console().print(tables(records, pairs))


@cli.command(
    epilog=examples(
        "m2d-export show minilm.m2d",
        "m2d-export show minilm.m2d --json",
    )
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the manifest instead of a table.")
def show(bundle: Path, as_json: bool) -> None:
    """Show what BUNDLE holds, and the parity figures it was published with."""
    from m2d_export.bundle import Bundle

    opened = Bundle.open(bundle)
    if as_json:
        click.echo(opened.manifest.to_json(), nl=False)
        return
    from rich.console import Console

    from m2d_export.show import summary

    Console().print(summary(opened))


@cli.command(
    epilog=examples(
        "m2d-export verify minilm.m2d",
    )
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def verify(bundle: Path, as_json: bool) -> None:
    """Check every file of BUNDLE against its manifest: sizes, sha256, nothing missing, nothing extra."""
    from m2d_export.bundle import Bundle

    opened = Bundle.open(bundle)
    problems = opened.problems()
    if as_json:
        click.echo(json.dumps({"bundle": opened.id, "files": len(opened.manifest.files), "problems": problems}))
    if problems:
        raise IntegrityError(f"{bundle} is not sound: {'; '.join(problems)}. Build it again, or copy it again")
    if not as_json:
        size = sum(entry.size for entry in opened.manifest.files.values())
        click.echo(f"{bundle} is sound: {len(opened.manifest.files)} files, {size / 1e6:.1f} MB")


@cli.command(
    epilog=examples(
        "m2d-export encode minilm.m2d texts.txt --layer 3 --dim 64 -o vectors.npy",
        'echo "A parrot is talking." | m2d-export encode minilm.m2d -o vectors.npy',
    )
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--layer", type=int, help="Exit layer.  [default: the deepest]")
@click.option("--dim", type=int, help="Numbers to keep of each vector.  [default: all]")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="NumPy file to write.")
@click.option("--prompt", help="Text to put before every text.")
@click.option("--prompt-name", help="One of the checkpoint's own prompts.")
@click.option("--force", is_flag=True, help="Replace the output that is there.")
@runtime_options
def encode(
    bundle: Path,
    file: IO[bytes],
    layer: int | None,
    dim: int | None,
    output: Path,
    prompt: str | None,
    prompt_name: str | None,
    force: bool,
    runtime: str,
    precision: str,
    threads: int | None,
) -> None:
    """Encode FILE, one text a line (- is standard input), into a float32 array (lines, dim)."""
    import numpy as np

    from m2d_export.bundle import Bundle
    from m2d_export.encoder import Encoder
    from m2d_export.files import atomic_file

    if output.is_file() and (not force or (Path(file.name).exists() and output.samefile(file.name))):
        raise OutputError(f"{output} exists: use --force to replace it, or choose another path than the input's")
    options: dict[str, Any] = {"runtime": runtime, "precision": precision, "threads": threads}
    with steps() as report, Encoder(Bundle.open(bundle), layer, dim, **options) as encoder:
        vectors = encoder.encode(_lines(file, report), prompt=prompt, prompt_name=prompt_name)
        with atomic_file(output) as staged, staged.open("wb") as stream:
            np.save(stream, vectors)
    click.echo(f"wrote {output}: {vectors.shape[0]} vectors of {vectors.shape[1]} float32 numbers, cell {encoder.cell}")


@cli.command(
    "slice",
    epilog=examples(
        "m2d-export slice ./minilm --layer 3 --dim 128 -o minilm-layer3",
    ),
)
@click.argument("checkpoint")
@click.option("--layer", type=int, required=True, help="Exit layer.")
@click.option("--dim", type=int, help="Numbers to keep of each vector, as truncate_dim.  [default: all]")
@click.option("-o", "--output", "target", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--revision", help="Branch, tag or commit of a Hub checkpoint.")
def slice_(checkpoint: str, layer: int, dim: int | None, target: Path, revision: str | None) -> None:
    """Write one exit of CHECKPOINT as an ordinary sentence-transformers folder."""
    from m2d_export.slices import slice_checkpoint

    with steps() as report:
        report(f"cutting layer {layer} out of the checkpoint")
        slice_checkpoint(checkpoint, layer, target, dim=dim, revision=revision)
    click.echo(f"wrote {target}: a sentence-transformers folder of layer {layer}")


@contextlib.contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Report steps with their times on a terminal; stay quiet in a pipe."""
    if not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.console import Console
    from rich.markup import escape

    console, started = Console(stderr=True), time.perf_counter()
    with console.status("starting") as status:

        def report(step: str) -> None:
            console.print(f"[dim]{time.perf_counter() - started:6.1f} s[/]  {escape(step)}", highlight=False)
            status.update(escape(step))

        yield report


def _lines(file: IO[bytes], report: Callable[[str], None]) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        if number % 10_000 == 0:
            report(f"{number} texts")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{file.name}, line {number} is not UTF-8: convert it first") from error


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


def _is_default(name: str) -> bool:
    return click.get_current_context().get_parameter_source(name) is click.core.ParameterSource.DEFAULT


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 a gate failed, 2 wrong use or environment, 130 interrupted."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(TERMINATED))  # so that staging is cleaned up
    try:
        cli.main(standalone_mode=False)
    except M2DError as error:
        click.echo(f"Error: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        command = getattr(getattr(error, "ctx", None), "command_path", "m2d-export")
        click.echo(f"Error: {' '.join(error.format_message().split())} ({command} --help says more)", err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    sys.exit(0)
