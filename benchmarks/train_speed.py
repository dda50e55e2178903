"""Training steps of both recipes on the same pairs, side by side in one run.

    M2D_STSB=path/to/stsb python -m benchmarks.train_speed CHECKPOINT -o benchmarks/results/train_speed.json

Steps alternate, on the same pairs of STS-B train, at the same batch size, in fp32 on the CPU. The seed recipe's step is
what sentence-transformers' trainer does: tokenize the batch, Matryoshka2dLoss, backward, clip, AdamW. It trains two
cells a step, the grid recipe all of them.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.host.machine import cores, machine
from train.data import load_data
from train.recipes import GridRecipe, SeedRecipe, default_dims
from train.seed import seed_loss
from train.train import GridTraining
from train.work import Job

BATCH_SIZE, STEPS, WARM_UP = 16, 40, 3


def seed_step(job: Job, batch: Callable[[int], list[int]]) -> Callable[[int], None]:
    """One step of the seed recipe on the pairs that ``batch`` names."""
    model, train, recipe = job.checkpoint.original.train(), job.data.train, job.recipe
    loss = seed_loss(model, recipe)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, fused=True)

    def step(number: int) -> None:
        pairs = batch(number)
        sides = [model.preprocess([train.texts[place] for place in side[pairs]]) for side in (train.left, train.right)]
        loss(sides, torch.tensor(train.scores[pairs])).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    folder = os.environ.get("M2D_STSB")
    if not folder:
        parser.error("set M2D_STSB to a folder with STS-B's train.csv and dev.csv")
    torch.set_num_threads(cores())
    data = load_data(folder)

    def job(recipe: type[SeedRecipe] | type[GridRecipe]) -> Job:
        loaded = load_checkpoint(arguments.checkpoint)
        options: dict[str, Any] = {"dims": default_dims(loaded.width), "batch_size": BATCH_SIZE}
        if recipe is GridRecipe:
            options["layers"] = tuple(range(1, loaded.depth + 1))
        return Job(arguments.checkpoint, loaded, data, recipe(**options), "cpu", "fp32", Path("unused"))

    grid = GridTraining(job(GridRecipe))
    steps = {"seed": seed_step(job(SeedRecipe), grid.batch), "grid": lambda number: grid.take_step()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(WARM_UP + STEPS):
        for name, step in steps.items():
            started = time.perf_counter()
            step(number)
            if number >= WARM_UP:
                seconds[name].append(time.perf_counter() - started)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    result = {
        "command": "python -m benchmarks.train_speed all-MiniLM-L6-v2",
        "pairs_per_step": BATCH_SIZE,
        "threads": cores(),
        "cells_per_step": {"seed": 2, "grid": len(grid.recipe.layers) * len(grid.recipe.dims)},
        "seconds": seconds,
        "sentences_per_second": {name: 2 * BATCH_SIZE / value for name, value in median.items()},
        "ratio": median["seed"] / median["grid"],
        "machine": machine(),
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, value in result["sentences_per_second"].items():
        print(f"{name:6} {value:6.1f} sentences/s")
    print(f"ratio  {result['ratio']:6.2f}")


if __name__ == "__main__":
    main()
