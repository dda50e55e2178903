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
    from m2d_export.checkpoints.load import Checkpoint

    from .recipes import Recipe

PRECISIONS = ("fp32", "fp16", "bf16")
OF_RECIPES = {  # the recipes that take an option; all take the others
    "layers": ("grid", "multitask"),
    "unlabelled": ("grid",),
    "weighting": ("seed",),
    "precision": ("grid", "seed"),
    "base": ("multitask",),
    "texts": ("multitask",),
    "pairs_weight": ("multitask",),
}
MAX_SEED = 2**32 - 1  # the largest that numpy accepts


@click.command(
    context_settings=CONTEXT,
    epilog=examples(
        "python -m train ./minilm ./stsb -o minilm-2d",
        "python -m train distilbert/distilbert-base-uncased sentence-transformers/stsb --recipe seed -o distilbert-2d",
        "python -m train ./minilm ./pairs --columns left,right,grade --layers 2,4,6 --dims 384,64 -o mine",
        "python -m train ./distilled ./stsb --recipe multitask --base ./minilm --texts documents.txt -o minilm-2d",
    ),
)
@click.argument("model")
@click.argument("data")
@click.option("-o", "--output", required=True, type=OUTPUT_FOLDER, help="Folder to write.")
@click.option(
    "--recipe",
    "name",
    type=click.Choice(["grid", "seed", "multitask"]),
    default="grid",
    help="grid trains all cells in every step; seed is sentence-transformers' own training (not --seed); multitask "
    "trains what m2d-export distil wrote, and distils further in every step.",
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
@click.option("--base", help="Checkpoint that MODEL was distilled from (multitask).")
@click.option(
    "--texts", type=words("PATH,.."), help="Files and folders of texts, as for m2d-export distil (multitask)."
)
@click.option(
    "--pairs-weight",
    type=click.FloatRange(min=0),
    help="Weight of the loss of the pairs; that of the texts has 1 (multitask).  [default: 1.5]",
)
@click.option(
    "--layers",
    type=ALL_OR_NUMBERS,
    default="all",
    show_default=False,
    help="Exit layers to train (grid, multitask).  [default: all; multitask: those that MODEL states]",
)
@click.option(
    "--dims",
    metavar="D,..",
    type=NUMBERS,
    help="Dims to train.  [default: the width, and 512, 256, 128, 64 below it; multitask: those that MODEL states]",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over DATA.  [default: 5; seed: 4; multitask: 6]")
@click.option("--batch-size", type=click.IntRange(min=2), help="Pairs in a step.  [default: 32; seed: 16]")
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Highest learning rate of the encoder.  [default: 6e-5; seed, multitask: 5e-5]",
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
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Type to compute in (grid, seed).  [default: fp16 on cuda, fp32 on cpu; multitask: bf16 where it is faster]",
)
@click.option("--half", is_flag=True, help="Store the trained weights in fp16.")
@click.option("--resume", is_flag=True, help="Continue a stopped training with the same options.")
def main(model: str, data: str, output: Path, resume: bool, half: bool, **options: Any) -> None:
    """Train MODEL, a folder or Hub id, so that each of its exits is a good encoder.

    DATA is a folder with train, dev (or validation) and optionally test as .csv, .tsv, .jsonl or .parquet files, or a
    dataset of the Hub with these splits. A row has two sentences and a score. Ctrl-C stops after the running step and
    saves the state for --resume. Options marked with recipes are for these only.
    """
    from m2d_export.checkpoints.load import load_checkpoint
    from m2d_export.host.files import followed
    from m2d_export.host.folders import check_new

    from .data import load_data
    from .job import Job
    from .pipeline import train
    from .screen import grid_table, open_screen

    _check_together(options)
    target = followed(output)
    check_new(target)
    device, precision = _hardware(options["name"], options["device"], options["precision"])
    splits = load_data(data, _columns(options["columns"]), _scale(options["scale"]), options["unlabelled"])
    checkpoint = load_checkpoint(model, options["revision"])
    job = Job(model, checkpoint, splits, _recipe(options, checkpoint), device, precision, target, half)
    if options["name"] == "multitask":
        from .multitask import multitask_job

        job = multitask_job(job, options["base"], options["texts"])
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
    """Refuse options of other recipes, and a recipe without what it needs, before anything is read."""
    recipe = options["name"]
    for name, recipes in OF_RECIPES.items():
        if options[name] is not None and recipe not in recipes:
            raise SpecError(
                f"--{name.replace('_', '-')} is for --recipe {' or '.join(recipes)}, and not for {recipe}: leave it "
                "out, or choose another recipe"
            )
    if recipe == "multitask" and (options["base"] is None or options["texts"] is None):
        raise SpecError("--recipe multitask needs --base, the checkpoint that MODEL was distilled from, and --texts")
    for name in ("learning_rate", "pairs_weight"):  # click lets NaN pass
        if options[name] is not None and not math.isfinite(options[name]):
            raise SpecError(f"--{name.replace('_', '-')} {options[name]}: give a finite number")


def _hardware(recipe: str, device: str | None, precision: str | None) -> tuple[str, str]:
    """The device and the type to compute in, with their defaults; raises SpecError if this machine lacks them."""
    from .device import choose_device

    device = choose_device(device, "train")
    if recipe == "multitask":
        from .arithmetic import multiplies_bfloat16

        return device, "bf16" if multiplies_bfloat16(device) else "fp32"
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


def _recipe(options: dict[str, Any], model: "Checkpoint") -> "Recipe":
    """The recipe with the options that were given; raises SpecError for layers or dims that the model lacks."""
    from .recipes import GridRecipe, MultitaskRecipe, SeedRecipe, check_dims, check_layers, default_dims

    names = ("epochs", "batch_size", "learning_rate", "eval_steps", "seed", "pairs_weight", "weighting")
    given = {name: options[name] for name in names if options[name] is not None}
    recipe, layers, dims, first = options["name"], options["layers"], options["dims"], 1
    if recipe == "multitask":
        layers, dims, first = layers or model.trained_layers or model.exits, dims or model.trained_dims, model.exits[0]
    dims = check_dims(dims or default_dims(model.width), model.width)
    if recipe == "seed":
        return SeedRecipe(dims, **given)
    layers = check_layers(layers or range(1, model.depth + 1), model.depth, first)
    return (MultitaskRecipe if recipe == "multitask" else GridRecipe)(layers, dims, **given)


if __name__ == "__main__":
    run(main)
