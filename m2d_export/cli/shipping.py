"""Commands that ship a cell to other programs: onnx."""

from pathlib import Path

import click

from m2d_export.cli.common import PRECISIONS, examples, steps

precision_option = click.option(
    "--precision", type=click.Choice(PRECISIONS), default="fp32", help="What weights are stored in."
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
    from m2d_export.bundle import Bundle
    from m2d_export.deploy.folder import write_folder
    from m2d_export.spec import Cell

    opened = Bundle.open(bundle)
    full = opened.grid.full
    cell = Cell(full.layer if layer is None else layer, dim or opened.manifest.truncate_dim or full.dim)
    with steps() as report:
        report(f"writing cell {cell} and comparing it with Encoder")
        write_folder(
            opened, cell, target, precision=precision, normalize=normalize, last_hidden_state=last_hidden_state
        )
    click.echo(f"wrote {target}: cell {cell}, {precision}, sentence_embedding of {cell.dim} float32 numbers")
