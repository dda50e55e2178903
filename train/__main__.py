"""The command line of training: ``python -m train MODEL DATA -o OUT``."""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from m2d_export.cli import CONTEXT, run
from m2d_export.cli.common import ALL_OR_NUMBERS, INTERRUPTED, NUMBERS, OUTPUT_FOLDER, PATH, examples, words
from m2d_export.errors import SpecError

if TYPE_CHECKING:
    from .recipes import Recipe

PRECISIONS = ("fp32", "fp16", "bf16")
MAX_SEED = 2**32 - 1  # the largest that numpy accepts


@click.command(
    context_settings=CONTEXT,
    epilog=examples(
        "python -m train ./minilm ./stsb -o minilm-2d",
        "python -m train distilbert/distilbert-base-uncased sentence-transformers/stsb --recipe seed -o distilbert-2d",
        "python -m train ./minilm ./pairs --columns left,right,grade --layers 2,4,6 --dims 384,64 -o mine",
    ),
)
@click.argument("model")
@click.argument("data")
@click.option("-o", "--output", required=True, type=OUTPUT_FOLDER, help="Folder to write.")
@click.option(
    "--recipe",
    "name",
    type=click.Choice(["grid", "seed"]),
    default="grid",
    help="grid trains all cells in every step; seed is sentence-transformers' own training (not --seed).",
)
@click.option("--revision", help="Branch, tag or commit of a MODEL on the Hub.")
@click.option("--columns", type=words("A,B,SCORE"), help="Columns of DATA.  [default: sentence1,sentence2,score]")
@click.option(
    "--scale", metavar="LOW,HIGH", help="Range of the scores.  [default: 0,1 or 0,5, whichever fits the train split]"
)
@click.option(
    "--unlabelled",
    type=PATH,
    help="File with one sentence in each line, without scores, to train on too (grid).",
)
@click.option("--layers", type=ALL_OR_NUMBERS, default="all", help="Exit layers to train (grid).")
@click.option(
    "--dims",
    metavar="D,..",
    type=NUMBERS,
    help="Dims to train.  [default: the width, and 512, 256, 128, 64 below it]",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over DATA.  [default: 5; seed: 4]")
@click.option("--batch-size", type=click.IntRange(min=2), help="Pairs in a step.  [default: 32; seed: 16]")
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Highest learning rate of the encoder.  [default: 6e-5; seed: 5e-5]",
)
@click.option("--eval-steps", type=click.IntRange(min=1), help="Steps between evaluations on dev.  [default: 100]")
@click.option(
    "--seed",
    type=click.IntRange(0, MAX_SEED),
    default=42,
    help="Number that decides batch order, dropout and sampling.",
)
@click.option(
    "--weighting",
    type=click.Choice(["uniform", "seed-era"]),
    help="Weights of the layers below the last (seed).  [default: uniform]",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Where to train.  [default: cuda if there is one]")
@click.option(
    "--precision", type=click.Choice(PRECISIONS), help="Type to compute in.  [default: fp16 on cuda, fp32 on cpu]"
)
@click.option("--half", is_flag=True, help="Store the trained weights in fp16.")
@click.option("--resume", is_flag=True, help="Continue a stopped training with the same options.")
def main(model: str, data: str, output: Path, resume: bool, half: bool, **options: Any) -> None:
    """Train MODEL, a folder or Hub id, so that each of its exits is a good encoder.

    DATA is a folder with train, dev (or validation) and optionally test as .csv, .tsv, .jsonl or .parquet files, or a
    dataset of the Hub with these splits. A row has two sentences and a score. Ctrl-C stops after the running step and
    saves the state for --resume. Options marked (grid) or (seed) are for that recipe only.
    """
    from m2d_export.checkpoints.load import load_checkpoint
    from m2d_export.host.files import followed
    from m2d_export.host.folders import check_new

    from .data import load_data
    from .pipeline import train
    from .screen import grid_table, open_screen
    from .work import Job

    _check_together(options)
    target = followed(output)
    check_new(target)
    device, precision = _hardware(options["device"], options["precision"])
    splits = load_data(data, _columns(options["columns"]), _scale(options["scale"]), options["unlabelled"])
    checkpoint = load_checkpoint(model, options["revision"])
    recipe = _recipe(options, checkpoint.depth, checkpoint.width)
    job = Job(model, checkpoint, splits, recipe, device, precision, target, half)
    with open_screen() as screen:
        scores = train(job, screen, resume)
        for name, found in (scores or {}).items():
            screen.console.print(grid_table(found.grid, None, f"{name} at the end"))
        if scores is not None:
            screen.print(f"wrote {output}")
    if scores is None:
        click.echo("stopped; run the same command with --resume to continue", err=True)
        sys.exit(INTERRUPTED)


def _check_together(options: dict[str, Any]) -> None:
    """Refuse options of the other recipe before anything is read."""
    if options["name"] == "seed":
        if options["layers"] is not None:
            raise SpecError("--layers is for the grid recipe: the seed recipe trains all layers; leave --layers out")
        if options["unlabelled"] is not None:
            raise SpecError(
                "--unlabelled is for the grid recipe: the seed recipe trains on scored pairs only; leave "
                "--unlabelled out"
            )
    elif options["weighting"] is not None:
        raise SpecError("--weighting is for the seed recipe: add --recipe seed, or leave --weighting out")


def _hardware(device: str | None, precision: str | None) -> tuple[str, str]:
    """The device and the type to compute in, with their defaults; raises SpecError if this machine lacks them."""
    from .device import choose_device

    device = choose_device(device, "train")
    precision = precision or ("fp16" if device == "cuda" else "fp32")
    if device == "cpu" and precision == "fp16":
        raise SpecError("fp16 needs CUDA: choose --precision fp32 or bf16 on a CPU")
    return device, precision


def _columns(names: tuple[str, ...] | None) -> tuple[str, str, str] | None:
    if names is None:
        return None
    if len(names) != 3:
        raise SpecError(
            f"--columns {','.join(names)}: give three different names, of the two sentences and of the score"
        )
    return names[0], names[1], names[2]


def _scale(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise SpecError(f"--scale {text}: give two numbers, such as 0,5") from None
    if not -math.inf < low < high < math.inf:
        raise SpecError(f"--scale {text}: give two finite numbers, the smaller one first")
    return low, high


def _recipe(options: dict[str, Any], depth: int, width: int) -> "Recipe":
    """The recipe with the options that were given; raises SpecError for layers or dims that the model lacks."""
    from .recipes import GridRecipe, SeedRecipe, check_dims, check_layers, default_dims

    names = ("epochs", "batch_size", "learning_rate", "eval_steps", "seed")
    given = {name: options[name] for name in names if options[name] is not None}
    dims = default_dims(width) if options["dims"] is None else check_dims(options["dims"], width)
    if options["name"] == "seed":
        return SeedRecipe(dims, weighting=options["weighting"] or "uniform", **given)
    layers = range(1, depth + 1) if options["layers"] is None else options["layers"]
    return GridRecipe(check_layers(layers, depth), dims, **given)


if __name__ == "__main__":
    run(main)
