"""What ``select`` chose, on a terminal, and the command that runs it."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.table import Table

from m2d_export.bench.quantities import Candidate
from m2d_export.report.summary import setup_labels
from m2d_export.select.rule import Choice, Worth
from m2d_export.spec import RUNTIMES, Precision

Row = tuple[Candidate, Worth, str]


def choice_table(choice: Choice, candidates: Sequence[Candidate]) -> Table:
    """The cell that was picked, and those behind it, each with what speaks against it.

    Where ``candidates`` ran in several setups each row names its own, and under a budget for the index its size.
    """
    names = setup_labels(list(dict.fromkeys(candidate.setup for candidate in candidates)))
    budgets, quality = choice.budgets, f"{choice.task} as {choice.stored_as}" if choice.stored_as else str(choice.task)
    columns: dict[str, Callable[[Row], str]] = {"cell": lambda row: str(row[0].cell)}
    if len(names) > 1:
        columns["variant"] = lambda row: names[row[0].setup]
    columns[quality] = lambda row: _number(row[1].quality, ".1f")
    columns["retention"] = lambda row: _number(row[1].retention, ".3f")
    columns["p50 ms"] = lambda row: _number(row[0].latency_ms, ".2f")
    columns["sentences/s"] = lambda row: _number(row[0].sentences_per_second, ",.0f")
    if budgets.max_index_gb is not None:
        columns["index GB"] = lambda row: _number(row[0].index_gb(budgets.vectors or 0, budgets.index_bytes), ".3g")
    columns["why"] = lambda row: row[2]
    table = Table()
    for name in columns:
        table.add_column(name, justify="left" if name in ("why", "variant") else "right", overflow="fold")
    rows: list[Row] = [(choice.picked, choice.worth, "picked")] if choice.picked and choice.worth else []
    rows += [(verdict.candidate, verdict.worth, verdict.reason) for verdict in choice.runners_up]
    for row in rows:
        style = "bold" if row[0] is choice.picked else ""
        table.add_row(*(write(row) for write in columns.values()), style=style)
    return table


def deploying(picked: Candidate, bundle: Path, cores: int) -> str:
    """The command that encodes with a cell in the setup it was measured in, on a machine of so many ``cores``."""
    words = ["m2d-export", "encode", str(bundle), "texts.txt"]
    words += ["--layer", str(picked.cell.layer), "--dim", str(picked.cell.dim)]
    if picked.runtime != "onnxrt":
        words += ["--runtime", picked.runtime]
    if picked.precision != Precision.FP32:
        words += ["--precision", picked.precision]
    if picked.compute != RUNTIMES[picked.runtime].compute(picked.precision):
        words += ["--compute", picked.compute]
    if picked.setup.threads not in (None, cores):
        words += ["--threads", str(picked.setup.threads)]
    return shlex.join([*words, "-o", "vectors.npy"])


def _number(value: float | None, form: str) -> str:
    return "n/a" if value is None else format(value, form)
