"""Tables of the comparison with peers (``benchmarks.peers``)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.common import middle_half
from benchmarks.tables import EXIT, bold_if_ours, result, times
from m2d_export.report.formatting import MISSING, milliseconds, plain_table, rate, score

OURS, STATIC = "m2d-export", "model2vec"  # environments; static vectors are no encoder, and score 16 points less
AT_EXIT = f"at exit {EXIT}"
WORKLOADS = {"short": "short texts", "long": "long texts", "single": "one text"}
Rows = dict[str, dict[str, Any]]


def measure(workload: str) -> str:
    """The field of a system that holds its median of a workload."""
    return "single_p50_ms" if workload == "single" else f"{workload}_per_second"


@dataclass(frozen=True)
class Fastest:
    """The fastest systems of a workload: a peer that is an encoder, ours at full depth, ours at exit 3."""

    workload: str
    rows: Rows
    peer: str
    full: str
    exit: str

    def ratio(self, name: str) -> float:
        """How many times the peer's throughput; for one text, how many times its time."""
        field = measure(self.workload)
        return float(self.rows[name][field] / self.rows[self.peer][field])

    def paired(self) -> float:
        """The same at full depth, as the median of the ratios of turns that stand beside each other."""
        own, peer = (self.rows[name]["seconds"][self.workload] for name in (self.full, self.peer))
        return float(np.median(np.divide(own, peer) if self.workload == "single" else np.divide(peer, own)))

    def quartiles(self, name: str, texts: int) -> str:
        """The middle half of a system's turns."""
        low, high = middle_half(self.rows[name]["seconds"][self.workload])
        if self.workload == "single":
            return f"{1000 * low:.2f}–{1000 * high:.2f} ms"
        return f"{rate(texts / high)}–{rate(texts / low)}/s"


def is_peer(row: dict[str, Any]) -> bool:
    """Whether a system is an encoder of another package."""
    return row["environment"] not in (OURS, STATIC)


def fastest(found: dict[str, Any], workload: str) -> Fastest:
    """The fastest system of each kind."""
    rows: Rows = found["systems"]
    field, best = measure(workload), min if workload == "single" else max
    ours = [name for name, row in rows.items() if row["environment"] == OURS]
    kinds = (
        [name for name, row in rows.items() if is_peer(row)],
        [name for name in ours if AT_EXIT not in name],
        [name for name in ours if AT_EXIT in name],
    )
    return Fastest(workload, rows, *(best(names, key=lambda name: rows[name][field]) for names in kinds))


def fact(found: dict[str, Any], workload: str) -> str:
    """Our fastest systems compared with the fastest peer."""
    best, texts = fastest(found, workload), found["texts"][workload]
    names = {kind: getattr(best, kind).removeprefix("m2d-export ") for kind in ("full", "exit")}
    unit = "time" if workload == "single" else "rate"
    return (
        f"- {WORKLOADS[workload].capitalize()}: the fastest peer is {best.peer}. At full depth, {names['full']} has "
        f"{times(best.ratio(best.full))} its {unit} (paired median {times(best.paired())}; IQR "
        f"{best.quartiles(best.full, texts)} against {best.quartiles(best.peer, texts)}). "
        f"At exit {EXIT}, {names['exit'].removesuffix(f' {AT_EXIT}')} has {times(best.ratio(best.exit))}."
    )


def processor(found: dict[str, Any]) -> str:
    """The processor that the systems ran on."""
    machine = found["machine"]
    return f"{machine['cores']} cores of {machine['cpu'].partition(' (')[0]} ({', '.join(found['cpu_flags'])})"


def peers(file: str = "peers.json") -> str:
    """Every system: score, throughput on short and on long texts, latency of one text."""
    found = result(file)
    header = [
        *("system", "weights", "STS-B", "least cosine", "short, sentences/s", "long, paragraphs/s", "one text, p50"),
    ]
    rows = []
    for name, row in sorted(found["systems"].items(), key=lambda item: -item[1]["short_per_second"]):
        in_bf16 = "bf16" in row["computes"] and "in bf16" not in name
        cosine = row["least_cosine_to_torch_fp32"].get("short")
        rows.append(
            [
                bold_if_ours(name),
                row["weights"] + (", computes in bf16" if in_bf16 else ""),
                score(row["score"]),
                MISSING if cosine is None else f"{cosine:.3f}",
                rate(row["short_per_second"]),
                rate(row["long_per_second"]),
                milliseconds(row["single_p50_ms"]),
            ]
        )
    facts = "\n".join(fact(found, workload) for workload in WORKLOADS)
    turns = len(next(iter(found["systems"].values()))["seconds"]["single"])
    run = (
        f"Medians of {found['rounds']} rounds in one run on {found['threads']} threads: {found['texts']['short']:,} "
        f"sentences of STS-B test, {found['texts']['long']} paragraphs of ten of these, {found['texts']['single']} "
        f"sentences one at a time in {turns} turns. The least cosine is the smallest "
        "between a sentence's vector and its vector by torch in fp32."
    )
    lacking = "; ".join(f"{name} ({reason})" for name, reason in found["not_run"].items())
    notes = [run, *([f"Not run: {lacking}."] if lacking else [])]
    return "\n\n".join([f"Processor: {processor(found)}.", plain_table(header, rows), facts, " ".join(notes)])
