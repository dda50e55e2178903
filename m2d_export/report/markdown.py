"""The report in Markdown: the same figures as on the page, through the default view, with pictures beside them."""

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Protocol

from m2d_export.bench.metrics import candidates, cascades, latencies, stored
from m2d_export.bench.quantities import Candidate, Setup, View
from m2d_export.bench.records import Group, Record
from m2d_export.bench.views import sts_labels, view_of
from m2d_export.report.cell_table import all_cells
from m2d_export.report.formatting import (
    MISSING,
    interval,
    milliseconds,
    names_of,
    rate,
    score,
    share,
    table,
    with_share,
)
from m2d_export.report.summary import (
    commands,
    facts,
    failures,
    group_name,
    lead,
    mixed,
    omitted,
    setup_labels,
    setups_of,
)
from m2d_export.select.pareto import front
from m2d_export.spec import Cell


class Chosen(Protocol):
    """What ``select`` decided, as far as the Markdown tells it."""

    @property
    def picked(self) -> Candidate | None:
        """The cell, None where nothing keeps as much."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to doubt about it."""
        ...


Pick = Callable[[Sequence[Candidate], float], Chosen]
RETENTIONS = (0.99, 0.97, 0.95, 0.9)


def document(groups: Sequence[Group], pictures: Sequence[Mapping[str, str]], pick: Pick | None) -> str:
    """The whole of report.md; ``pictures`` holds, for each group, the file name of each picture by its section."""
    told = mixed(groups)
    return Template(template("report.md")).substitute(
        mixed=f"{told}\n\n" if told else "",
        groups="\n".join(
            _group(group, names, pick, heading=f"# {group_name(group)}\n\n" if told else "")
            for group, names in zip(groups, pictures, strict=True)
        ),
    )


def _group(group: Group, pictures: Mapping[str, str], pick: Pick | None, heading: str) -> str:
    records, view = group.records, view_of(group.records)
    label = sts_labels(records).get(view.sts or "", "")
    cells = candidates(records, view)
    names = setup_labels(setups_of(records, cells))
    parts = [
        ("What to pick", _picks(cells, view, label, names, pick), None),
        ("Score", _grid(cells, label, names), "score"),
        ("Retention", "", "retention"),
        ("Score against throughput", _front(cells, view, label, names), "front"),
        ("Latency", _latency(records, names), "latency"),
        ("Cascade", _cascade(records, names), "cascade"),
        ("Index size", _storage(records, view, label, names), "storage"),
        ("All cells", all_cells(cells, view, label, names), None),
    ]
    lines = failures(group)
    return Template(template("group.md")).substitute(
        heading=heading,
        lead=lead(group, view, label),
        sections="\n".join(
            filter(None, (_section(title, text, pictures.get(key or "")) for title, text, key in parts))
        ),
        measured="\n".join(f"- {name}: {text}" for name, text in facts(group)),
        commands="\n".join(commands(group)),
        failures="".join(["Failed or interrupted:\n\n", *(f"- {line}\n" for line in lines), "\n"]) if lines else "",
        omitted=omitted(records, view),
    )


def _section(title: str, text: str, picture: str | None) -> str:
    if not text and not picture:
        return ""
    image = f"![{title}]({picture})\n" if picture else ""
    return "\n".join(part for part in (f"## {title}\n", image, text) if part)


def _picks(cells: Sequence[Candidate], view: View, label: str, names: Mapping[Setup, str], pick: Pick | None) -> str:
    if pick is None or not any(cell.retention is not None for cell in cells):
        return ""
    rows = []
    doubts: dict[str, list[str]] = {}
    for floor in RETENTIONS:
        choice = pick(cells, floor)
        found = choice.picked
        if found is None:
            rows.append([share(floor), "none", *[MISSING] * 5])
            continue
        for warning in choice.warnings:
            doubts.setdefault(warning, []).append(share(floor))
        scored = f"{score(found.score)} {interval(found.interval)}".strip()
        speed = (milliseconds(found.latency_ms), rate(found.sentences_per_second))
        rows.append([share(floor), str(found.cell), names[found.setup], scored, share(found.retention), *speed])
    header = ["retention at least", "cell", "variant", f"score on {label}", "retention", "p50", "sentences/s"]
    notes = [f"Times of {view.times}."] if view.times else []
    notes += [f"- {warning} (at {', '.join(floors)})" for warning, floors in doubts.items()]
    return table(header, rows) + "".join(f"\n{note}\n" for note in notes)


