"""Does agreement on unlabelled sentences rank the cells of a bundle as the STS-B score does?

    M2D_STSB=DIR python -m benchmarks.agreement_vs_score minilm.m2d -o benchmarks/results/agreement_vs_score.json

Agreement is measured on the sentences of dev.csv, whose scores are not read. The score is measured on test.csv. The
full cell agrees with itself by definition, so there is a second rank correlation without it.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks import common
from m2d_export import Bundle, Encoder
from m2d_export.agreement import AgreementReference, agreement, agreement_reference
from m2d_export.bench.similarity import intervals, spearman
from m2d_export.bench.sts import Pairs, load_pairs
from m2d_export.vectors import FloatArray, cosine, truncate

MEASURES = ("spearman", "random_spearman", "nearest_spearman", "overlap_at_10")


def measured(bundle: Bundle, texts: tuple[str, ...], pairs: Pairs) -> list[dict[str, Any]]:
    """Agreement and score of every cell, deepest layer first."""
    found: list[dict[str, Any]] = []
    similarities = []
    reference: AgreementReference | None = None
    for layer in reversed(bundle.grid.layers):
        with Encoder(bundle, layer, normalize=False) as encoder:
            unlabelled, graded = encoder.encode(texts), encoder.encode(pairs.texts)
        reference = reference or agreement_reference(unlabelled)
        for dim in bundle.grid.dims:
            prefix: FloatArray = truncate(graded, dim)
            similarities.append(cosine(prefix[pairs.left], prefix[pairs.right]))
            agreed = asdict(agreement(unlabelled[:, :dim], reference))
            found.append({"cell": f"{layer}x{dim}", "score": spearman(similarities[-1], pairs.scores), **agreed})
    full = next(place for place, cell in enumerate(found) if cell["cell"] == str(bundle.grid.full))
    for cell, interval in zip(found, intervals(np.stack(similarities), pairs.scores, full=full), strict=True):
        cell["interval"] = interval.score
    return found


def rank_correlations(cells: list[dict[str, Any]]) -> dict[str, float]:
    """Spearman's correlation (-1 to 1) of each measure with the score over ``cells``."""
    scores = [cell["score"] for cell in cells]
    return {name: float(stats.spearmanr([cell[name] for cell in cells], scores).statistic) for name in MEASURES}


def main() -> None:
    """Measure, write, print."""
    parser = common.parser("agreement_vs_score", __doc__)
    parser.add_argument("bundle", type=Path)
    arguments = parser.parse_args()
    folder, bundle = common.stsb_folder(parser), Bundle.open(arguments.bundle)
    texts, pairs = load_pairs(str(folder / "dev.csv")).texts, load_pairs(str(folder / "test.csv"))
    cells = measured(bundle, texts, pairs)
    full = str(bundle.grid.full)
    results = {
        "bundle": bundle.id,
        "texts": f"{len(texts)} distinct sentences of STS-B dev",
        "pairs": f"{len(pairs.scores)} pairs of STS-B test",
        "rank_correlation": rank_correlations(cells),
        "rank_correlation_without_the_full_cell": rank_correlations([cell for cell in cells if cell["cell"] != full]),
        "cells": cells,
    }
    common.write_results(arguments, results)
    for cell in cells:
        print(f"{cell['cell']:>8}  score {cell['score']:6.2f}  " + "  ".join(f"{n} {cell[n]:6.2f}" for n in MEASURES))
    print(json.dumps({key: results[key] for key in results if key.startswith("rank")}, indent=1))


if __name__ == "__main__":
    main()
