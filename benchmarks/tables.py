"""What a run costs, in tables: exits open at once, streams, peers, the machine's limit, a server, C++."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from m2d_export.report.formatting import milliseconds, plain_table, rate, score, share

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = "sentence-transformers torch fp32"
RUNTIME_NAMES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}


def result(name: str) -> dict[str, Any]:
    """A results file of one JSON object."""
    loaded: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))
    return loaded


def bold_if_ours(name: str) -> str:
    """The name of a system, in bold where it is one of ours."""
    return f"**{name}**" if name.startswith("m2d-export") else name


def on(machine: dict[str, Any]) -> str:
    """The machine and versions of a result, in words."""
    versions = machine["versions"]
    return (
        f"{machine['cores']} cores of {machine['cpu']}, Python {machine['python']}, "
        f"onnxruntime {versions['onnxruntime']}, torch {versions['torch']}"
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


def peers(file: str = "peers.json") -> str:
    """Every peer beside us: score, throughput on short and long texts, latency of one text."""
    found = result(file)
    ordered = sorted(found["systems"].items(), key=lambda item: -item[1]["short_per_second"])
    head = ["system", "weights", "STS-B", "short, sentences/s", "long, paragraphs/s", "one text, p50"]
    rows = [
        [
            bold_if_ours(name),
            row["weights"] + (", computes in bf16" if "bf16" in row["computes"] and "in bf16" not in name else ""),
            score(row["score"]),
            rate(row["short_per_second"]),
            rate(row["long_per_second"]),
            milliseconds(row["single_p50_ms"]),
        ]
        for name, row in ordered
    ]
    lacking = [f"{name} ({reason})" for name, reason in found["not_run"].items()]
    turns = len(ordered[0][1]["seconds"]["single"])
    run = (
        f"Medians of {found['rounds']} rounds in one run, systems taking turns on {found['threads']} threads: "
        f"{found['texts']['short']:,} sentences of STS-B test, {found['texts']['long']} paragraphs of ten of them, "
        f"{found['texts']['single']} sentences one at a time, in {turns} turns. {found['machine']['cores']} cores of "
        f"{found['machine']['cpu'].partition(' (')[0]} ({', '.join(found['cpu_flags'])})."
    )
    notes = [run, *([f"Not run: {', '.join(lacking)}."] if lacking else [])]
    return "\n\n".join([plain_table(head, rows), against_the_best(found), " ".join(notes)])


def against_the_best(found: dict[str, Any]) -> str:
    """Our fastest system at full depth, and at exit 3, over the fastest peer that is an encoder."""
    systems: dict[str, Any] = found["systems"]
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
        workload = quantity.split("_")[0]
        seconds = [systems[name]["seconds"][workload] for name in (fastest["full depth"], peer)]
        own, other = (middle_half(turns, found["texts"][workload], workload == "single") for turns in seconds)
        beside = np.divide(*seconds) if workload == "single" else np.divide(*reversed(seconds))
        lines.append(
            f"- {what}: {', '.join(ratios)}, against {peer}; the middle half of turns is {own} at full depth, "
            f"{other} the peer's, and the median of each turn over the peer's beside it {np.median(beside):.2f} x"
        )
    int8, peers_int8 = ([systems[name] for name in kinds[kind] if "int8" in name] for kind in ("full depth", "peer"))
    furthest = max(abs(row["score"] - systems[REFERENCE]["score"]) for row in int8)
    least = min(row["least_cosine_to_torch_fp32"]["short"] for row in int8)
    peers_least = [row["least_cosine_to_torch_fp32"]["short"] for row in peers_int8]
    lines.append(
        f"- our int8 at full depth is within {furthest:.2f} points of torch in fp32 on STS-B; the sentence furthest off"
        f" has a cosine of {least:.3f} to it (in the peers' int8 of {min(peers_least):.3f} to {max(peers_least):.3f})"
    )
    return "Our fastest over the fastest peer:\n\n" + "\n".join(lines)


def middle_half(seconds: Sequence[float], texts: int, single: bool) -> str:
    """What the middle half of a system's turns gave: sentences a second, or the time of one."""
    low, high = (float(np.quantile(seconds, part)) for part in (0.25, 0.75))
    if single:
        return f"{low * 1000:.2f} to {high * 1000:.2f} ms"
    return f"{rate(texts / high)} to {rate(texts / low)}/s"


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
    notes = (
        "The arithmetic peak is that of two vector units at the clock that the system states, which the processor may "
        f"exceed. {on(found['machine'])}."
    )
    return f"{plain_table(head, rows)}\n\n{notes}"


