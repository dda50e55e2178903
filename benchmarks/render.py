"""Put the figures of results/ into the README, between its markers; with --check, fail if they differ.

python benchmarks/render.py [--check]
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def records(name: str) -> list[dict[str, Any]]:
    """The records of a JSON-lines results file."""
    return [json.loads(line) for line in (RESULTS / name).read_text(encoding="utf-8").splitlines()]


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
    rows = records("minilm_stsb.jsonl")
    scores = {(row["layer"], row["dim"]): row["spearman"] for row in rows if row["kind"] == "score"}
    single = {
        row["layer"]: row for row in rows if row["kind"] == "latency" and (row["batch_size"], row["tokens"]) == (1, 16)
    }
    bulk = {
        row["layer"]: row for row in rows if row["kind"] == "latency" and (row["batch_size"], row["tokens"]) == (32, 16)
    }
    dims = sorted({dim for _, dim in scores}, reverse=True)
    lines = [
        f"| layer | {' | '.join(f'{dim} dims' for dim in dims)} | one text, p50 | in batches of 32 |",
        "|---" * (len(dims) + 3) + "|",
    ]
    for layer in sorted(single, reverse=True):
        cells = " | ".join(f"{scores[layer, dim]:.1f}" for dim in dims)
        speed = f"{single[layer]['p50_ms']:.1f} ms | {bulk[layer]['sentences_per_second']:,.0f} sentences/s"
        lines.append(f"| {layer} | {cells} | {speed} |")
    return "\n".join([*lines, "", f"Graph alone, fp32, 16 tokens a text; {on(rows[0]['machine'])}."])


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


def rendered(text: str) -> str:
    """``text`` with every marked region filled in anew."""
    for name, region in (("grid", grid), ("speed", speed), ("cost", cost)):
        pattern = re.compile(rf"(<!-- {name}: .*? -->\n).*?(\n<!-- /{name} -->)", re.S)
        if not pattern.search(text):
            raise SystemExit(f"README.md has no region {name}")
        filled = region()
        text = pattern.sub(lambda found, filled=filled: found[1] + filled + found[2], text)
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
