"""Commands that ship cells to other programs: onnx, triton, cpp."""

from pathlib import Path

import click

from m2d_export.cli.common import PRECISIONS, examples, is_default, say_of_int8, steps, threads_option
from m2d_export.deploy.cpp import RUNTIMES
from m2d_export.errors import SpecError
from m2d_export.spec import Cell

DEPLOYED = [precision for precision in PRECISIONS if precision != "bf16"]  # ONNX Runtime on a CPU has no bf16
precision_option = click.option(
    "--precision", type=click.Choice(DEPLOYED), default="fp32", help="What weights are stored in."
)
normalize_option = click.option(
    "--normalize/--no-normalize", default=None, help="Scale vectors to unit length.  [default: as the checkpoint]"
)


@click.command(
    epilog=examples(
        "m2d-export onnx minilm.m2d --layer 3 --dim 32 -o minilm-3x32",
        "m2d-export onnx minilm.m2d --layer 3 --dim 32 --last-hidden-state -o minilm-3x32",
    )
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--layer", type=int, help="Exit layer.  [default: the deepest]")
@click.option("--dim", type=int, help="Numbers to keep of each vector.  [default: all]")
@click.option("-o", "--output", "target", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--last-hidden-state", is_flag=True, help="Add the output that tools which pool for themselves ask for.")
@precision_option
@normalize_option
def onnx(
    bundle: Path,
    layer: int | None,
    dim: int | None,
    target: Path,
    last_hidden_state: bool,
    precision: str,
    normalize: bool | None,
) -> None:
    """Write one cell of BUNDLE as the folder that other tools load: pooled, cut and scaled in its graph.

    FastEmbed and text-embeddings-inference read its sentence_embedding; sentence-transformers' ONNX backend and optimum
    need --last-hidden-state.
    """
    from m2d_export.bundle.bundle import Bundle
    from m2d_export.deploy.folder import write_folder

    opened = Bundle.open(bundle)
    full = opened.grid.full
    width = opened.manifest.truncate_dim or full.dim
    cell = Cell(full.layer if layer is None else layer, width if dim is None else dim)
    with steps() as report:
        report(f"writing cell {cell} and comparing it with Encoder")
        write_folder(
            opened, cell, target, precision=precision, normalize=normalize, last_hidden_state=last_hidden_state
        )
    click.echo(f"wrote {target}: cell {cell}, {precision}, sentence_embedding of {cell.dim} float32 numbers")
    if prompt := opened.manifest.text.prompt(None, None):
        click.echo(
            f"note: sentence-transformers puts {prompt!r} before every text; elsewhere put it there yourself", err=True
        )


@click.command(
    epilog=examples(
        "m2d-export triton minilm.m2d --cell 3x32 -o triton-models",
        "m2d-export triton minilm.m2d --cell 1x32 --cell 3x64 --runtime openvino -o triton-models",
        "m2d-export triton minilm.m2d --cell 3x64 --backend onnxruntime -o triton-models",
    )
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--cell", "cells", multiple=True, required=True, metavar="LAYERxDIM", help="Cell to serve; repeatable.")
@click.option("-o", "--output", "target", required=True, type=click.Path(path_type=Path), help="Repository to write.")
@click.option(
    "--backend", metavar="[python|onnxruntime|tensorrt]", default="python", help="Backend of the server that encodes."
)
@click.option(
    "--runtime", type=click.Choice(["onnxrt", "openvino"]), default="onnxrt", help="What --backend python runs."
)
@click.option("--max-batch-size", type=click.IntRange(min=1), default=64, help="Texts encoded together.")
@click.option("--prompt-name", help="One of the checkpoint's own prompts.  [default: the checkpoint's]")
@threads_option
@precision_option
@normalize_option
def triton(
    bundle: Path,
    cells: tuple[str, ...],
    target: Path,
    backend: str,
    runtime: str,
    max_batch_size: int,
    prompt_name: str | None,
    threads: int | None,
    precision: str,
    normalize: bool | None,
) -> None:
    """Write cells of BUNDLE as a model repository for Triton Inference Server: texts in, vectors out.

    Its README says how to start and ask it. With --backend python the encoder runs beside the tokenizer, on the CPU;
    with the others it is a model of its own.
    """
    from m2d_export.bundle.bundle import Bundle
    from m2d_export.deploy.triton.repository import Service, write_repository

    if backend != "python" and not (is_default("runtime") and is_default("threads")):
        raise SpecError(f"--runtime and --threads go with --backend python: {backend} is the server's own")
    service = Service(backend, runtime, max_batch_size, threads)
    with steps() as report:
        report("writing the cells and comparing them with Encoder")
        names = write_repository(
            Bundle.open(bundle),
            [Cell.parse(cell) for cell in cells],
            target,
            precision=precision,
            service=service,
            normalize=normalize,
            prompt_name=prompt_name,
        )
    click.echo(f"wrote {target}: {', '.join(names)}; {target / 'README.md'} says how to start it")


@click.command(
    epilog=examples(
        "m2d-export cpp minilm.m2d --cell 3x32 --runtime openvino -o parrot",
        "m2d-export cpp minilm.m2d --cell 3x32 --runtime onnxruntime -o macaw",
    )
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("-o", "--output", "target", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--cell", required=True, metavar="LAYERxDIM", help="Cell to ship.")
@click.option("--runtime", type=click.Choice(RUNTIMES), required=True, help="What runs the model in C++.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", help="What weights are stored in.")
def cpp(bundle: Path, target: Path, cell: str, runtime: str, precision: str) -> None:
    """Write a cell of BUNDLE as a CMake project: one C++17 header, texts in, vectors out.

    Its tokenizer is exact, or refused: BERT's kind (WordPiece) can be shipped, others cannot. A graph is compared with
    Encoder before the folder appears; tensorrt and tensorrt-rtx take the engine that build --engine has put into
    BUNDLE. README.md in the folder has the commands that build and run it.
    """
    from m2d_export.bundle.bundle import Bundle
    from m2d_export.deploy.cpp.project import write_project

    chosen = Cell.parse(cell)
    with steps() as report:
        report("probing the tokenizer, code point by code point")
        say_of_int8([precision])
        write_project(Bundle.open(bundle), chosen, target, runtime=runtime, precision=precision)
    click.echo(f"wrote {target}: cell {chosen} in C++ for {runtime}, {precision}; README.md says how to build it")
