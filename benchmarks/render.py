"""Put the figures of results/ into the README, between its markers; with --check, fail if they differ.

python benchmarks/render.py [--check]
"""

import json
import re
import sys
from dataclasses import astuple
from pathlib import Path
from typing import Any

from m2d_export import Cell
from m2d_export.bench.figures import candidates, latencies
from m2d_export.bench.quantities import Shape
from m2d_export.bench.records import read_records

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TOKENS = 16


def result(name: str) -> dict[str, Any]:
    """A results file of one JSON object."""
    loaded: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return loaded


def on(machine: dict[str, Any]) -> str:
    """The machine and versions of a result, in words."""
    versions = machine["versions"]
    return (
        f"{machine['cores']} cores of {machine['cpu']}, Python {machine['python']}, "
        f"onnxruntime {versions['onnxruntime']}, torch {versions['torch']}"
    )


def grid() -> str:
    """Score of every cell, latency of every exit."""
    rows = read_records(RESULTS / "minilm_stsb.jsonl")
    cells = {candidate.cell: candidate for candidate in candidates(rows)}
    timings = {(timing.layer, timing.shape): timing for timing in latencies(rows)}
    layers, dims = (sorted(set(numbers), reverse=True) for numbers in zip(*map(astuple, cells), strict=True))
    lines = [
        f"| layer | {' | '.join(f'{dim} dims' for dim in dims)} | one text, p50 | in batches of 32 |",
        "|---" * (len(dims) + 3) + "|",
    ]
    for layer in layers:
        scores = " | ".join(f"{cells[Cell(layer, dim)].score:.1f}" for dim in dims)
        one, many = (timings[layer, Shape(size, TOKENS, "graph")] for size in (1, 32))
        lines.append(f"| {layer} | {scores} | {one.p50_ms:.1f} ms | {many.sentences_per_second:,.0f} sentences/s |")
    return "\n".join([*lines, "", f"Graph alone, fp32, {TOKENS} tokens a text; {on(rows[0]['machine'])}."])


def speed() -> str:
    """Our encode beside sentence-transformers' own."""
    row = result("encode_speed.json")
    ours, peer = row["m2d_export_per_second"], row["sentence_transformers_per_second"]
    return (
        f"At full depth, in fp32, on the same weights, `Encoder.encode` takes {row['texts']:,} sentences of STS-B at "
        f"{ours:,.0f} a second, sentence-transformers' own `encode` at {peer:,.0f}: **{row['ratio']:.2f} x** "
        f"(medians of {row['rounds']} alternating rounds; {on(row['machine'])}; vectors agree to a cosine of "
        f"{row['least_cosine']:.7f} at the least)."
    )


def cost() -> str:
    """What a build takes."""
    row = result("build_cost.json")
    return (
        f"The build above takes {row['seconds']:.0f} s, and its {row['graphs']} graphs with their weights are "
        f"{row['all_graphs_over_the_deepest_alone']:.3f} times the deepest alone ({on(row['machine'])})."
    )


def agreement() -> str:
    """How far the label-free measure ranks cells as the score does."""
    row = result("agreement_vs_score.json")
    all_cells, others = row["rank_correlation"], row["rank_correlation_without_the_full_cell"]
    return (
        "Without a single label, `--texts` ranks its cells much as the score does: the rank correlation of agreement "
        f"on the {row['texts']} with the score on the {row['pairs']} is **{all_cells['spearman']:.3f}** "
        f"over all {len(row['cells'])} cells ({others['spearman']:.3f} without the full one)."
    )


def rendered(text: str) -> str:
    """``text`` with every marked region filled in anew."""
    for name, region in (("grid", grid), ("agreement", agreement), ("speed", speed), ("cost", cost)):
        pattern = re.compile(rf"(<!-- {name}: [^\n]* -->\n).*?(<!-- /{name} -->)", re.S)
        if not pattern.search(text):
            raise SystemExit(f"README.md has no region {name}")
        filled = region()
        text = pattern.sub(lambda found, filled=filled: found[1] + filled + "\n" + found[2], text)
    return text


def main() -> None:
    """Write, or check."""
    readme = ROOT / "README.md"
    before = readme.read_text(encoding="utf-8")
    after = rendered(before)
    if "--check" in sys.argv[1:]:
        if before != after:
            raise SystemExit("README.md differs from benchmarks/results: run python benchmarks/render.py")
        return
    readme.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
