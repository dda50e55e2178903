"""How fast is a training step of the grid recipe, compared with a step of the seed recipe?

    M2D_STSB=DIR python -m benchmarks.train_speed -o benchmarks/results/train_speed.json

Both take steps on the same pairs of STS-B train, with the same batch size, in fp32 on the CPU. A step of the seed
recipe does the work of sentence-transformers' trainer: tokenize the batch, Matryoshka2dLoss, backward, clip, AdamW. It
trains two cells. A step of the grid recipe trains all cells.
"""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import common
from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.host.machine import cores
from train.data import load_data
from train.grid import GridTraining
from train.job import Job
from train.recipes import GridRecipe, SeedRecipe, default_dims
from train.seed import seed_loss

BATCH_SIZE, STEPS, WARM_UP = 16, 40, 3


def seed_step(job: Job, batch: Callable[[int], list[int]]) -> Callable[[], None]:
    """A call that takes the next step of the seed recipe. ``batch`` gives the pairs of a step."""
    model, train, recipe = job.checkpoint.original.train(), job.data.train, job.recipe
    loss, numbers = seed_loss(model, recipe), count()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, fused=True)

    def step() -> None:
        pairs = batch(next(numbers))
        sides = [model.preprocess([train.texts[place] for place in side[pairs]]) for side in (train.left, train.right)]
        loss(sides, torch.tensor(train.scores[pairs])).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    """Measure, write, print."""
    parser = common.parser("train_speed", __doc__, rounds=STEPS)
    common.add_checkpoint(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(cores())
    data, path = load_data(str(common.stsb_folder(parser))), str(common.checkpoint_of(arguments))

    def job(recipe: type[SeedRecipe] | type[GridRecipe]) -> Job:
        loaded = load_checkpoint(path)
        options: dict[str, Any] = {"dims": default_dims(loaded.width), "batch_size": BATCH_SIZE}
        if recipe is GridRecipe:
            options["layers"] = tuple(range(1, loaded.depth + 1))
        return Job(path, loaded, data, recipe(**options), "cpu", "fp32", Path("unused"))

    grid = GridTraining(job(GridRecipe))
    turns = {"seed": common.timed(seed_step(job(SeedRecipe), grid.pairs.rows)), "grid": common.timed(grid.take_step)}
    seconds = common.take_turns(turns, arguments.rounds, warm_up=WARM_UP)
    middle = {name: median(spent) for name, spent in seconds.items()}
    rates = {name: 2 * BATCH_SIZE / spent for name, spent in middle.items()}
    results = {
        "pairs_per_step": BATCH_SIZE,
        "threads": cores(),
        "cells_per_step": {"seed": 2, "grid": len(grid.recipe.layers) * len(grid.recipe.dims)},
        "seconds": seconds,
        "sentences_per_second": rates,
        "ratio": middle["seed"] / middle["grid"],
    }
    common.write_results(arguments, results)
    for name, rate in rates.items():
        print(f"{name:6} {rate:6.1f} sentences/s")
    print(f"ratio  {results['ratio']:6.2f}")


if __name__ == "__main__":
    main()
