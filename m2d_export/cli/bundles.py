"""Commands that make bundles and use them: build, show, verify, encode, slice."""

import contextlib
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import click

from m2d_export.cli.common import (
    ALL_OR_NUMBERS,
    CELL,
    NUMBERS,
    OUTPUT_FILE,
    OUTPUT_FOLDER,
    PATH,
    PRECISIONS,
    TextFile,
    bundle_argument,
    cell_option,
    checkpoint_option,
    examples,
    listed,
    runtime_options,
    steps,
    warn_if_int8_is_slow,
    warn_if_shapes_are_short,
    words,
)
from m2d_export.errors import DataError, IntegrityError, OutputError
from m2d_export.host.files import STDOUT, check_output, descriptor_of, output_file
from m2d_export.spec import POOLING_MODES, Cell

revision_option = click.option("--revision", help="Branch, tag or commit of a Hub checkpoint.")
pooling_option = click.option(
    "--pooling",
    type=click.Choice(POOLING_MODES),
    help="How a CHECKPOINT without a Pooling pools token vectors.  [default: as its m2d.json says, else mean]",
)


@click.command(
    epilog=examples(
        "m2d-export build ./minilm -o minilm.m2d",
        "m2d-export build ./minilm -o shallow.m2d --layers 1,2 --dims 64,128",
        "m2d-export build ./minilm -o minilm.m2d --precision fp32,int8 --calibration texts.txt",
        "m2d-export build ./minilm -o minilm.m2d --precision fp16",
        "m2d-export build ./minilm -o minilm.m2d --precision fp16 --engine trt-rtx --gpu sm86,sm89",
        "m2d-export build ./minilm -o minilm.m2d --force --dry-run",
    )
)
@click.argument("checkpoint")
@click.option("-o", "--output", "target", required=True, type=OUTPUT_FOLDER, help="Bundle to write.")
@revision_option
@pooling_option
@click.option("--layers", type=ALL_OR_NUMBERS, default="all", help="Exit layers to build.")
@click.option(
    "--dims",
    type=NUMBERS,
    help="Dims that bench measures.  [default: the trained dims; if unknown, the width and powers of two from 32]",
)
@click.option(
    "--precision",
    "precisions",
    type=words("fp32,fp16,.."),
    default="fp32",
    help=f"Precisions to build: one or more of {', '.join(PRECISIONS)}.",
)
@click.option(
    "--calibration",
    type=PATH,
    help="File with one text in each line, to find the ranges of values for int8.  [default: texts of this package]",
)
@click.option(
    "--engine", "engines", type=words("trt,trt-rtx"), default=(), help="TensorRT engines to add.  [default: none]"
)
@click.option(
    "--shapes",
    metavar="MIN:OPT:MAX,..",
    help="Batch shapes that engines take: smallest, best and largest TEXTSxTOKENS, such as 1x1:8x16:32x64.  "
    "[default: up to the longest text]",
)
@click.option(
    "--gpu",
    "targets",
    type=words("sm86,.."),
    default=(),
    help="Kinds of GPU that trt-rtx engines are built for.  [default: those that the library chooses]",
)
@click.option("--max-tokens", type=int, help="Cut texts at this many tokens.  [default: the checkpoint's maximum]")
@click.option(
    "--force",
    is_flag=True,
    help="Replace the bundle at the output. A folder with files that build did not write is refused.",
)
@click.option(
    "--partial",
    is_flag=True,
    help="Publish the graphs that pass all checks. If others fail, the exit code is 1.",
)
@click.option("--dry-run", is_flag=True, help="Check everything and print what would be built; write nothing.")
def build(checkpoint: str, target: Path, shapes: str | None, dry_run: bool, **options: Any) -> None:
    """Build a bundle from CHECKPOINT: one ONNX graph per exit, compared with PyTorch.

    CHECKPOINT is a sentence-transformers folder, a transformers folder (--pooling says how it pools), or a Hub id.
    """
    from m2d_export.pipeline import build_planned
    from m2d_export.plan import plan
    from m2d_export.precisions import WITH_ENGINES
    from m2d_export.spec import parse_shapes

    with steps() as progress:
        ranges = None if shapes is None else parse_shapes(shapes)
        planned = plan(checkpoint, target, shapes=ranges, progress=progress, **options)
        grid = planned.grid
        what = (
            f"{planned.checkpoint.architecture}, exits at layers {listed(grid.layers)} of {grid.depth}, "
            f"dims {listed(grid.dims)}, {' and '.join(planned.precisions)}, "
            f"pooling {planned.checkpoint.pooling}, about {planned.weight_bytes / 1e6:.0f} MB in fp32"
        )
        if planned.engines.versions:
            made = [precision for precision in planned.precisions if precision in WITH_ENGINES]
            what += f"; {' and '.join(planned.engines.versions)} engines of {' and '.join(made)}"
        warn_if_int8_is_slow(planned.precisions)
        warn_if_shapes_are_short(planned.engines.shapes, planned.checkpoint.text.max_tokens)
        if not dry_run:
            build_planned(planned, progress)
    click.echo(f"{'would build' if dry_run else 'built'} {target}: {what}")


@click.command(epilog=examples("m2d-export show minilm.m2d", "m2d-export show minilm.m2d --json"))
@bundle_argument
@click.option("--json", "as_json", is_flag=True, help="Print the manifest instead of a table.")
def show(bundle: Path, as_json: bool) -> None:
    """Show the settings and the graphs of BUNDLE.

    A table has the size of every graph, how close its vectors are to PyTorch's, and how much batching changes them.
    """
    from m2d_export.bundle.disk import Bundle

    check_output(STDOUT)
    opened = Bundle.open(bundle)
    if as_json:
        click.echo(opened.manifest.to_json(), nl=False)
        return
    from rich.console import Console

    from m2d_export.cli.show import summary

    Console().print(summary(opened))


