"""Encode the STS-B test sentences with sentence-transformers and with a bundle, side by side in one run.

    M2D_STSB=path/to/stsb python benchmarks/encode_speed.py CHECKPOINT BUNDLE -o benchmarks/results/encode_speed.json

The same sentences and the same weights, at full depth, in fp32, with the same number of threads; the two alternate, and
the medians of the rounds are compared. Both sides sort texts by length and batch them as they do by default.
"""

import argparse
import csv
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from m2d_export import Bundle, Encoder
from m2d_export.host.machine import cores, machine
from m2d_export.vectors import cosine

ROUNDS = 5


def sentences(folder: Path) -> list[str]:
    """Both sentences of every pair of test.csv, repeats and all."""
    with (folder / "test.csv").open(encoding="utf-8", newline="") as file:
        return [sentence for row in csv.reader(file) for sentence in row[:2]]


def interleaved(calls: Sequence[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Seconds of each call in each round, after one round that does not count."""
    seconds: list[list[float]] = [[] for _ in calls]
    for done in range(rounds + 1):
        for call, measured in zip(calls, seconds, strict=True):
            started = time.perf_counter()
            call()
            if done:
                measured.append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("bundle")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    folder = os.environ.get("M2D_STSB")
    if not folder:
        parser.error("set M2D_STSB to a folder with STS-B's test.csv")
    texts = sentences(Path(folder))
    threads = cores()
    torch.set_num_threads(threads)
    model = SentenceTransformer(arguments.checkpoint, device="cpu", model_kwargs={"dtype": torch.float32})
    with Encoder(Bundle.open(arguments.bundle), threads=threads) as encoder:
        peer, ours = interleaved(
            [lambda: model.encode(texts, show_progress_bar=False), lambda: encoder.encode(texts)], ROUNDS
        )
        least_cosine = float(cosine(model.encode(texts), encoder.encode(texts)).min())
    result = {
        "command": "python benchmarks/encode_speed.py all-MiniLM-L6-v2 minilm.m2d",
        "texts": len(texts),
        "rounds": ROUNDS,
        "threads": threads,
        "least_cosine": least_cosine,
        "sentence_transformers_seconds": peer,
        "m2d_export_seconds": ours,
        "sentence_transformers_per_second": len(texts) / statistics.median(peer),
        "m2d_export_per_second": len(texts) / statistics.median(ours),
        "ratio": statistics.median(peer) / statistics.median(ours),
        "ratio_each_round": np.divide(peer, ours).round(3).tolist(),
        "machine": machine(),
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name in ("sentence_transformers_per_second", "m2d_export_per_second", "ratio"):
        print(f"{name:36} {result[name]:8.2f}")


if __name__ == "__main__":
    main()
