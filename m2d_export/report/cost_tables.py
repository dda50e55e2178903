"""Make tables of costs for a terminal: storage, cascades, latency, memory."""

from collections.abc import Sequence
from functools import partial

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from m2d_export.bench.values import Candidate, Cascade, Setup, Timing
from m2d_export.report.columns import TIMES, text_of
from m2d_export.report.formatting import megabytes, milliseconds, score, share
from m2d_export.report.heat_map import side_by_side
from m2d_export.report.pareto import steps
from m2d_export.report.results import setup_labels
from m2d_export.report.terminal_table import terminal_table

RECALLS = (90.0, 95.0, 99.0)  # the table of cascades has the cheapest cascade for each recall


def storage_tables(cells: Sequence[Candidate], label: str) -> list[RenderableType]:
    """Tables of the deepest layer in the most exact setup: the score and the size for each storage and dim."""
    stored = [cell for cell in cells if cell.stored]
    layer = max((cell.cell.layer for cell in stored if cell.setup == stored[0].setup), default=0)
    own = {cell.cell.dim: cell for cell in stored if cell.setup == stored[0].setup and cell.cell.layer == layer}
    storages = list(dict.fromkeys(name for cell in own.values() for name in cell.stored))
    parts: list[RenderableType] = []
    if own:
        heading = f"Storage of layer {layer}: score on {label} (share), MB per million vectors"
        parts.append(Text(heading, style="italic"))
    for dims in side_by_side(own):
        columns = {str(dim): partial(_stored, own[dim]) for dim in dims}
        parts.append(terminal_table({"stored as \\ dim": str, **columns}, storages))
    return parts


def _stored(cell: Candidate, storage: str) -> str:
    stored = cell.stored.get(storage)
    if stored is None:
        return "n/a"
    return f"{score(stored.score)} ({share(stored.retention)})\n{megabytes(stored.bytes_per_vector)}"


def cascade_tables(found: Sequence[Cascade]) -> list[RenderableType]:
    """A table for each collection and setup: the cheapest cascade for each of RECALLS, and the full cell's cost."""
    parts: list[RenderableType] = []
    labels = setup_labels(list(dict.fromkeys(item.setup for item in found)))
    for collection, setup in dict.fromkeys((item.collection, item.setup) for item in found):
        own = [item for item in found if (item.collection, item.setup) == (collection, setup)]
        named = f", {labels[setup]}" if len(labels) > 1 else ""
        heading = f"Cascade on {collection}{named}: the cheapest shortlist that {own[0].deep} ranks again"
        table = Table("recall@10 at least", "cheap cell", "shortlist", "recall@10", "a query", f"only {own[0].deep}")
        for floor in RECALLS:
            step = next((step for step in steps(own) if step.score >= floor), None)  # the cheapest step comes first
            if step:
                item = own[step.cascade]
                cost, length = item.cost_ms[step.shortlist], f"{item.shortlist[step.shortlist]:,}"
                values = (score(step.score), milliseconds(cost), milliseconds(item.deep_ms))
                table.add_row(score(floor), str(item.cheap), length, *values)
            else:
                table.add_row(score(floor), "none")
        parts += [Text(heading, style="italic"), table]
    return parts


def memory_lines(cells: Sequence[Candidate]) -> list[RenderableType]:
    """A line for each setup: the peak memory of a process with one open exit."""
    peaks: dict[Setup, dict[int, float]] = {}
    for cell in cells:
        if cell.peak_mb is not None:
            peaks.setdefault(cell.setup, {})[cell.cell.layer] = cell.peak_mb
    labels = setup_labels(list(peaks))
    return [
        Text(
            f"Peak memory with one layer open{f', {labels[setup]}' if len(peaks) > 1 else ''}: "
            + ", ".join(f"layer {layer} {megabytes(own[layer])}" for layer in sorted(own, reverse=True))
        )
        for setup, own in peaks.items()
    ]


def latency_table(timings: Sequence[Timing]) -> Table:
    """Latency and throughput of each layer, shape and scope; noisy times are marked."""
    labels = setup_labels(list(dict.fromkeys(timing.setup for timing in timings)))
    noise = "\nnoisy: the times of the middle half of the calls differ by more than 20 % of the median"
    note = "graph: the model only; text: from text to vector; sentences/s: from the median"
    return terminal_table(
        {
            **({"setup": lambda timing: labels[timing.setup]} if len(labels) > 1 else {}),
            "layer": lambda timing: str(timing.layer),
            "batch": lambda timing: str(timing.shape.batch_size),
            "tokens": lambda timing: str(timing.shape.tokens),
            "scope": lambda timing: timing.shape.scope,
            **{column.title: partial(text_of, column) for column in TIMES},
        },
        sorted(timings, key=lambda timing: (timing.shape, -timing.layer)),
        title="Latency of a batch",
        caption=note + (noise if any(timing.noisy for timing in timings) else ""),
    )
