"""What ``select`` chose, on a terminal, and the command that runs it."""

import shlex
from pathlib import Path

from rich.table import Table

from m2d_export.bench.quantities import Candidate
from m2d_export.select import Choice, quality
from m2d_export.spec import Precision


def choice_table(choice: Choice) -> Table:
    """The cell that was picked, and those behind it, each with what speaks against it."""
    table = Table()
    for name in ("cell", str(choice.task), "retention", "p50 ms", "sentences/s", "why"):
        table.add_column(name, justify="left" if name == "why" else "right", overflow="fold")
    rows = [(choice.picked, "picked")] if choice.picked else []
    for candidate, reason in [*rows, *((verdict.candidate, verdict.reason) for verdict in choice.runners_up)]:
        table.add_row(
            str(candidate.cell),
            _number(quality(candidate, choice.task), ".1f"),
            _number(candidate.retention, ".3f"),
            _number(candidate.latency_ms, ".2f"),
            _number(candidate.sentences_per_second, ",.0f"),
            reason,
            style="bold" if reason == "picked" else "",
        )
    return table


def deploying(picked: Candidate, bundle: Path, cores: int) -> str:
    """The command that encodes with a cell in the setup it was measured in, on a machine of so many ``cores``."""
    words = ["m2d-export", "encode", str(bundle), "texts.txt"]
    words += ["--layer", str(picked.cell.layer), "--dim", str(picked.cell.dim)]
    if picked.runtime != "onnxrt":
        words += ["--runtime", picked.runtime]
    if picked.precision != Precision.FP32:
        words += ["--precision", picked.precision]
    if picked.setup.threads not in (None, cores):
        words += ["--threads", str(picked.setup.threads)]
    return shlex.join([*words, "-o", "vectors.npy"])


def _number(value: float | None, form: str) -> str:
    return "n/a" if value is None else format(value, form)