@click.command(epilog=examples("m2d-export verify minilm.m2d"))
@bundle_argument
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(bundle: Path, as_json: bool) -> None:
    """Check every file of BUNDLE against its manifest.

    A file that is changed, missing, or not in the manifest is an error.
    """
    from m2d_export.bundle.disk import Bundle

    if as_json:
        check_output(STDOUT)
    opened = Bundle.open(bundle)
    problems = opened.problems()
    if as_json:
        click.echo(json.dumps({"bundle": opened.id, "files": len(opened.manifest.files), "problems": problems}))
    if problems:
        raise IntegrityError(f"{bundle} is damaged: {'; '.join(problems)}. Build it again, or copy it again")
    if not as_json:
        size = sum(entry.size for entry in opened.manifest.files.values())
        click.echo(f"{bundle} is intact: {len(opened.manifest.files)} files, {size / 1e6:.1f} MB")


@click.command(
    epilog=examples(
        "m2d-export encode minilm.m2d texts.txt --cell 3x64 -o vectors.npy",
        'echo "A parrot is talking." | m2d-export encode minilm.m2d -o vectors.npy',
        "m2d-export encode minilm.m2d texts.txt -o - | gzip > vectors.npy.gz",
    )
)
@bundle_argument
@click.argument("file", type=TextFile(), default="-")
@cell_option
@click.option(
    "-o", "--output", required=True, type=OUTPUT_FILE, help="NumPy file (.npy) to write; - is standard output."
)
@click.option("--prompt", help="Text to put before every text.  [default: the checkpoint's default prompt, if any]")
@click.option("--prompt-name", help="Name of one of the checkpoint's prompts.")
@click.option("--force", is_flag=True, help="Replace a file that is already at the output.")
@runtime_options
@checkpoint_option
def encode(
    bundle: Path,
    file: IO[bytes],
    cell: Cell | None,
    output: Path,
    prompt: str | None,
    prompt_name: str | None,
    force: bool,
    checkpoint: str | None,
    **options: Any,
) -> None:
    """Encode the lines of FILE into a NumPy file: float32, one vector per line.

    FILE is UTF-8 with one text in each line. Without FILE, or with -, texts come from standard input.
    """
    from m2d_export.bundle.disk import Bundle
    from m2d_export.encoder import Encoder
    from m2d_export.text.files import check_lines
    from m2d_export.vectors import write_npy

    check_output(output)
    if _is_same_file(file, output):
        raise OutputError(f"{output} is the input too: choose another output")
    if output.is_file() and descriptor_of(output) is None and not force:
        raise OutputError(f"{output} exists: use --force to replace it, or choose another path")
    check_lines(file.name)
    layer, dim = (cell.layer, cell.dim) if cell else (None, None)
    with steps() as progress, Encoder(Bundle.open(bundle, checkpoint), layer, dim, **options) as encoder:
        warn_if_int8_is_slow([options["precision"]])
        parts = encoder.stream(_lines(file, progress), prompt=prompt, prompt_name=prompt_name)
        with output_file(output, replace=force) as stream:
            count = write_npy(stream, parts, encoder.cell.dim)
    if output != STDOUT:
        click.echo(f"wrote {output}: {count} vectors of {encoder.cell.dim} float32 numbers, cell {encoder.cell}")


@click.command(
    "slice",
    epilog=examples(
        "m2d-export slice ./minilm --cell 3x128 -o minilm-layer3",
        "m2d-export slice ./distilled --cell 0x128 -o minilm-static",
    ),
)
@click.argument("checkpoint")
@click.option(
    "--cell",
    type=CELL,
    required=True,
    help="Exit layer and dim; below the width, exit 0 is cut to the dim, and others have it as truncate_dim.",
)
@click.option("-o", "--output", "target", required=True, type=OUTPUT_FOLDER, help="Folder to write.")
@revision_option
def slice_(checkpoint: str, cell: Cell, target: Path, revision: str | None) -> None:
    """Write one cell of CHECKPOINT as an ordinary sentence-transformers folder.

    Exit 0, such as --cell 0x256, becomes a StaticEmbedding. model2vec loads its folder too.
    """
    from m2d_export.checkpoints.slice import slice_checkpoint

    with steps() as progress:
        progress(f"cutting the checkpoint after layer {cell.layer}")
        slice_checkpoint(checkpoint, cell.layer, target, dim=cell.dim, revision=revision)
    click.echo(f"wrote {target}: a sentence-transformers folder of cell {cell}")


def _is_same_file(file: IO[bytes], output: Path) -> bool:
    """Whether both are one regular file, whatever it is called; a pipe or a terminal may be read and written."""
    with contextlib.suppress(OSError):  # no descriptor, or no output yet
        read = os.fstat(file.fileno())
        written = os.fstat(sys.stdout.fileno()) if output == STDOUT else output.stat()
        return stat.S_ISREG(read.st_mode) and os.path.samestat(read, written)
    return False


def _lines(file: IO[bytes], progress: Callable[[str], None]) -> Iterator[str]:
    """The texts of a file, one a line; raises DataError naming a line that is not UTF-8."""
    for number, line in enumerate(_read(file), 1):
        if number % 10_000 == 0:
            progress(f"{number} texts")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{file.name}, line {number} is not UTF-8: convert it first") from error


def _read(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file; raises DataError here, so that a failed read is not reported as a failed write."""
    try:
        yield from file
    except OSError as error:
        raise DataError(f"{file.name} cannot be read: {error.strerror}") from error
