"""Put the figures of results/ into the README and the docs, between markers; with --check, fail if they differ.

python -m benchmarks.render [--check]
"""

import re
import sys
from dataclasses import astuple
from pathlib import Path
from statistics import mean

from benchmarks.gpu_tables import gpu
from benchmarks.tables import (
    ROOT,
    against_the_best,
    ceiling,
    cpp,
    on,
    open_exits,
    peers,
    result,
    settings,
    stream,
    triton,
)
from m2d_export import Cell
from m2d_export.bench.metrics import candidates, latencies
from m2d_export.bench.quantities import Shape
from m2d_export.bench.records import read_records
from m2d_export.report.formatting import plain_table

RESULTS = ROOT / "benchmarks" / "results"
TOKENS = 16
NAMES = {"base": "untouched base", "stock": "stock recipe", "grid": "grid recipe"}


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
        f"Building it takes {row['seconds']:.0f} s, and its {row['graphs']} graphs with their weights are "
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


def trained() -> str:
    """The reference checkpoint's scores through its graphs, beside the untouched base's."""
    ours, base = (
        {candidate.cell: candidate.score for candidate in candidates(read_records(RESULTS / name))}
        for name in ("minilm_2d_stsb.jsonl", "minilm_stsb.jsonl")
    )
    layers, dims = (sorted(set(numbers), reverse=True) for numbers in zip(*map(astuple, ours), strict=True))
    shown = (max(dims), min(dims))
    head = ["layer", *(f"{dim} dims" for dim in dims), *(f"untrained, {dim}" for dim in shown)]
    rows = [
        [
            f"{layer}",
            *(f"{ours[Cell(layer, dim)]:.1f}" for dim in dims),
            *(f"{base[Cell(layer, dim)]:.1f}" for dim in shown),
        ]
        for layer in layers
    ]
    return plain_table(head, rows)


def runs() -> str:
    """Mean and spread of every recipe at the widest and the narrowest trained dim, on test."""
    found = result("training.json")
    spreads = {recipe: spread["test"] for recipe, spread in found["spread"].items()}
    cells = [tuple(map(int, cell.split("x"))) for cell in next(iter(spreads.values()))]
    layers, dims = (sorted(set(numbers), reverse=True) for numbers in zip(*cells, strict=True))
    head = ["exit", *(_titled(recipe, len(found["runs"][recipe])) for recipe in spreads)]
    rows = [
        [
            f"{layer}",
            *(
                " | ".join(_mean(spread[f"{layer}x{dim}"]) for dim in (dims[0], dims[-1]))
                for spread in spreads.values()
            ),
        ]
        for layer in layers
    ]
    return plain_table(head, rows)


def _titled(recipe: str, count: int) -> str:
    name = NAMES.get(recipe, recipe)
    return name if count == 1 else f"{name}, {count} runs"


def _mean(cell: dict[str, float]) -> str:
    return f"{cell['mean']:.1f}" + (f" ± {cell['sd']:.1f}" if "sd" in cell else "")


def elsewhere() -> str:
    """Agreement of every exit with the untouched base's full vector on text of another kind."""
    found = result("training.json")["runs"]
    layers = sorted(found["base"][0]["agreement"], key=int, reverse=True)
    rows = [
        [layer, *(f"{mean(row['agreement'][layer]['spearman'] for row in found[recipe]):.1f}" for recipe in found)]
        for layer in layers
    ]
    return plain_table(["exit", *(_titled(recipe, len(found[recipe])) for recipe in found)], rows)


def ablation() -> str:
    """What each part of the grid recipe gives in a short run, on dev, at the widest and the narrowest trained dim."""
    found = result("ablation.json")
    cells = [tuple(map(int, cell.split("x"))) for cell in found["rows"][0]["dev"]]
    layers, dims = (sorted(set(numbers), reverse=True) for numbers in zip(*cells, strict=True))
    head = ["recipe", *(f"exit {layer}" for layer in layers), "all cells"]
    rows = [
        [
            row["rung"],
            *(" | ".join(f"{row['dev'][f'{layer}x{dim}']:.1f}" for dim in (dims[0], dims[-1])) for layer in layers),
            f"{mean(row['dev'].values()):.2f}",
        ]
        for row in found["rows"]
    ]
    return plain_table(head, rows)


def train_speed() -> str:
    """A step of ours beside one of the stock recipe."""
    row = result("train_speed.json")
    ours, stock = row["sentences_per_second"]["grid"], row["sentences_per_second"]["seed"]
    return (
        f"At equal batches of {row['pairs_per_step']} pairs, steps alternating in one run: {ours:.0f} sentences/s "
        f"for the {row['cells_per_step']['grid']} cells of the grid recipe, {stock:.0f} for the "
        f"{row['cells_per_step']['seed']} of the seed recipe, **{row['ratio']:.2f} x** (medians of "
        f"{len(row['seconds']['grid'])} steps, all-MiniLM-L6-v2, fp32; {row['machine']['cores']} cores of "
        f"{row['machine']['cpu']}, torch {row['machine']['versions']['torch']})."
    )


REGIONS = {
    ROOT / "README.md": {
        "grid": grid,
        "trained": trained,
        "agreement": agreement,
        "speed": speed,
        "peers": peers,
        "peers_avx2": lambda: against_the_best(result("peers_avx2.json")),
        "ceiling": ceiling,
        "cost": cost,
        "open_exits": open_exits,
        "stream": stream,
    },
    ROOT / "benchmarks" / "README.md": {"peers_avx2": lambda: peers("peers_avx2.json"), "settings": settings},
    ROOT / "docs" / "deploy.md": {"triton": triton},
    ROOT / "docs" / "cpp.md": {"cpp": cpp},
    ROOT / "docs" / "tensorrt.md": {"gpu": gpu},
    ROOT / "models" / "minilm-l6-sts-2d" / "README.md": {"runs": runs, "elsewhere": elsewhere, "ablation": ablation},
    ROOT / "docs" / "training.md": {
        "runs": runs,
        "elsewhere": elsewhere,
        "ablation": ablation,
        "train_speed": train_speed,
    },
}


def rendered(path: Path) -> str:
    """The text of ``path`` with every marked region filled in anew."""
    text = path.read_text(encoding="utf-8")
    for name, region in REGIONS[path].items():
        pattern = re.compile(rf"(<!-- {name}: [^\n]* -->\n).*?(<!-- /{name} -->)", re.S)
        if not pattern.search(text):
            raise SystemExit(f"{path.relative_to(ROOT)} has no region {name}")
        filled = region()
        text = pattern.sub(lambda found, filled=filled: found[1] + filled + "\n" + found[2], text)
    return text


def main() -> None:
    """Write, or check."""
    for path in REGIONS:
        after = rendered(path)
        if "--check" not in sys.argv[1:]:
            path.write_text(after, encoding="utf-8")
        elif after != path.read_text(encoding="utf-8"):
            raise SystemExit(
                f"{path.relative_to(ROOT)} differs from benchmarks/results: run python -m benchmarks.render"
            )


if __name__ == "__main__":
    main()
