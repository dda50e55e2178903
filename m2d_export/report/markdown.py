"""A short version of the report in Markdown, for a README or an issue: picks, grid, all cells, pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

from m2d_export.bench.records import Group
from m2d_export.errors import DataError
from m2d_export.host.templates import markdown_text
from m2d_export.report.columns import BY_KEY, TABLE, measured_on, text_of
from m2d_export.report.formatting import MISSING, axis_names, share, table
from m2d_export.report.heat_map import brief_text
from m2d_export.report.pareto import front
from m2d_export.report.results import Results
from m2d_export.report.search import search_table
from m2d_export.report.sections import SECTIONS, omitted
from m2d_export.report.summary import commands, facts, failures, group_name, lead, mixed
from m2d_export.select.budgets import Budgets
from m2d_export.select.rule import select
from m2d_export.spec import Cell

RETENTIONS = (0.99, 0.97, 0.95, 0.9)
PICK_COLUMNS = ("score", "retention", "latency_ms", "sentences_per_second")
STAR = "\n\\* a layer or dim that was not trained.\n"


def document(groups: Sequence[Group], pictures: Sequence[Mapping[str, str]]) -> str:
    """The text of report.md; for each of ``groups``, ``pictures`` has the file of each picture by its name."""
    note = mixed(groups)
    parts = ["# Which cell to ship\n"] + ([f"{note}\n"] if note else [])
    for group, own in zip(groups, pictures, strict=True):
        plain = Results.of(Group(markdown_text(group.bundle), tuple(map(_plain, group.records))))
        parts += [f"# {group_name(plain.group)}\n"] if note else []
        parts += [lead(plain) + "\n", *_sections(plain, own)]
    return "\n".join(
        [*parts, "---\n\n`index.html` in this folder has everything, with charts that show values under the mouse.\n"]
    )


def _plain(value: Any) -> Any:
    """A record with all its texts escaped for Markdown, because users choose some of them."""
    if isinstance(value, dict):
        return {markdown_text(key): _plain(item) if key != "command" else item for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return markdown_text(value) if isinstance(value, str) else value


def _sections(results: Results, pictures: Mapping[str, str]) -> list[str]:
    texts = {
        "pick": _picks(results),
        "grid": _grids(results),
        "search": _search(results),
        "cells": _all_cells(results),
        "how": _how(results),
    }
    parts = []
    for section in SECTIONS:
        images = "".join(f"![{name}]({pictures[name]})\n" for name in section.pictures if name in pictures)
        content = [part for part in (images, texts.get(section.key, "")) if part]
        parts += [f"## {section.title}\n", *content] if content else []
    return parts


def _picks(results: Results) -> str:
    """The picks of ``select`` for several retentions, with the warnings of each."""
    rows = []
    warnings: dict[str, list[str]] = {}
    for floor in RETENTIONS:
        try:
            choice = select(results.cells, Budgets(min_retention=floor), view=results.view)
        except DataError:  # no retention was measured
            return ""
        for warning in choice.warnings:
            warnings.setdefault(warning, []).append(share(floor))
        cell = choice.picked
        values = [text_of(key, cell) for key in PICK_COLUMNS] if cell else [MISSING] * len(PICK_COLUMNS)
        rows.append(
            [share(floor), *([str(cell.cell), results.labels[cell.setup]] if cell else ["none", MISSING]), *values]
        )
    header = ["retention at least", "cell", "setup", *(BY_KEY[key].title for key in PICK_COLUMNS)]
    notes = f"\nScores on {results.label}. " + (f"Times of {results.view.times}.\n" if results.view.times else "\n")
    lines = [f"- {warning} (at {', '.join(floors)})\n" for warning, floors in warnings.items()]
    return table(header, rows) + notes + "".join(["\n", *lines] if lines else [])


def _grids(results: Results) -> str:
    """Score and retention of every cell, a table for each setup."""
    parts, write = [], brief_text(BY_KEY["score"])
    for setup in dict.fromkeys(cell.setup for cell in results.cells):
        own = {cell.cell: cell for cell in results.cells if cell.setup == setup and cell.score is not None}
        if own:
            layers, dims = axis_names(own.values())
            rows = [
                [name, *(write(cell) if (cell := own.get(Cell(layer, dim))) else MISSING for dim in reversed(dims))]
                for layer, name in reversed(layers.items())
            ]
            star = STAR if any(not cell.trained for cell in own.values()) else ""
            title = f"{results.labels[setup]}: score (retention) on {results.label}\n\n"
            parts.append(title + table(["layer \\ dim", *reversed(dims.values())], rows) + star)
    return "\n".join(parts)


def _search(results: Results) -> str:
    """What each layer finds, compared with BM25."""
    found = search_table(results)
    return "" if found is None else f"{found.heading}\n\n{table(found.header, found.rows)}"


def _all_cells(results: Results) -> str:
    """Every cell with the columns of the page's table; a column without values is left out."""
    cells, best = results.cells, {id(cell) for cell in front(results.cells)}
    known = [column for column in TABLE if any(getattr(cell, column.key) is not None for cell in cells)]
    rows = [
        [
            f"{cell.cell}" + "*" * (not cell.trained) + " ◆" * (id(cell) in best),
            results.labels[cell.setup],
            *(text_of(column, cell) for column in known),
        ]
        for cell in cells
    ]
    if not rows:
        return ""
    names = measured_on(results.group.records, results.view)
    header = ["cell", "setup", *(f"{column.title} {column.note.format(**names)}".strip() for column in known)]
    star = STAR if any(not cell.trained for cell in cells) else ""
    return table(header, rows) + ("\n◆ on the Pareto front.\n" if best else "") + star


def _how(results: Results) -> str:
    group = results.group
    lines = [f"- {name}: {text}" for name, text in facts(group)]
    lines += ["", *("    " + "\n    ".join(command.splitlines()) for command in commands(group))]  # a block of code
    failed = failures(group)
    lines += ["", "Failed or interrupted:", "", *(f"- {line}" for line in failed)] if failed else []
    lines += ["", omitted(results)] if omitted(results) else []
    return "\n".join(lines) + "\n"