def _grid(cells: Sequence[Candidate], label: str, names: Mapping[Setup, str]) -> str:
    """Score and retention of every cell, a table for each setup."""
    parts = []
    for setup in dict.fromkeys(cell.setup for cell in cells):
        own = {cell.cell: cell for cell in cells if cell.setup == setup and cell.score is not None}
        if not own:
            continue
        layers, dims = names_of(own.values())
        rows = [
            [name, *(_both(own.get(Cell(layer, dim))) for dim in reversed(dims))]
            for layer, name in reversed(layers.items())
        ]
        marked = any("*" in name for name in (*dims.values(), *layers.values()))
        star = "\n\\* a layer or dim that was not trained.\n" if marked else ""
        title = f"{names[setup]}: score (retention) on {label}\n\n"
        parts.append(title + table(["layer \\ dim", *reversed(dims.values())], rows) + star)
    return "\n".join(parts)


def _both(cell: Candidate | None) -> str:
    return MISSING if cell is None else with_share(cell.score, cell.retention)


def _front(cells: Sequence[Candidate], view: View, label: str, names: Mapping[Setup, str]) -> str:
    best = front(cells)
    rows = [
        (
            *(str(c.cell), names[c.setup], score(c.score), interval(c.interval), share(c.retention)),
            *(milliseconds(c.latency_ms), rate(c.sentences_per_second)),
        )
        for c in best
    ]
    header = ["cell", "variant", f"score on {label}", "95 % interval", "retention", "p50", "sentences/s"]
    return f"The Pareto front, fastest first, {view.times}.\n\n{table(header, rows)}" if rows else ""


def _latency(records: Sequence[Record], names: Mapping[Setup, str]) -> str:
    rows = [
        (
            *(names[t.setup], str(t.layer), str(t.shape), milliseconds(t.p50_ms), milliseconds(t.p95_ms)),
            *(rate(t.sentences_per_second), "noisy" if t.noisy else ""),
        )
        for t in latencies(records)
    ]
    return table(["variant", "layer", "shape", "p50", "p95", "sentences/s", ""], rows) if rows else ""


def _cascade(records: Sequence[Record], names: Mapping[Setup, str]) -> str:
    rows = [
        [
            *(f"{c.cheap} → {c.deep}", names[c.setup], c.collection, f"{length:,}"),
            *(score(recall), milliseconds(cost), milliseconds(c.deep_ms)),
        ]
        for c in cascades(records)
        for length, recall, cost in zip(c.shortlist, c.recall_at_10, c.cost_ms, strict=True)
    ]
    header = ["cascade", "variant", "collection", "shortlist", "recall@10", "a query", "the deep cell alone"]
    return table(header, rows) if rows else ""


def _storage(records: Sequence[Record], view: View, label: str, names: Mapping[Setup, str]) -> str:
    by_variant = {setup.variant: name for setup, name in names.items()}
    rows = [
        (
            *(str(s.cell), by_variant[s.setup.variant], s.storage, f"{s.bytes_per_vector:,.0f}"),
            *(score(s.score), share(s.retention)),
        )
        for s in stored(records, view.sts)
    ]
    header = ["cell", "variant", "stored as", "MB per million vectors", f"score on {label}", "retention"]
    return table(header, rows) if rows else ""


def template(name: str) -> str:
    """A file of the folder ``templates``."""
    return files("m2d_export.report").joinpath("templates", name).read_text(encoding="utf-8")
