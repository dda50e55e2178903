"""Commands that ship a cell outside Python: cpp."""

from pathlib import Path

import click

from m2d_export.cli.common import PRECISIONS, examples, say_of_int8, steps
from m2d_export.cpp import RUNTIMES
from m2d_export.errors import SpecError
from m2d_export.spec import Cell


def _cell(text: str) -> Cell:
    layer, _, dim = text.partition("x")
    if not (layer.isdecimal() and dim.isdecimal()):
        raise SpecError(f"a cell is a layer and a dim, such as 3x128; got {text!r}")
    return Cell(int(layer), int(dim))


@click.command(
    epilog=examples(
        "m2d-export cpp minilm.m2d --cell 3x32 --runtime openvino -o parrot",
        "m2d-export cpp minilm.m2d --cell 3x32 --runtime onnxruntime -o macaw",
    )
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("-o", "--output", "target", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--cell", required=True, metavar="3x128", help="Exit layer and numbers to keep of each vector.")
@click.option("--runtime", type=click.Choice(RUNTIMES), required=True, help="What runs the model in C++.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", help="What weights are stored in.")
def cpp(bundle: Path, target: Path, cell: str, runtime: str, precision: str) -> None:
    """Write a cell of BUNDLE as a CMake project: one C++17 header, texts in, vectors out.

    Its tokenizer is exact, or refused: BERT's kind (WordPiece) can be shipped, others cannot. The graph is compared
    with Encoder before the folder appears; README.md in it has the commands that build and run it.
    """
    from m2d_export.bundle import Bundle
    from m2d_export.cpp.project import write_project

    chosen = _cell(cell)
    with steps() as report:
        report("probing the tokenizer, code point by code point")
        say_of_int8([precision])
        write_project(Bundle.open(bundle), chosen, target, runtime=runtime, precision=precision)
    click.echo(f"wrote {target}: cell {chosen} in C++ for {runtime}, {precision}; README.md says how to build it")
