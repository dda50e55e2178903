"""Put the figures of results/ into the README and the docs, between markers; with --check, fail if they differ.

python benchmarks/render.py [--check]
"""

import json
import re
import sys
from dataclasses import astuple
from pathlib import Path
from statistics import mean
from typing import Any

from m2d_export import Cell
from m2d_export.bench.figures import candidates, latencies
from m2d_export.bench.quantities import Shape
from m2d_export.bench.records import read_records
from m2d_export.bench.written import milliseconds, plain_table, rate, score, share

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TOKENS = 16
NAMES = {"base": "untouched base", "stock": "stock recipe", "grid": "grid recipe"}


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


def open_exits() -> str:
    """Memory of a process with every exit open, by runtime and precision."""
    found = result("open_exits.json")
    rows = [
        [row["runtime"], row["precision"], f"{row['all_mb']:,.0f} MB", f"{row['deepest_mb']:,.0f} MB"]
        for row in found["rows"]
    ]
    table = plain_table(["runtime", "precision", f"all {found['exits']} exits open", "the deepest alone"], rows)
    return f"{table}\n\nPeak resident memory of the process; {on(found['machine'])}."


def stream() -> str:
    """Memory while a million texts go through an encoder."""
    row = result("stream.json")
    return (
        f"{row['texts']:,} short texts streamed through a tiny encoder, in order: memory grows by "
        f"{row['slope_mb']:.2f} MB per 100,000 of them once it has warmed up ({on(row['machine'])})."
    )


def peers() -> str:
    """Every peer beside us: score, throughput on short and long texts, latency of one text."""
    found = result("peers.json")
    ordered = sorted(found["systems"].items(), key=lambda item: -item[1]["short_per_second"])
    head = ["system", "weights", "STS-B", "short, sentences/s", "long, paragraphs/s", "one text, p50"]
    rows = [
        [
            f"**{name}**" if row["environment"] == "m2d-export" else name,
            row["weights"],
            score(row["score"]),
            rate(row["short_per_second"]),
            rate(row["long_per_second"]),
            milliseconds(row["single_p50_ms"]),
        ]
        for name, row in ordered
    ]
    lacking = [f"{name} ({reason})" for name, reason in found["not_run"].items()]
    run = (
        f"Medians of {found['rounds']} rounds in one run, systems taking turns on {found['threads']} threads: "
        f"{found['texts']['short']:,} sentences of STS-B test, {found['texts']['long']} paragraphs of ten of them, "
        f"{found['texts']['single']} sentences one at a time. {found['machine']['cores']} cores of "
        f"{found['machine']['cpu']} ({', '.join(found['cpu_flags'])})."
    )
    notes = [run, *([f"Not run: {', '.join(lacking)}."] if lacking else [])]
    return "\n\n".join([plain_table(head, rows), _against_the_best(found["systems"]), " ".join(notes)])


def _against_the_best(systems: dict[str, Any]) -> str:
    """Our fastest system at full depth, and at exit 3, over the fastest peer that is an encoder."""
    ours = {name for name, row in systems.items() if row["environment"] == "m2d-export"}
    kinds = {
        "peer": {name for name, row in systems.items() if row["environment"] != "model2vec"} - ours,
        "full depth": {name for name in ours if "exit" not in name},
        "exit 3 of the reference checkpoint": {name for name in ours if "exit 3" in name},
    }
    lines = []
    for quantity, what, best in (
        ("short_per_second", "short texts", max),
        ("long_per_second", "long texts", max),
        ("single_p50_ms", "the time of one text", min),
    ):
        fastest = {kind: best(names, key=lambda name: systems[name][quantity]) for kind, names in kinds.items()}
        peer = fastest.pop("peer")
        ratios = [
            f"{systems[name][quantity] / systems[peer][quantity]:.2f} x ({kind}: {name.removeprefix('m2d-export ')})"
            for kind, name in fastest.items()
        ]
        lines.append(f"- {what}: {', '.join(ratios)}, against {peer}")
    return "Our fastest over the fastest peer:\n\n" + "\n".join(lines)


def ceiling() -> str:
    """How much of the rate of the products alone a whole ``encode`` reaches, and what the rest is."""
    found = result("ceiling.json")
    head = [
        "runtime",
        "precision",
        "products alone",
        "short",
        "long",
        "of the arithmetic peak, short",
        "the graph's time, short",
    ]
    rows = []
    for row in found["rows"]:
        peak, done = row["peak_operations_per_second"], row["operations_per_second"]
        profile = [f"{kind} {share(part)}" for kind, part in row["profile_short"].items()]
        rows.append(
            [
                row["runtime"],
                row["precision"],
                f"{done['products'] / 1e9:,.0f} Gop/s",
                share(row["share_short"]),
                share(row["share_long"]),
                share(done["short"] / peak if peak else None),
                ", ".join(profile[:4]),
            ]
        )
    return plain_table(head, rows)


REGIONS = {
    ROOT / "README.md": {
        "grid": grid,
        "trained": trained,
        "agreement": agreement,
        "speed": speed,
        "cost": cost,
        "open_exits": open_exits,
        "stream": stream,
    },
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
                f"{path.relative_to(ROOT)} differs from benchmarks/results: run python benchmarks/render.py"
            )


if __name__ == "__main__":
    main()
