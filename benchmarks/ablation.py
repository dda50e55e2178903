"""What does each part of the grid recipe gain?

    M2D_STSB=DIR python -m benchmarks.ablation --texts sentences.txt -o benchmarks/results/ablation.json

Short runs with one seed are judged on STS-B dev. Each run has one part more than the run before. A run is one epoch
with the recipe's own warm-up and decay. ``--texts`` is a file of sentences without scores
(``python -m train.wordnet``).
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import common
from m2d_export.checkpoints.load import load_checkpoint
from train.data import load_data
from train.grid import GridTraining
from train.job import Job
from train.losses import LossWeights
from train.recipes import GridRecipe, default_dims

EPOCHS = 1
# Each recipe is the one before it with these settings and loss weights changed. A head that does not learn stays the
# identity.
RECIPES: tuple[tuple[str, Mapping[str, Any], Mapping[str, float]], ...] = (
    ("every cell, every step", {"head_learning_rate": 0.0, "unlabelled": 0}, {"similarities": 0.0, "vectors": 0.0}),
    ("+ a head per exit", {"head_learning_rate": GridRecipe.head_learning_rate}, {}),
    ("+ the full cell's cosines distilled", {}, {"similarities": LossWeights.similarities}),
    ("+ the full cell's vectors distilled", {}, {"vectors": LossWeights.vectors}),
    ("+ 64 sentences without scores a step", {"unlabelled": GridRecipe.unlabelled}, {}),
)


def main() -> None:
    """Train with each recipe, write."""
    parser = common.parser("ablation", __doc__)
    common.add_checkpoint(parser)
    parser.add_argument("--texts", required=True, help="sentences without scores, one a line")
    arguments = parser.parse_args()
    data = load_data(str(common.stsb_folder(parser)), unlabelled=arguments.texts)
    path = str(common.checkpoint_of(arguments))
    loaded = load_checkpoint(path)
    layers, dims = tuple(range(1, loaded.depth + 1)), default_dims(loaded.width)
    recipe, rows = GridRecipe(layers, dims, epochs=EPOCHS), []
    for name, settings, weights in RECIPES:
        recipe = replace(recipe, **settings, weights=replace(recipe.weights, **weights))
        training = GridTraining(Job(path, load_checkpoint(path), data, recipe, "cpu", "fp32", Path("unused")))
        while training.step < training.steps:
            training.take_step()
        rows.append({"recipe": name, "dev": {str(cell): score for cell, score in training.evaluator.grid().items()}})
        print(name, json.dumps(rows[-1]["dev"]), flush=True)
    common.write_results(arguments, {"steps": training.steps, "seed": recipe.seed, "rows": rows})


if __name__ == "__main__":
    main()
