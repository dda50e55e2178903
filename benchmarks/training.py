"""What training gives: the grids of the untouched base, of stock runs and of grid runs, on STS-B and elsewhere.

    M2D_STSB=path/to/stsb python -m benchmarks.training --base CHECKPOINT --stock DIR .. --grid DIR .. \
        --other "learning rate 1e-4" DIR --texts definitions.txt -o benchmarks/results/training.json

``--other`` is a run of other settings and what to call it. Each folder is scored from its own files, on dev and on
test. ``--texts`` are sentences of another kind (WordNet's definitions, which no run has seen: ``python -m train.wordnet
--definitions``): how far each exit agrees on them with the untouched base's full vector says what training for STS
costs elsewhere.
"""

import argparse
import json
import os
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from m2d_export.agreement import Yardstick, agreement, yardstick
from m2d_export.bench.sts import Pairs
from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.host.machine import machine
from m2d_export.text.files import read_texts
from train.data import load_data
from train.evaluate import Judge
from train.recipes import default_dims

TEXTS = 2000


def sampled(path: Path) -> Pairs:
    """Every n-th text of a file, as pairs that nobody graded."""
    texts = read_texts(path)[:: max(1, len(read_texts(path)) // TEXTS)][:TEXTS]
    return Pairs(path.name, path.name, texts, *(np.zeros(0, dtype=np.int64) for _ in range(2)), np.zeros(0))


def measured(folder: str, splits: dict[str, Pairs], texts: Pairs, stick: Yardstick | None) -> dict[str, Any]:
    """Grids of one checkpoint by split, and its exits' agreement with ``stick``, or with itself where there is none."""
    checkpoint = load_checkpoint(folder)
    layers, dims = range(1, checkpoint.depth + 1), default_dims(checkpoint.width)
    row: dict[str, Any] = {}
    for name, pairs in splits.items():
        scored = Judge(checkpoint, pairs, layers, dims).scored()
        row[name] = {str(cell): score for cell, score in scored.grid.items()}
        row[f"{name}_metrics"] = dict(scored.metrics)
    vectors = Judge(checkpoint, texts, layers, dims).vectors()
    row["stick"] = stick or yardstick(vectors[-1])
    row["agreement"] = {
        str(layer): asdict(agreement(exit_, row["stick"])) for layer, exit_ in zip(layers, vectors, strict=True)
    }
    return row


def spread(rows: list[dict[str, Any]], split: str) -> dict[str, dict[str, float]]:
    """Mean and, from two runs on, standard deviation of every cell."""
    return {
        cell: {
            "mean": statistics.mean(row[split][cell] for row in rows),
            **({"sd": statistics.stdev(row[split][cell] for row in rows)} if len(rows) > 1 else {}),
        }
        for cell in rows[0][split]
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--stock", nargs="*", default=[])
    parser.add_argument("--grid", nargs="*", default=[])
    parser.add_argument("--other", nargs=2, action="append", default=[], metavar=("NAME", "DIR"))
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    folder = os.environ.get("M2D_STSB")
    if not folder:
        parser.error("set M2D_STSB to a folder with STS-B's splits")
    splits, texts = load_data(folder).judged(), sampled(arguments.texts)
    base = measured(arguments.base, splits, texts, None)
    stick = base.pop("stick")
    runs: dict[str, list[dict[str, Any]]] = {"base": [base]}
    trained = {"stock": arguments.stock, "grid": arguments.grid, **{name: [run] for name, run in arguments.other}}
    for recipe, folders in trained.items():
        rows = [measured(run, splits, texts, stick) for run in folders]
        for row, run in zip(rows, folders, strict=True):
            del row["stick"]
            settings = json.loads((Path(run) / "m2d.json").read_text(encoding="utf-8"))
            row |= {key: settings[key] for key in ("recipe", "settings", "seconds", "versions", "machine")}
        if rows:
            runs[recipe] = rows
    result = {
        "texts": f"{len(texts.texts)} of {arguments.texts.name}",
        "spread": {recipe: {split: spread(rows, split) for split in splits} for recipe, rows in runs.items()},
        "runs": runs,
        "machine": machine(),
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
