"""Tables of the comparison with peers (``benchmarks.peers``)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.common import middle_half
from benchmarks.tables import EXIT, bold_if_ours, result, times
from m2d_export.report.formatting import MISSING, milliseconds, plain_table, rate, score

OURS, STATIC = "m2d-export", "model2vec"  # environments; STATIC is no encoder, and scores much less
AT_EXIT = f"at exit {EXIT}"
WORKLOADS = {"short": "short texts", "long": "long texts", "single": "one text"}
Rows = dict[str, dict[str, Any]]


def measure(workload: str) -> str:
    """The field of a system that holds its median of a workload."""
    return "single_p50_ms" if workload == "single" else f"{workload}_per_second"


@dataclass(frozen=True)
class Fastest:
    """The fastest systems of a workload: a peer that is an encoder, ours at full depth, ours at exit 3.

    ``exit`` is empty if no system at exit 3 was measured.
    """

    workload: str
    rows: Rows
    peer: str
    full: str
    exit: str

    def ratio(self, name: str) -> float:
        """How many times the peer's throughput; for one text, how many times its time."""
        field = measure(self.workload)
        return float(self.rows[name][field] / self.rows[self.peer][field])

    def paired(self, name: str) -> float:
        """The median of the same ratio in each round."""
        own, peer = (self.rows[each]["seconds"][self.workload] for each in (name, self.peer))
        return float(np.median(np.divide(own, peer) if self.workload == "single" else np.divide(peer, own)))

    def quartiles(self, name: str, texts: int) -> str:
        """The middle half of a system's rounds."""
        low, high = middle_half(self.rows[name]["seconds"][self.workload])
        if self.workload == "single":
            return f"{1000 * low:.2f}–{1000 * high:.2f} ms"
        return f"{rate(texts / high)}–{rate(texts / low)}/s"

    def value(self, name: str) -> str:
        """A system's median."""
        found = self.rows[name][measure(self.workload)]
        return milliseconds(found) if self.workload == "single" else f"{rate(found)}/s"


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
    return Fastest(workload, rows, *(best(names, key=lambda name: rows[name][field], default="") for names in kinds))


def comparison(found: dict[str, Any]) -> str:
    """The fastest peer and our fastest systems, for each workload."""
    rows = []
    for workload, title in WORKLOADS.items():
        best = fastest(found, workload)
        for name in filter(None, (best.peer, best.full, best.exit)):
            paired = MISSING if name == best.peer else times(best.paired(name))
            quartiles = best.quartiles(name, found["texts"][workload])
            rows.append([title, bold_if_ours(name), best.value(name), quartiles, times(best.ratio(name)), paired])
    header = ["workload", "fastest system", "median", "middle half of the rounds", "median / the peer's", "paired"]
    return plain_table(header, rows)


def processor(found: dict[str, Any]) -> str:
    """The processor that the systems ran on."""
    machine = found["machine"]
    return f"{machine['cores']} cores of {machine['cpu'].partition(' (')[0]} ({', '.join(found['cpu_flags'])})"


def peers(file: str = "peers.json") -> str:
    """The fastest systems; then every system: score, throughput on short and on long texts, latency of one text."""
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
    turns = len(next(iter(found["systems"].values()))["seconds"]["single"])
    texts = found["texts"]
    run = (
        f"Short texts are {texts['short']:,} sentences of STS-B test. Long texts are {texts['long']} paragraphs of ten "
        f"of these sentences. For one text, {texts['single']} sentences are encoded one at a time, in {turns} turns. "
        f"All values are medians of {found['rounds']} rounds in one run, on {found['threads']} threads."
    )
    lacking = "; ".join(f"{name} ({reason})" for name, reason in found["not_run"].items())
    notes = [run, *([f"Not run: {lacking}."] if lacking else [])]
    return "\n\n".join([f"Processor: {processor(found)}.", comparison(found), plain_table(header, rows), *notes])
