"""What ``select`` chose, as a table for a terminal, and the command that encodes with it."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.table import Table

from m2d_export.bench.values import Candidate
from m2d_export.report.columns import BY_KEY, text_of
from m2d_export.report.formatting import gigabytes, score, share
from m2d_export.report.results import setup_labels
from m2d_export.report.terminal_table import terminal_table
from m2d_export.runtimes.table import RUNTIMES
from m2d_export.select.rule import Choice, Verdict
from m2d_export.select.tasks import TASKS
from m2d_export.spec import Precision


def choice_table(choice: Choice, candidates: Sequence[Candidate]) -> Table:
    """The pick and the next candidates, each with the reason.

    A row names its setup if ``candidates`` have several, and the size of its index if the budgets limit that.
    """
    labels = setup_labels(list(dict.fromkeys(candidate.setup for candidate in candidates)))
    budgets, quality = choice.budgets, f"{choice.task} as {choice.stored_as}" if choice.stored_as else str(choice.task)
    if choice.index_cell:
        quality = BY_KEY[TASKS[choice.task].quality].title
    columns: dict[str, Callable[[Verdict], str]] = {"cell": lambda row: str(row.candidate.cell)}
    if len(labels) > 1:
        columns["setup"] = lambda row: labels[row.candidate.setup]
    columns[quality] = lambda row: score(row.worth.quality)
    columns["share" if choice.index_cell else "retention"] = lambda row: share(row.worth.retention)
    columns["p50"] = lambda row: text_of("latency_ms", row.candidate)
    columns["sentences/s"] = lambda row: text_of("sentences_per_second", row.candidate)
    if budgets.max_index_gb is not None:
        columns["index"] = lambda row: gigabytes(row.candidate.index_gb(budgets.vectors or 0, budgets.bytes_per_number))
    columns["why"] = lambda row: row.reason
    picked = [Verdict(choice.picked, choice.worth, (), "picked")] if choice.picked and choice.worth else []
    table = terminal_table(columns, [*picked, *choice.runners_up])
    if picked:
        table.rows[0].style = "bold"
    return table


def run_command(picked: Candidate, bundle: Path, cores: int, prompt: str | None = None) -> str:
    """The command that encodes with a cell in its measured setup, on a machine with ``cores`` cores.

    ``prompt`` names the prompt of the texts; None is the checkpoint's default.
    """
    words = ["m2d-export", "encode", str(bundle), "texts.txt", "--cell", str(picked.cell)]
    setup = picked.setup
    if setup.runtime != "onnxrt":
        words += ["--runtime", setup.runtime]
    if setup.precision != Precision.FP32:
        words += ["--precision", setup.precision]
    if setup.compute != RUNTIMES[setup.runtime].default_compute(setup.precision):
        words += ["--compute", setup.compute]
    if setup.threads not in (None, cores):
        words += ["--threads", str(setup.threads)]
    if prompt is not None:
        words += ["--prompt-name", prompt]
    return shlex.join([*words, "-o", "vectors.npy"])
