"""The command that makes the exits of an ordinary checkpoint useful: distil."""

import math
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from m2d_export.cli.bundles import pooling_option, revision_option
from m2d_export.cli.common import ALL_OR_NUMBERS, INTERRUPTED, NUMBERS, OUTPUT_FOLDER, examples, words
from m2d_export.errors import SpecError

TRAINING = "m2d_train"  # the folder train/ of a clone; only this command imports it, when it runs
MAX_SEED = 2**32 - 1


@click.command(
    epilog=examples(
        "m2d-export distil ./minilm --texts documents.txt -o minilm-exits",
        "m2d-export distil ./minilm --texts documents.jsonl,queries.txt.gz -o minilm-exits --layers 0,1,3",
        "m2d-export distil ./minilm --texts texts -o minilm-exits --minutes 60 --dims 384,128,64",
        "m2d-export distil ./german --texts texte.txt -o german-exits --mix none --minutes 0",
    )
)
@click.argument("checkpoint")
@click.option(
    "--texts",
    "paths",
    required=True,
    type=words("PATH,.."),
    help="Files and folders of texts: one text in each line, or .jsonl with the field text; both may be .gz.",
)
@click.option("-o", "--output", "target", required=True, type=OUTPUT_FOLDER, help="Checkpoint to write.")
@revision_option
@pooling_option
@click.option(
    "--layers", type=ALL_OR_NUMBERS, default="all", help="Exits to make; 0, a table of token vectors, must be named."
)
@click.option("--dims", type=NUMBERS, help="Dims to train.  [default: as in build]")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0),
    help="Minutes of training, all runs with --resume together. The time to solve the heads comes before. 0: no "
    "training.  [default: 10]",
)
@click.option("--steps", type=click.IntRange(min=0), help="Steps of training, instead of --minutes.")
@click.option(
    "--max-texts",
    type=click.IntRange(min=200),
    default=24_000,
    help="Texts that heads are solved from; on a CPU, also those of the training.",
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=128, help="Tokens that are read of a text.")
@click.option(
    "--max-drift",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.015,
    help="How far the mean cosine between the last exit and CHECKPOINT's vectors may fall below 1.",
)
@click.option("--mix", metavar="FILE|none", help="Texts to add to yours.  [default: English definitions and sentences]")
@click.option("--fresh", is_flag=True, help="Solve all heads again, also those that CHECKPOINT has.")
@click.option("--keep-space", is_flag=True, help="Do not rotate the vectors, so that they fit an index of CHECKPOINT.")
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=42, help="Random seed of the order of the texts.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Where to run.  [default: cuda if there is one]")
@click.option("--resume", is_flag=True, help="Continue a stopped run with the same options.")
def distil(
    checkpoint: str,
    paths: tuple[str, ...],
    target: Path,
    mix: str | None,
    max_texts: int,
    max_tokens: int,
    seed: int,
    steps: int | None,
    minutes: float | None,
    resume: bool,
    **options: Any,
) -> None:
    """Make the exits of CHECKPOINT agree with its last one, from texts without labels.

    First, a linear map (head) is solved for each exit, in minutes on a CPU. Then heads and layers are trained. The
    output is a folder of sentence-transformers with exits, which build takes. Ctrl-C writes what has been trained;
    --resume continues. For texts in another language than English, give --mix none.
    """
    from m2d_export.host.extras import require
    from m2d_export.host.files import followed
    from m2d_export.host.folders import check_new

    if steps is not None and minutes is not None:
        raise SpecError("--steps and --minutes exclude each other: give one of them")
    for name, value in (("minutes", minutes), ("max-drift", options["max_drift"])):  # click lets NaN pass
        if value is not None and not math.isfinite(value):
            raise SpecError(f"--{name} {value}: give a finite number")
    for package in ("torch", "sentence_transformers", "scipy"):
        require(package, "distil")
    corpus, pipeline = (require(f"{TRAINING}.distil.{name}", "distil") for name in ("corpus", "pipeline"))
    screens = require(f"{TRAINING}.screen", "distil")
    path = followed(target)
    if not resume:
        check_new(path)
    with screens.open_screen() as screen:
        reading = corpus.Reading(paths, mix, max_texts, max_tokens, seed)
        minutes = 10 if minutes is None else minutes
        job = pipeline.prepare(checkpoint, reading, path, steps=steps, minutes=minutes, **options)
        done = pipeline.distil(job, screen, resume)
    if done.stopped:
        click.echo(
            f"stopped after step {done.step}: wrote {target}, which build takes; run the same command with --resume to "
            "continue",
            err=True,
        )
        sys.exit(INTERRUPTED)
    from rich.console import Console

    title = "agreement with the base on held-out texts (Spearman x 100), and how it changed"
    Console().print(screens.grid_table(done.after, done.before, title))
    click.echo(
        f"wrote {target}; to make a bundle of it: {shlex.join(['m2d-export', 'build', str(target), '-o'])} "
        f"{shlex.quote(f'{target}.m2d')}"
    )
