"""Commands that make bundles and use them: build, show, verify, encode, slice."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import click

from m2d_export.cli.common import (
    Numbers,
    Words,
    examples,
    listed,
    runtime_options,
    say_of_int8,
    say_of_shapes,
    steps,
)
from m2d_export.errors import DataError, IntegrityError, OutputError


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
@click.option("-o", "--output", "target", required=True, type=click.Path(path_type=Path), help="Bundle to write.")
@click.option("--revision", help="Branch, tag or commit of a Hub checkpoint.")
@click.option("--layers", type=Numbers("all"), metavar="all|1,2,..", default="all", help="Exit layers to build.")
@click.option("--dims", type=Numbers(), help="Dims that bench walks.  [default: the trained ones, or powers of two]")
@click.option(
    "--precision", "precisions", type=Words(), metavar="fp32,fp16,..", default="fp32", help="Of fp32, fp16, bf16, int8."
)
@click.option(
    "--calibration", type=click.Path(path_type=Path), help="Your texts, one a line, to take int8 ranges from."
)
@click.option("--engine", "engines", type=Words(), metavar="trt,trt-rtx", default=(), help="TensorRT engines to add.")
@click.option("--shapes", metavar="1x1:8x16:32x64,..", help="Least:best:most batch x tokens of engines.")
@click.option("--gpu", "targets", type=Words(), metavar="sm86,..", default=(), help="What trt-rtx engines run on.")
@click.option("--force", is_flag=True, help="Replace the bundle that is there.")
@click.option("--dry-run", is_flag=True, help="Load and check everything, say what would be built, write nothing.")
def build(
    checkpoint: str,
    target: Path,
    revision: str | None,
    layers: tuple[int, ...] | None,
    dims: tuple[int, ...] | None,
    precisions: tuple[str, ...],
    calibration: Path | None,
    engines: tuple[str, ...],
    shapes: str | None,
    targets: tuple[str, ...],
    force: bool,
    dry_run: bool,
) -> None:
    """Build a bundle from CHECKPOINT: one verified ONNX graph per exit layer, weights stored once.

    CHECKPOINT is a sentence-transformers folder, a transformers folder (mean pooling), or a Hub id.
    """
    from m2d_export import pipeline
    from m2d_export.spec import TYPED, parse_shapes

    with steps() as report:
        planned = pipeline.plan(
            checkpoint,
            target,
            revision=revision,
            layers=layers,
            dims=dims,
            precisions=precisions,
            calibration=calibration,
            engines=engines,
            shapes=None if shapes is None else parse_shapes(shapes),
            targets=targets,
            force=force,
            report=report,
        )
        grid = planned.grid
        what = (
            f"{len(grid.layers)} exits of {planned.checkpoint.architecture} (layers {listed(grid.layers)} of "
            f"{grid.depth}), {' and '.join(planned.precisions)}, dims {listed(grid.dims)}, "
            f"pooling {planned.checkpoint.pooling}, about {planned.weight_bytes / 1e6:.0f} MB in fp32"
        )
        if planned.engines.versions:
            made = [precision for precision in planned.precisions if precision in TYPED]
            what += f"; {' and '.join(planned.engines.versions)} engines of {' and '.join(made)}"
        say_of_int8(planned.precisions)
        say_of_shapes(planned.engines.shapes, planned.checkpoint.text.max_tokens)
        if not dry_run:
            pipeline.build(planned, force=force, report=report)
    click.echo(f"{'would build' if dry_run else 'built'} {target}: {what}")


@click.command(
    epilog=examples(
        "m2d-export show minilm.m2d",
        "m2d-export show minilm.m2d --json",
    )
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the manifest instead of a table.")
def show(bundle: Path, as_json: bool) -> None:
    """Show what BUNDLE holds, and the parity figures it was published with."""
    from m2d_export.bundle.bundle import Bundle

    opened = Bundle.open(bundle)
    if as_json:
        click.echo(opened.manifest.to_json(), nl=False)
        return
    from rich.console import Console

    from m2d_export.cli.show import summary

    Console().print(summary(opened))


@click.command(
    epilog=examples(
        "m2d-export verify minilm.m2d",
    )
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def verify(bundle: Path, as_json: bool) -> None:
    """Check every file of BUNDLE against its manifest: sizes, sha256, nothing missing, nothing extra."""
    from m2d_export.bundle.bundle import Bundle

    opened = Bundle.open(bundle)
    problems = opened.problems()
    if as_json:
        click.echo(json.dumps({"bundle": opened.id, "files": len(opened.manifest.files), "problems": problems}))
    if problems:
        raise IntegrityError(f"{bundle} is not sound: {'; '.join(problems)}. Build it again, or copy it again")
    if not as_json:
        size = sum(entry.size for entry in opened.manifest.files.values())
        click.echo(f"{bundle} is sound: {len(opened.manifest.files)} files, {size / 1e6:.1f} MB")


@click.command(
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
    compute: str | None,
    threads: int | None,
) -> None:
    """Encode FILE, one text a line (- is standard input), into a float32 array (lines, dim)."""
    from m2d_export.bundle.bundle import Bundle
    from m2d_export.encoder import Encoder
    from m2d_export.host.files import atomic_file
    from m2d_export.vectors import write_npy

    if output.is_file() and (not force or (Path(file.name).exists() and output.samefile(file.name))):
        raise OutputError(f"{output} exists: use --force to replace it, or choose another path than the input's")
    options: dict[str, Any] = {"runtime": runtime, "precision": precision, "compute": compute, "threads": threads}
    with steps() as report, Encoder(Bundle.open(bundle), layer, dim, **options) as encoder:
        say_of_int8([precision])
        parts = encoder.stream(_lines(file, report), prompt=prompt, prompt_name=prompt_name)
        with atomic_file(output) as staged, staged.open("wb") as stream:
            count = write_npy(stream, parts, encoder.cell.dim)
    click.echo(f"wrote {output}: {count} vectors of {encoder.cell.dim} float32 numbers, cell {encoder.cell}")


@click.command(
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
    from m2d_export.checkpoints.slice import slice_checkpoint

    with steps() as report:
        report(f"cutting layer {layer} out of the checkpoint")
        slice_checkpoint(checkpoint, layer, target, dim=dim, revision=revision)
    click.echo(f"wrote {target}: a sentence-transformers folder of layer {layer}")


def _lines(file: IO[bytes], report: Callable[[str], None]) -> Iterator[str]:
    for number, line in enumerate(_read(file), 1):
        if number % 10_000 == 0:
            report(f"{number} texts")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{file.name}, line {number} is not UTF-8: convert it first") from error


def _read(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file; one that cannot be read is its own fault, not the output's."""
    try:
        yield from file
    except OSError as error:
        raise DataError(f"{file.name} cannot be read: {error.strerror}") from error
