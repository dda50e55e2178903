"""Results on a terminal: a summary that fits on the screen, and tables of everything."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from m2d_export.bench.metrics import candidates
from m2d_export.bench.records import Record, groups
from m2d_export.bench.values import Candidate, Setup, Shape, Timing
from m2d_export.bench.views import collection_names, index_names, sts_labels, text_names
from m2d_export.report.choice import run_command
from m2d_export.report.columns import BY_KEY, measured_on, text_of
from m2d_export.report.cost_tables import cascade_tables, latency_table, memory_lines, storage_tables
from m2d_export.report.formatting import MISSING, WRITERS, megabytes, rate, share
from m2d_export.report.heat_map import FEW_DIMS, MANY_DIMS, UNTRAINED, brief_text, heading_of, heat_map, heat_maps
from m2d_export.report.results import Results
from m2d_export.report.search import search_table
from m2d_export.report.terminal_table import terminal_table
from m2d_export.select.budgets import Budgets
from m2d_export.select.rule import Choice, select
from m2d_export.select.tasks import TASKS, Task

SEARCHED = {"ndcg": "nDCG@10", "index_share": "share in\nthe index"}  # of search_table, in the summary
SHAPES = 4  # the summary shows the latency of at most so many shapes
KEPT = 0.97  # the pick of the summary is the fastest cell with this retention


def summary(
    records: Sequence[Record], bundle: Path = Path("BUNDLE"), file: Path = Path("results.jsonl")
) -> RenderableType:
    """The grid, the cost of each layer and a pick, from one bundle's records on one machine.

    It fits in 40 lines of 100 columns for 6 layers and 5 dims. Grid and costs are those of the pick's setup. The
    suggested commands contain ``bundle``, and ``file``, which has the records.
    """
    (group,) = groups(records)
    results = Results.of(group)
    choice = _default_choice(results)
    picked = choice.picked if choice else None
    setup = picked.setup if picked else next(iter(results.labels), None)
    parts: list[RenderableType] = []
    if choice and setup:
        parts += _grid(results, choice, setup)
    if timings := [timing for timing in results.timings if timing.setup == setup]:
        parts.append(_cost_table(timings, results))
    if setup and len(results.labels) > 1:
        note = f"Shown: {results.labels[setup]}. bench --all shows {len(results.labels) - 1} more."
        parts.append(Text(note, style="dim"))
    return Group(*parts, *(_pick_lines(choice, results, bundle, file) if choice else []))


def _default_choice(results: Results) -> Choice | None:
    """The fastest cell with the retention KEPT in the first measured quality; without retention, the best cell."""

    def is_known(key: str) -> bool:
        return any(getattr(cell, key) is not None for cell in results.cells)

    for task, spec in TASKS.items():
        if is_known(spec.quality) and not task.in_index:
            budgets = Budgets(min_retention=KEPT if is_known(spec.retention) else None)
            return select(results.cells, budgets, task, results.view)
    return None


def _grid(results: Results, choice: Choice, setup: Setup) -> list[RenderableType]:
    """The heat-map of the quality that decides the pick, with a mark on the pick."""
    column = BY_KEY[TASKS[choice.task].quality]
    cells = [cell for cell in results.cells if cell.setup == setup]
    few = len({cell.cell.dim for cell in cells}) <= FEW_DIMS
    heading = heading_of(column, measured_on(results.group.records, results.view), brackets=few)
    brief = brief_text(column)

    def write(cell: Candidate) -> str:
        text = brief(cell) if few else WRITERS[column.write](getattr(cell, column.key))
        return f"> {text}" if cell is choice.picked else text

    note = [] if all(cell.trained for cell in cells) else [Text(UNTRAINED, style="dim")]
    return [heat_map(cells, column, heading, write, FEW_DIMS if few else MANY_DIMS), *note]


def _search(results: Results, setup: Setup) -> list[RenderableType]:
    """What each layer finds in the collection, and what BM25 finds."""
    found = search_table(results, setup)
    if found is None:
        return []
    columns = {title: itemgetter(place) for place, title in enumerate(found.header)}
    return [Text(found.heading, style="italic"), terminal_table(columns, found.rows)]


def _cost_table(timings: Sequence[Timing], results: Results) -> RenderableType:
    """The cost of each layer: the median latency of a few shapes, throughput, peak memory."""
    bulk = results.view.throughput
    found = {(timing.layer, timing.shape): timing for timing in timings}
    scope = results.view.shape.scope if results.view.shape else timings[0].shape.scope
    shapes = _spread(sorted({timing.shape for timing in timings if timing.shape.scope == scope}))
    peaks = {cell.cell.layer: cell.peak_mb for cell in results.cells if cell.setup == timings[0].setup}

    def latency(layer: int, shape: Shape) -> str:
        timing = found.get((layer, shape))
        return f"{'~' * timing.noisy}{timing.latency_ms:.2f}" if timing else ""

    columns: dict[str, Callable[[int], str]] = {"layer": str}
    columns |= {f"p50 ms\n{shape.batch_size} x {shape.tokens}": partial(latency, shape=shape) for shape in shapes}
    if bulk:
        columns[f"sentences/s\n{bulk.batch_size} x {bulk.tokens}"] = lambda layer: (
            text_of("sentences_per_second", found[layer, bulk]) if (layer, bulk) in found else MISSING
        )
    if any(peak is not None for peak in peaks.values()):
        columns["peak\nmemory"] = lambda layer: megabytes(peaks.get(layer))
    searched = search_table(results, timings[0].setup)
    layers = sorted({timing.layer for timing in timings}, reverse=True)
    if searched:
        columns |= {title: partial(searched.text, key) for key, title in SEARCHED.items() if key in searched.keys}
    table = terminal_table(columns, layers)
    noise = "; ~ noisy" if any(timing.noisy for timing in timings if timing.shape in shapes) else ""
    heading = Text(f"Cost of each layer: batch x tokens, {shapes[0].what}{noise}", style="italic")
    return Group(heading, table, *([Text(searched.heading, style="dim")] if searched else []))


def _spread(shapes: Sequence[Shape]) -> list[Shape]:
    """At most SHAPES shapes, evenly from the smallest to the largest."""
    last = len(shapes) - 1
    return [shapes[place] for place in dict.fromkeys(round(step * last / (SHAPES - 1)) for step in range(SHAPES))]


def _pick_lines(choice: Choice, results: Results, bundle: Path, file: Path) -> list[RenderableType]:
    """The pick, and the commands to try next."""
    picked, worth, floor = choice.picked, choice.worth, choice.budgets.min_retention
    options = ["--results", str(file)] + (["--min-retention", f"{floor:g}"] if floor else [])
    options += ["--task", choice.task] if choice.task is not Task.STS else []
    again = shlex.join(["m2d-export", "select", str(bundle), *options])
    if picked is None or worth is None or worth.quality is None:
        return [Text(f"No cell meets the default budget. To choose by other budgets:\n  {again}")]
    quality = BY_KEY[TASKS[choice.task].quality].title
    what = f"The fastest cell that keeps {100 * floor:g} % of the full cell's {quality}" if floor else "The best cell"
    values = [f"{quality} {worth.quality:.1f}"] + ([share(worth.retention)] if worth.retention is not None else [])
    values += [text_of("latency_ms", picked)] if picked.latency_ms is not None else []
    values += [f"{rate(speed)} sentences/s"] if (speed := picked.sentences_per_second) is not None else []
    cores = results.group.machine["cores"]
    return [
        Text(f"{what}: {picked.cell}, {results.labels[picked.setup]}", style="bold"),
        Text(f"  {', '.join(values)}"),
        Text(f"To choose by other budgets, and to read the warnings ({len(choice.warnings)}):\n  {again}"),
        Text(f"To encode with it:\n  {run_command(picked, bundle, cores)}"),
    ]


def tables(records: Sequence[Record]) -> RenderableType:
    """Every table of one bundle's records on one machine."""
    (group,) = groups(records)
    results = Results.of(group)
    view, labels = results.view, sts_labels(records)
    seen = [
        *(("score", replace(view, sts=name)) for name in labels),
        *(("agreement", replace(view, texts=name)) for name in text_names(records)),
        *(("ndcg", replace(view, collection=name)) for name in collection_names(records)),
        *(
            ("index_share", replace(view, collection=name, index=index))
            for name in collection_names(records)
            for index in index_names(records)
        ),
        *(
            ("index_overlap", replace(view, texts=name, index=index))
            for name in text_names(records)
            for index in index_names(records)
        ),
    ]
    parts: list[RenderableType] = []
    for key, own in seen:
        parts += heat_maps(candidates(records, own), BY_KEY[key], measured_on(records, own))
    if any(not cell.trained for cell in results.cells):
        parts.append(Text(UNTRAINED + "\n", style="dim"))
    for name, label in labels.items():
        parts += storage_tables(candidates(records, replace(view, sts=name)), label)
    for name in collection_names(records):
        for setup in results.labels:
            parts += _search(Results.of(group, replace(view, collection=name)), setup)
    parts += cascade_tables(results.cascades)
    parts += [latency_table(results.timings)] if results.timings else []
    return Group(*parts, *memory_lines(results.cells))
