"""Does agreement on unlabelled sentences rank the cells of a bundle as the STS-B score does?

    M2D_STSB=path/to/stsb python benchmarks/agreement_vs_score.py BUNDLE -o benchmarks/results/agreement_vs_score.json

Agreement is measured on the sentences of dev.csv, whose scores are never read; the score is that of test.csv. The full
cell agrees with itself by definition, so the rank correlation over the other cells is given beside that over all.
"""

import argparse
import csv
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from m2d_export import Bundle, Encoder
from m2d_export.agreement import Yardstick, agreement, yardstick
from m2d_export.bench.similarity import intervals, spearman
from m2d_export.bench.sts import Pairs, load_pairs
from m2d_export.host.machine import machine
from m2d_export.vectors import FloatArray, cosine, truncate

MEASURES = ("spearman", "random_spearman", "nearest_spearman", "overlap_at_10")


def unlabelled(folder: Path) -> tuple[str, ...]:
    """The distinct sentences of dev.csv."""
    with (folder / "dev.csv").open(encoding="utf-8", newline="") as file:
        return tuple(dict.fromkeys(sentence for row in csv.reader(file) for sentence in row[:2]))


def measured(bundle: Bundle, texts: tuple[str, ...], pairs: Pairs) -> list[dict[str, Any]]:
    """Agreement and score of every cell, deepest layer first."""
    found: list[dict[str, Any]] = []
    similarities = []
    stick: Yardstick | None = None
    for layer in reversed(bundle.grid.layers):
        with Encoder(bundle, layer, normalize=False) as encoder:
            free, graded = encoder.encode(texts), encoder.encode(pairs.texts)
        stick = stick or yardstick(free)
        for dim in bundle.grid.dims:
            prefix: FloatArray = truncate(graded, dim)
            similarities.append(cosine(prefix[pairs.left], prefix[pairs.right]))
            agreed = asdict(agreement(free[:, :dim], stick))
            found.append({"cell": f"{layer}x{dim}", "score": spearman(similarities[-1], pairs.scores), **agreed})
    full = next(place for place, cell in enumerate(found) if cell["cell"] == str(bundle.grid.full))
    for cell, interval in zip(found, intervals(np.stack(similarities), pairs.scores, full=full), strict=True):
        cell["interval"] = interval.score
    return found


def rank_correlations(cells: list[dict[str, Any]]) -> dict[str, float]:
    """Spearman, from -1 to 1, of each measure with the score over ``cells``."""
    scores = [cell["score"] for cell in cells]
    return {name: float(stats.spearmanr([cell[name] for cell in cells], scores).statistic) for name in MEASURES}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    folder = os.environ.get("M2D_STSB")
    if not folder:
        parser.error("set M2D_STSB to a folder with STS-B's dev.csv and test.csv")
    bundle = Bundle.open(arguments.bundle)
    texts, pairs = unlabelled(Path(folder)), load_pairs(str(Path(folder) / "test.csv"))
    started = time.perf_counter()
    cells = measured(bundle, texts, pairs)
    full = str(bundle.grid.full)
    result = {
        "command": f"python benchmarks/agreement_vs_score.py {Path(arguments.bundle).name}",
        "bundle": bundle.id,
        "texts": f"{len(texts)} distinct sentences of STS-B dev",
        "pairs": f"{len(pairs.scores)} pairs of STS-B test",
        "rank_correlation": rank_correlations(cells),
        "rank_correlation_without_the_full_cell": rank_correlations([cell for cell in cells if cell["cell"] != full]),
        "cells": cells,
        "seconds": time.perf_counter() - started,
        "machine": machine(),
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for cell in cells:
        print(f"{cell['cell']:>8}  score {cell['score']:6.2f}  " + "  ".join(f"{n} {cell[n]:6.2f}" for n in MEASURES))
    print(json.dumps({key: result[key] for key in result if key.startswith("rank")}, indent=1))


if __name__ == "__main__":
    main()
