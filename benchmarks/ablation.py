"""What each part of the grid recipe gives: short runs of one seed, each with one part more, judged on dev.

    python -m benchmarks.ablation CHECKPOINT --texts sentences.txt -o benchmarks/results/ablation.json

$M2D_STSB names the folder of STS-B's splits, ``--texts`` a file of sentences without scores
(``python -m train.wordnet``). One epoch each, with the recipe's own warm-up and decay.
"""

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.host.machine import machine
from train.data import load_data
from train.losses import LossWeights
from train.recipes import GridRecipe, default_dims
from train.train import GridTraining
from train.work import Job

EPOCHS = 1
# Each rung is the one before it and what it names. Heads that do not learn stay the identity.
RUNGS: tuple[tuple[str, Mapping[str, Any], Mapping[str, float]], ...] = (
    ("every cell, every step", {"head_learning_rate": 0.0, "unlabelled": 0}, {"similarities": 0.0, "vectors": 0.0}),
    ("+ a head per exit", {"head_learning_rate": GridRecipe.head_learning_rate}, {}),
    ("+ the full cell's cosines distilled", {}, {"similarities": LossWeights.similarities}),
    ("+ the full cell's vectors distilled", {}, {"vectors": LossWeights.vectors}),
    ("+ 64 sentences without scores a step", {"unlabelled": GridRecipe.unlabelled}, {}),
)


def main() -> None:
    """Train every rung and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--texts", required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    folder = os.environ.get("M2D_STSB")
    if not folder:
        parser.error("set M2D_STSB to a folder with STS-B's splits")
    data = load_data(folder, unlabelled=arguments.texts)
    loaded = load_checkpoint(arguments.checkpoint)
    layers, dims = tuple(range(1, loaded.depth + 1)), default_dims(loaded.width)
    recipe, rows = GridRecipe(layers, dims, epochs=EPOCHS), []
    for name, settings, weights in RUNGS:
        recipe = replace(recipe, **settings, weights=replace(recipe.weights, **weights))
        checkpoint = load_checkpoint(arguments.checkpoint)
        training = GridTraining(Job(arguments.checkpoint, checkpoint, data, recipe, "cpu", "fp32", Path("unused")))
        while training.step < training.steps:
            training.take_step()
        rows.append({"rung": name, "dev": {str(cell): score for cell, score in training.judge.grid().items()}})
        print(name, json.dumps(rows[-1]["dev"]), flush=True)
    result = {"steps": training.steps, "seed": recipe.seed, "rows": rows, "machine": machine()}
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
