"""Tables of the runtimes on a GPU (``benchmarks.gpu``)."""

import json
from collections.abc import Sequence
from typing import Any

from benchmarks.common import RESULTS
from benchmarks.tables import bold_if_ours, times
from m2d_export.report.formatting import milliseconds, plain_table, rate, share

GPU_PACKAGES = (
    *("torch", "onnxruntime-gpu", "tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-rtx-cu13-bindings"),
    "cuda-bindings",
)


def gpu() -> str:
    """Every system on a GPU: latency of the smallest batch, throughput of the largest batch, and the aims."""
    path = RESULTS / "gpu.json"
    if not path.exists():
        return (
            "**There is no results file of a GPU yet.** On a machine with a GPU, "
            "`python -m benchmarks.gpu -o benchmarks/results/gpu.json` writes one."
        )
    return gpu_tables(json.loads(path.read_text(encoding="utf-8")))


def gpu_tables(found: dict[str, Any]) -> str:
    """The same for a result of ``benchmarks.gpu``."""
    card, versions = found["card"], found["machine"]["versions"]
    named = {name: version for name, version in versions.items() if name in GPU_PACKAGES} | found["baselines"]
    packages = ", ".join(f"{name} {version}" for name, version in named.items())
    where = f"{card['name']}" + (f", driver {card['driver']}, CUDA {card['cuda']}" if "driver" in card else "")
    run = f"{found['precision']}, medians of {found['rounds']} rounds; the file has all shapes."
    parts = [f"{run} {where}; {packages}."]
    for result in found["encoders"]:
        shapes = [(row["batch_size"], row["tokens"]) for row in result["rows"]]
        first, last = min(shapes), max(shapes)
        by_place = {(row["system"], row["batch_size"], row["tokens"]): row for row in result["rows"]}
        header = [
            "system",
            *(f"{first[0]} x {first[1]} tokens, {percent}" for percent in ("p50", "p99")),
            *(f"{last[0]} x {last[1]}, {what}" for what in ("sentences/s", "tokens/s", "of the measured peak")),
        ]
        rows = []
        for name in dict.fromkeys(row["system"] for row in result["rows"]):
            if not ((name, *first) in by_place and (name, *last) in by_place):
                continue  # it failed at one of them, and is listed below
            small, large = by_place[name, *first], by_place[name, *last]
            cells = [milliseconds(small["p50_ms"]), milliseconds(small["p99_ms"])]
            cells += [rate(large["sentences_per_second"]), rate(large["tokens_per_second"])]
            rows.append([bold_if_ours(name), *cells, share(large["share_of_peak"])])
        weights = " of random weights" if result["weights"] == "random" else ""
        parts.append(f"{result['encoder'].removesuffix(weights)}{weights}, layer {result['layer']}:")
        parts.append(plain_table(header, rows))
        parts.append(" ".join(map(_aimed, result["aims"])))
        if result["mixed"]:
            parts.append(_mixed(result["mixed"]))
        if result["absent"]:
            lacking = "; ".join(f"{name} ({reason})" for name, reason in result["absent"].items())
            parts.append(f"Not measured: {lacking}.")
    return "\n\n".join(parts)


def _mixed(found: Sequence[dict[str, Any]]) -> str:
    """Systems with texts of mixed lengths, in both orders."""
    filled = {row["order"]: row["filled"] for row in found}
    columns = ("sentences/s", "real tokens/s", "of the measured peak")
    header = ["system, mixed lengths", *(f"{order}, {what}" for order in filled for what in columns)]
    rows: dict[str, list[str]] = {}
    for row in found:
        cells = [rate(row["sentences_per_second"]), rate(row["tokens_per_second"]), share(row["share_of_peak"])]
        rows.setdefault(bold_if_ours(row["system"]), []).extend(cells)
    padding = ", ".join(f"{share(1 - part)} padding {order}" for order, part in filled.items())
    whole = [[name, *cells] for name, cells in rows.items() if len(cells) == len(header) - 1]
    return f"{plain_table(header, whole)}\n\nBatches hold {padding}."


def _aimed(aim: dict[str, Any]) -> str:
    what = f"{aim['aim']:g}x {aim['over']}"
    if aim["least"] is None:
        return f"Aim: {what}; not measured."
    at = ", ".join(f"{times(ratio)} at {shape}" for shape, ratio in aim["ratios"].items())
    return f"Aim: {what}; found {at}: {'met' if aim['least'] >= aim['aim'] else 'not met'}."