def settings() -> str:
    """What each setting of an ONNX Runtime session is worth."""
    found = result("session_settings.json")
    shapes = list(next(iter(found["milliseconds"]["fp32"].values())))
    rows = [
        [
            change,
            *(
                milliseconds(found["milliseconds"][precision][change][shape])
                for precision in found["milliseconds"]
                for shape in shapes
            ),
        ]
        for change in found["milliseconds"]["fp32"]
    ]
    head = ["setting", *(f"{precision}, {shape}" for precision in found["milliseconds"] for shape in shapes)]
    notes = f"Texts x tokens of a call; where there are many batches, each has one thread. {on(found['machine'])}."
    return f"{plain_table(head, rows)}\n\n{notes}"


def triton() -> str:
    """The server under load, beside the encoder in a process of its own."""
    found = result("triton.json")
    head = ["precision", "merged", "one by one", "mean batch", "p50", "p99", "failed", "of the encoder", "least cosine"]
    rows = [
        [
            precision,
            f"{rate(row['merged']['per_second'])}/s",
            f"{rate(row['single']['per_second'])}/s ({row['merged_over_single']:.2f} x)",
            f"{row['merged']['mean_batch']:.1f}",
            milliseconds(row["merged"]["p50_ms"]),
            milliseconds(row["merged"]["p99_ms"]),
            str(sum(sum(row[kind]["failed"].values()) for kind in ("merged", "single"))),
            share(row["share_of_encoder"]),
            f"{row['least_cosine_to_encoder']:.6f}",
        ]
        for precision, row in found["precisions"].items()
    ]
    notes = (
        f"Cell {found['cell']} of all-MiniLM-L6-v2, {found['clients']} clients with one sentence a request over gRPC, "
        f"{found['rounds']} x {found['seconds']:.0f} s each, on the server's own cores; {on(found['machine'])}."
    )
    graphs = [
        f"{row['graph_written_seconds']:.2f} s in {precision} (and comparing it with `Encoder` "
        f"{row['graph_compared_seconds']:.2f} s)"
        for precision, row in found["precisions"].items()
    ]
    notes += f" Writing the cell's graph takes {', '.join(graphs)}."
    return f"{plain_table(head, rows)}\n\n{notes}"


def cpp() -> str:
    """C++ beside Python, in the same runtime."""
    found = result("cpp.json")
    head = [
        "runtime",
        "precision",
        "C++, sentences/s",
        "Python, sentences/s",
        "rate",
        "C++, one text, p50",
        "Python, one text, p50",
        "time",
    ]
    rows = [
        [
            RUNTIME_NAMES[runtime],
            precision,
            *(rate(row["per_second"][who]) for who in ("cpp", "python")),
            f"{row['bulk_over_python']:.2f} x",
            *(milliseconds(row["single_p50_ms"][who]) for who in ("cpp", "python")),
            f"{row['single_over_python']:.2f} x",
        ]
        for runtime, rows in found["runtimes"].items()
        for precision, row in rows.items()
    ]
    openvino = found["machine"]["versions"]["openvino"]
    notes = (
        f"all-MiniLM-L6-v2 at full depth, {found['texts']:,} sentences; OpenVINO {openvino}, {on(found['machine'])}."
    )
    return f"{plain_table(head, rows)}\n\n{notes}"
