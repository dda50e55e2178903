"""Commands that ship a cell outside Python: cpp."""

from pathlib import Path

import click

from m2d_export.cli.common import PRECISIONS, examples, say_of_int8, steps
from m2d_export.cpp import RUNTIMES


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
    from m2d_export.bundle import Bundle
    from m2d_export.cpp.project import write_project
    from m2d_export.deploy.triton import parse_cell

    chosen = parse_cell(cell)
    with steps() as report:
        report("probing the tokenizer, code point by code point")
        say_of_int8([precision])
        write_project(Bundle.open(bundle), chosen, target, runtime=runtime, precision=precision)
    click.echo(f"wrote {target}: cell {chosen} in C++ for {runtime}, {precision}; README.md says how to build it")
