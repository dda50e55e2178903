"""The list of result columns: everything that shows a cell is made from it."""

from dataclasses import fields
from pathlib import Path

from m2d_export.bench.metrics import candidates
from m2d_export.bench.values import Candidate
from m2d_export.report.columns import BY_KEY, COLUMNS, PARTS, text_of, values_of
from m2d_export.report.formatting import WRITERS, plain_table
from m2d_export.select.tasks import TASKS
from tests.support.made_up import sweep

DOCS = Path(__file__).parents[2] / "docs" / "results-format.md"


def test_every_value_of_a_candidate_is_in_the_list() -> None:
    shown = {key for column in COLUMNS for key in (column.key, column.interval, column.mark) if key}
    own = {field.name for field in fields(Candidate)} - {"cell", "setup", "full", "trained_layer", "trained_dim"}
    assert own == shown - {"bytes_per_vector"}


def test_a_column_names_a_writer_and_other_columns_that_exist() -> None:
    assert {column.write for column in COLUMNS} <= WRITERS.keys()
    assert {column.extra for column in COLUMNS if column.extra} <= BY_KEY.keys()
    assert {key for spec in TASKS.values() for key in (spec.quality, spec.retention)} <= BY_KEY.keys()


def test_a_value_is_written_with_its_interval_and_its_mark() -> None:
    cell = next(cell for cell in candidates(sweep()) if cell.noisy)
    assert cell.interval is not None
    assert text_of("score", cell) == f"{cell.score:.1f} [{cell.interval[0]:.1f}, {cell.interval[1]:.1f}]"
    assert text_of("latency_ms", cell) == f"{cell.latency_ms:.2f} ms noisy"
    assert values_of(cell, "texts").keys() == {"agreement", "overlap_at_10", "agreement_retention"}


def as_markdown() -> str:
    """The table of columns in docs/results-format.md."""
    written = {"sts": "set of pairs", "times": "shape"}
    named = {note: written.get(part, part) for note, part in PARTS.items()}
    rows = [[c.title, f"`{c.key}`", c.source, named.get(c.note, ""), c.shown] for c in COLUMNS if c.shown != "data"]
    return plain_table(["column", "in `select --json`", "from", "for each", "shown in"], rows)


def test_the_format_page_has_the_table_of_columns() -> None:
    assert as_markdown() in DOCS.read_text(encoding="utf-8"), f"write this into {DOCS}:\n\n{as_markdown()}"
