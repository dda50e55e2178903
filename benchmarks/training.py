"""What does training gain, on STS-B and on other text, for each recipe?

    M2D_STSB=DIR python -m benchmarks.training --base DIR --stock DIR .. --grid DIR .. \
        --other "learning rate 1e-4" DIR --texts definitions.txt -o benchmarks/results/training.json

Each folder is scored from its own files on STS-B dev and test: the untouched base, runs of the stock recipe, runs of
the grid recipe, and runs with other settings (``--other`` with their name). ``--texts`` is a file of sentences of
another kind that no run has seen (``python -m train.wordnet --definitions``). Agreement of each exit with the base's
full vector on them shows what training for STS costs elsewhere.
"""

import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from m2d_export.agreement import AgreementReference, agreement, agreement_reference
from m2d_export.bench.sts import Pairs
from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.text.files import read_texts
from train.data import load_data
from train.evaluate import Evaluator
from train.recipes import default_dims

TEXTS = 2000


def sampled(path: Path) -> Pairs:
    """Every n-th text of a file, as pairs without a score."""
    texts = tuple(common.spread(read_texts(path), TEXTS))
    none = np.zeros(0, dtype=np.int64)
    return Pairs(path.name, path.name, texts, none, none, np.zeros(0))


def measured(
    folder: str, splits: dict[str, Pairs], texts: Pairs, reference: AgreementReference | None
) -> tuple[dict[str, Any], AgreementReference]:
    """Scores of a checkpoint by split, and its exits' agreement with ``reference``.

    None takes the checkpoint's own full vectors as reference. Returns the reference too.
    """
    checkpoint = load_checkpoint(folder)
    layers, dims = range(1, checkpoint.depth + 1), default_dims(checkpoint.width)
    row: dict[str, Any] = {}
    for name, pairs in splits.items():
        scored = Evaluator(checkpoint, pairs, layers, dims).scores()
        row[name] = {str(cell): score for cell, score in scored.grid.items()}
        row[f"{name}_metrics"] = dict(scored.metrics)
    vectors = Evaluator(checkpoint, texts, layers, dims).vectors()
    reference = reference or agreement_reference(vectors[-1])
    row["agreement"] = {
        str(layer): asdict(agreement(own, reference)) for layer, own in zip(layers, vectors, strict=True)
    }
    return row, reference


def spread(rows: list[dict[str, Any]], split: str) -> dict[str, dict[str, float]]:
    """Mean of every cell over the runs, with the standard deviation if there are two runs or more."""
    return {
        cell: {
            "mean": statistics.mean(row[split][cell] for row in rows),
            **({"sd": statistics.stdev(row[split][cell] for row in rows)} if len(rows) > 1 else {}),
        }
        for cell in rows[0][split]
    }


def main() -> None:
    """Score, write."""
    parser = common.parser("training", __doc__)
    parser.add_argument("--base", required=True, help="the untouched checkpoint")
    parser.add_argument("--stock", nargs="*", default=[], help="runs of the stock recipe")
    parser.add_argument("--grid", nargs="*", default=[], help="runs of the grid recipe")
    parser.add_argument("--other", nargs=2, action="append", default=[], metavar=("NAME", "DIR"), help="another run")
    parser.add_argument("--texts", type=Path, required=True, help="sentences of another kind, one a line")
    arguments = parser.parse_args()
    splits, texts = load_data(str(common.stsb_folder(parser))).held_out(), sampled(arguments.texts)
    base, reference = measured(arguments.base, splits, texts, None)
    runs: dict[str, list[dict[str, Any]]] = {"base": [base]}
    trained = {"stock": arguments.stock, "grid": arguments.grid, **{name: [run] for name, run in arguments.other}}
    for recipe, folders in trained.items():
        rows = [measured(run, splits, texts, reference)[0] for run in folders]
        for row, run in zip(rows, folders, strict=True):
            settings = json.loads((Path(run) / "m2d.json").read_text(encoding="utf-8"))
            row |= {key: settings[key] for key in ("recipe", "settings", "seconds", "versions", "machine")}
        if rows:
            runs[recipe] = rows
    results = {
        "texts": f"{len(texts.texts)} of {arguments.texts.name}",
        "spread": {recipe: {split: spread(rows, split) for split in splits} for recipe, rows in runs.items()},
        "runs": runs,
    }
    common.write_results(arguments, results)


if __name__ == "__main__":
    main()
