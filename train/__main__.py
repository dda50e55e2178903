"""The command line of training: ``python -m train MODEL DATA -o OUT``."""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from m2d_export.cli import CONTEXT, INTERRUPTED, run
from m2d_export.cli.common import examples
from m2d_export.errors import SpecError

if TYPE_CHECKING:
    from train.recipes import Recipe

PRECISIONS = ("fp32", "fp16", "bf16")
MAX_SEED = 2**32 - 1  # numpy's, which the trainer seeds too


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
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--recipe", "name", type=click.Choice(["grid", "seed"]), default="grid", help="How to train.")
@click.option("--revision", help="Revision of a MODEL on the Hub.")
@click.option("--columns", metavar="A,B,SCORE", help="Columns of DATA.  [default: sentence1,sentence2,score]")
@click.option("--scale", metavar="LOW,HIGH", help="Range of the scores.  [default: 0,1 or 0,5, as train has it]")
@click.option(
    "--unlabelled", type=click.Path(path_type=Path), help="File of sentences, one a line, to learn from too (grid)."
)
@click.option("--layers", metavar="all|1,2,..", default="all", help="Exit layers (grid).")
@click.option("--dims", metavar="D,..", help="Dims.  [default: the width, and 512, 256, 128, 64 below it]")
@click.option("--epochs", type=click.IntRange(min=1), help="[default: 5; seed: 4]")
@click.option("--batch-size", type=click.IntRange(min=2), help="Pairs a step.  [default: 32; seed: 16]")
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), help="[default: 6e-5; seed: 5e-5]")
@click.option("--eval-steps", type=click.IntRange(min=1), help="Steps between dev scores.  [default: 100]")
@click.option(
    "--seed", type=click.IntRange(0, MAX_SEED), default=42, help="Of the order of pairs, dropout and sampling."
)
@click.option("--weighting", type=click.Choice(["uniform", "seed-era"]), help="Of prior layers (seed).")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="[default: cuda where there is one]")
@click.option("--precision", type=click.Choice(PRECISIONS), help="[default: fp16 on cuda, fp32 on a CPU]")
@click.option("--half", is_flag=True, help="Store the weights in fp16.")
@click.option("--resume", is_flag=True, help="Go on with a training of the same options that was stopped.")
def main(model: str, data: str, output: Path, resume: bool, half: bool, **options: Any) -> None:
    """Train MODEL, a folder or Hub id, for its exits on DATA.

    DATA is a folder with train, dev (or validation) and perhaps test as .csv, .tsv, .jsonl or .parquet files, or a
    dataset of the Hub: two sentences and a score each. Ctrl-C keeps what was done.
    """
    from m2d_export.checkpoints.load import load_checkpoint
    from train.data import load_data
    from train.live import grid_table, screen
    from train.pipeline import train
    from train.work import Job

    _check_together(options)
    device, precision = _hardware(options["device"], options["precision"])
    splits = load_data(data, _columns(options["columns"]), _scale(options["scale"]), options["unlabelled"])
    checkpoint = load_checkpoint(model, options["revision"])
    recipe = _recipe(options, checkpoint.depth, checkpoint.width)
    target = output.expanduser().absolute()
    job = Job(model, checkpoint, splits, recipe, device, precision, target, half)
    with screen() as shown:
        scored = train(job, shown, resume)
        for name, found in (scored or {}).items():
            shown.console.print(grid_table(found.grid, None, f"{name} at the end"))
        if scored is not None:
            shown.say(f"wrote {output}")
    if scored is None:
        click.echo("stopped; the same command with --resume goes on", err=True)
        sys.exit(INTERRUPTED)


def _check_together(options: dict[str, Any]) -> None:
    """Refuse options of the other recipe before anything is read."""
    seed = options["name"] == "seed"
    if seed and options["layers"] != "all":
        raise SpecError("--layers goes with the grid recipe: the seed recipe draws from all layers")
    if seed and options["unlabelled"] is not None:
        raise SpecError("--unlabelled goes with the grid recipe: the seed recipe learns from graded pairs alone")
    if not seed and options["weighting"] is not None:
        raise SpecError("--weighting goes with --recipe seed")


def _hardware(device: str | None, precision: str | None) -> tuple[str, str]:
    from m2d_export.host.extras import require

    torch = require("torch", "train")
    if device == "cuda" and not torch.cuda.is_available():
        raise SpecError("torch sees no CUDA device here: leave --device out to train on the CPU")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    precision = precision or ("fp16" if device == "cuda" else "fp32")
    if device == "cpu" and precision == "fp16":
        raise SpecError("fp16 is for CUDA: on a CPU, train in fp32 or bf16")
    return device, precision


def _columns(text: str | None) -> tuple[str, str, str] | None:
    if text is None:
        return None
    names = tuple(text.split(","))
    if len(set(names)) != 3 or len(names) != 3:
        raise SpecError(f"--columns {text}: expected three different names, two sentences and a score")
    return names[0], names[1], names[2]


def _scale(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise SpecError(f"--scale {text}: expected two numbers, as in 0,5") from None
    if not -math.inf < low < high < math.inf:
        raise SpecError(f"--scale {text}: expected two finite numbers, the smaller one first")
    return low, high


def _numbers(option: str, text: str) -> list[int]:
    """Whole numbers in the order given, which must be the recipe's own."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise SpecError(f"{option} {text}: expected whole numbers separated by commas") from None


def _recipe(options: dict[str, Any], depth: int, width: int) -> "Recipe":
    from train.recipes import GridRecipe, SeedRecipe, check_dims, check_layers, default_dims

    named = ("epochs", "batch_size", "learning_rate", "eval_steps", "seed")
    given = {key: options[key] for key in named if options[key] is not None}
    dims = default_dims(width) if options["dims"] is None else check_dims(_numbers("--dims", options["dims"]), width)
    if options["name"] == "seed":
        return SeedRecipe(dims, weighting=options["weighting"] or "uniform", **given)
    layers = range(1, depth + 1) if options["layers"] == "all" else _numbers("--layers", options["layers"])
    return GridRecipe(check_layers(layers, depth), dims, **given)


if __name__ == "__main__":
    run(main)
