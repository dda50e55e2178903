"""Commands that ship cells to other programs: onnx, triton, cpp."""

from pathlib import Path
from typing import Any

import click

from m2d_export.cli.common import (
    CELL,
    OUTPUT_FOLDER,
    PRECISIONS,
    bundle_argument,
    cell_option,
    examples,
    is_default,
    steps,
    threads_option,
    warn_if_int8_is_slow,
)
from m2d_export.deploy.cpp import FLAVOURS
from m2d_export.deploy.triton import BACKENDS, PYTHON_RUNTIMES
from m2d_export.errors import SpecError
from m2d_export.runtimes.table import RUNTIMES
from m2d_export.spec import Cell

precision_option = click.option(  # only those that ONNX Runtime runs, because it checks the deployed graph
    "--precision",
    type=click.Choice([precision.value for precision in RUNTIMES["onnxrt"].precisions]),
    default="fp32",
    help="Precision of the stored weights.",
)
normalize_option = click.option(
    "--normalize/--no-normalize",
    default=None,
    help="Scale vectors to unit length, or do not.  [default: as the checkpoint does]",
)


@click.command(
    epilog=examples(
        "m2d-export onnx minilm.m2d --cell 3x32 -o minilm-3x32",
        "m2d-export onnx minilm.m2d --cell 3x32 --last-hidden-state -o minilm-3x32",
    )
)
@bundle_argument
@cell_option
@click.option("-o", "--output", "target", required=True, type=OUTPUT_FOLDER, help="Folder to write.")
@click.option(
    "--last-hidden-state", is_flag=True, help="Add an output of that name, for tools that pool by themselves."
)
@precision_option
@normalize_option
def onnx(
    bundle: Path,
    cell: Cell | None,
    target: Path,
    last_hidden_state: bool,
    precision: str,
    normalize: bool | None,
) -> None:
    """Write a cell of BUNDLE as a folder that other tools load.

    The folder's ONNX graph pools, cuts vectors to the cell's dim and scales them. FastEmbed and
    text-embeddings-inference read its output sentence_embedding. For optimum, and for the ONNX backend of
    sentence-transformers, add --last-hidden-state.
    """
    from m2d_export.bundle.disk import Bundle
    from m2d_export.deploy.folder import write_folder

    opened = Bundle.open(bundle)
    chosen = cell or opened.default_cell
    with steps() as report:
        report(f"writing cell {chosen} and comparing it with the bundle")
        write_folder(
            opened, chosen, target, precision=precision, normalize=normalize, last_hidden_state=last_hidden_state
        )
    click.echo(f"wrote {target}: cell {chosen}, {precision}; sentence_embedding has {chosen.dim} float32 numbers")
    if prompt := opened.manifest.text.prompt(None, None):
        click.echo(
            f"note: the checkpoint puts {prompt!r} before every text. sentence-transformers does that by itself. With "
            "other tools, put the prompt there yourself",
            err=True,
        )


@click.command(
    epilog=examples(
        "m2d-export triton minilm.m2d --cell 3x32 -o triton-models",
        "m2d-export triton minilm.m2d --cell 1x32 --cell 3x64 --runtime openvino -o triton-models",
        "m2d-export triton minilm.m2d --cell 3x64 --backend onnxruntime -o triton-models",
    )
)
@bundle_argument
@click.option(
    "--cell",
    "cells",
    type=CELL,
    multiple=True,
    required=True,
    help="Cell to serve; repeat the option for more cells.",
)
@click.option("-o", "--output", "target", required=True, type=OUTPUT_FOLDER, help="Repository to write.")
@click.option(
    "--backend",
    metavar=f"[{'|'.join(BACKENDS)}]",
    default="python",
    help="The server's backend that runs the encoder.",
)
@click.option("--runtime", type=click.Choice(PYTHON_RUNTIMES), default="onnxrt", help="Runtime of --backend python.")
@click.option("--max-batch-size", type=click.IntRange(min=1), default=64, help="Largest number of texts in a batch.")
@click.option("--prompt-name", help="Prompt of the checkpoint to use.  [default: the checkpoint's default]")
@threads_option
@precision_option
@normalize_option
def triton(
    bundle: Path,
    cells: tuple[Cell, ...],
    target: Path,
    backend: str,
    runtime: str,
    max_batch_size: int,
    threads: int | None,
    **options: Any,
) -> None:
    """Write cells of BUNDLE as a model repository for Triton Inference Server.

    A request has texts, and the answer has vectors. With --backend python, one Triton model has the tokenizer and the
    encoder, and runs on the CPU. With the other backends, the encoder is a second Triton model. README.md in the
    repository says how to start the server and how to send requests.
    """
    from m2d_export.bundle.disk import Bundle
    from m2d_export.deploy.triton.repository import Service, write_repository

    if backend != "python" and not (is_default("runtime") and is_default("threads")):
        raise SpecError(f"--runtime and --threads belong to --backend python: leave them out with {backend}")
    service = Service(backend, runtime, max_batch_size, threads)
    with steps() as report:
        report("writing the cells and comparing them with the bundle")
        names = write_repository(Bundle.open(bundle), cells, target, service=service, **options)
    click.echo(f"wrote {target}: {', '.join(names)}; {target / 'README.md'} says how to start it")


@click.command(
    epilog=examples(
        "m2d-export cpp minilm.m2d --cell 3x32 --runtime openvino -o parrot",
        "m2d-export cpp minilm.m2d --cell 3x32 --runtime onnxrt -o macaw",
    )
)
@bundle_argument
@click.option("-o", "--output", "target", required=True, type=OUTPUT_FOLDER, help="Folder to write.")
@click.option("--cell", type=CELL, required=True, help="Cell to write.")
@click.option("--runtime", type=click.Choice(list(FLAVOURS)), required=True, help="Runtime of the C++ program.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", help="Precision of the stored weights.")
def cpp(bundle: Path, target: Path, cell: Cell, runtime: str, precision: str) -> None:
    """Write a cell of BUNDLE as a CMake project with one C++17 header.

    The header encodes texts. Its tokenizer supports BERT's kind (WordPiece) only; other kinds are refused. With
    openvino and onnxrt it runs a graph. With trt and trt-rtx it runs an engine of BUNDLE (build --engine). README.md in
    the folder has the commands that build and run the project.
    """
    from m2d_export.bundle.disk import Bundle
    from m2d_export.deploy.cpp.project import write_project

    with steps() as report:
        report("measuring what the tokenizer does to every code point")
        warn_if_int8_is_slow([precision])
        write_project(Bundle.open(bundle), cell, target, runtime=runtime, precision=precision)
    click.echo(f"wrote {target}: cell {cell} in C++ for {runtime}, {precision}; README.md says how to build it")
