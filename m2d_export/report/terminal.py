"""Results on a terminal: the quality of every cell as heat-maps, what storage keeps, and what everything costs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from m2d_export.bench.metrics import candidates, cascades, latencies, stored
from m2d_export.bench.quantities import Candidate, Cascade, Setup, Stored, Timing
from m2d_export.bench.records import Record
from m2d_export.bench.views import collection_names, sts_labels, text_names, view_of
from m2d_export.report.formatting import interval, megabytes, milliseconds, names_of, score, share, with_share
from m2d_export.report.summary import setup_labels

# ColorBrewer's YlGnBu, five classes: ordered for colour-blind readers too; dark text on light, light on dark.
SHADES = (("#ffffcc", "black"), ("#a1dab4", "black"), ("#41b6c4", "black"), ("#2c7fb8", "white"), ("#253494", "white"))
UNTRAINED = "* a layer or dim that this checkpoint was not trained for"
SCORED = "(share of the full cell's score), [95 % bootstrap interval]"
MOST_DIMS = 5  # side by side: with what stands in brackets they fill 100 columns
RECALLS = (90.0, 95.0, 99.0)  # of the full cell's ten: what each costs at least

Value = Callable[[Candidate], float | None]
Write = Callable[[Candidate], str]


def tables(records: Sequence[Record]) -> RenderableType:
    """All that one bundle's records on one machine say of cells and layers, as a rich renderable."""
    view, labels = view_of(records), sts_labels(records)
    parts: list[RenderableType] = []
    for name, label in labels.items():
        cells = candidates(records, replace(view, sts=name))
        parts += grids(cells, lambda cell: cell.score, scored, f"Score: Spearman x 100 on {label}")
    if labels:
        parts.append(Text(SCORED + "\n", style="dim"))
    for name in text_names(records):
        cells = candidates(records, replace(view, texts=name))
        heading = f"Agreement with the full cell on {name}: Spearman x 100 (overlap@10)"
        parts += grids(cells, lambda cell: cell.agreement, _agreed, heading)
    for name in collection_names(records):
        cells = candidates(records, replace(view, collection=name))
        heading = f"Retrieval from {name}: nDCG@10 x 100 (recall@100)"
        parts += grids(cells, lambda cell: cell.ndcg, _searched, heading)
    cells = candidates(records, view)
    if any(not cell.trained for cell in cells):
        parts.append(Text(UNTRAINED + "\n", style="dim"))
    for name, label in labels.items():
        parts += storage_table(stored(records, name), label)
    parts += cascade_tables(cascades(records))
    timings = latencies(records)
    parts += [latency_table(timings)] if timings else []
    return Group(*parts, *memory_lines(cells))


def scored(cell: Candidate) -> str:
    """Score (retention), and [low, high] below them."""
    return f"{with_share(cell.score, cell.retention)}\n{interval(cell.interval)}".rstrip()


def _agreed(cell: Candidate) -> str:
    return f"{score(cell.agreement)} ({score(cell.overlap_at_10)})"


def _searched(cell: Candidate) -> str:
    return f"{score(cell.ndcg)} ({score(cell.recall_at_100)})"


def grids(cells: Sequence[Candidate], value: Value, write: Write, heading: str) -> list[RenderableType]:
    """A grid for each variant: threads change no vector, so that of several the first stands for all."""
    setups = {cell.setup.variant: replace(cell.setup, threads=None) for cell in cells}
    labels = setup_labels(list(setups.values()))
    return [
        grid(
            [cell for cell in cells if cell.setup.variant == variant],
            *(value, write, heading if len(setups) == 1 else f"{heading}, {labels[setup]}"),
        )
        for variant, setup in setups.items()
    ]


def grid(cells: Sequence[Candidate], value: Value, write: Write, heading: str) -> RenderableType:
    """Layers x dims of one quantity, each cell shaded by it; what is untrained is marked with an asterisk."""
    found = {(item.cell.layer, item.cell.dim): item for item in cells}
    layer_names, dim_names = names_of(cells)
    known = [number for number in map(value, cells) if number is not None] or [0.0]

    def shaded(layer: int, dim: int) -> Text:
        cell = found.get((layer, dim))
        number = value(cell) if cell else None
        return Text("n/a") if cell is None or number is None else _shaded(write(cell), number, min(known), max(known))

    parts: list[RenderableType] = [Text(heading, style="italic")]  # a title would be wrapped to the table's width
    for dims in _side_by_side(dim_names):
        table = Table()
        table.add_column("layer \\ dim", justify="right")
        for dim in dims:
            table.add_column(dim_names[dim], justify="right")
        for layer, name in reversed(layer_names.items()):
            table.add_row(name, *(shaded(layer, dim) for dim in dims))
        parts.append(table)
    return Group(*parts)


def storage_table(kept: Sequence[Stored], label: str) -> list[RenderableType]:
    """What each storage keeps of the deepest layer's score in the most exact variant, and its size, by dim."""
    own = [item for item in kept if item.setup.variant == kept[0].setup.variant]
    layer = max((item.cell.layer for item in own), default=0)
    found = {(item.storage, item.cell.dim): item for item in own if item.cell.layer == layer}
    names = list(dict.fromkeys(storage for storage, _ in found))
    parts: list[RenderableType] = []
    if found:
        heading = f"Storage of layer {layer}: score on {label} (share), MB per million vectors"
        parts.append(Text(heading, style="italic"))
    for dims in _side_by_side({dim: None for _, dim in found}):
        table = Table("stored as \\ dim")
        for dim in dims:
            table.add_column(str(dim), justify="right")
        for name in names:
            items = [found.get((name, dim)) for dim in dims]
            table.add_row(name, *(_kept(item) if item else "n/a" for item in items))
        parts.append(table)
    return parts


def _kept(item: Stored) -> str:
    return f"{score(item.score)} ({share(item.retention)})\n{megabytes(item.bytes_per_vector)}"


def cascade_tables(found: Sequence[Cascade]) -> list[RenderableType]:
    """The cheapest cascade that has so much of the full cell's ten, beside the full cell alone; for each collection."""
    parts: list[RenderableType] = []
    labels = setup_labels(list(dict.fromkeys(item.setup for item in found)))
    for collection, setup in dict.fromkeys((item.collection, item.setup) for item in found):
        own = [item for item in found if (item.collection, item.setup) == (collection, setup)]
        named = f", {labels[setup]}" if len(labels) > 1 else ""
        heading = f"Cascade on {collection}{named}: the cheapest shortlist that {own[0].deep} ranks again"
        columns = ("recall@10 at least", "cheap cell", "shortlist", "recall@10", "a query", f"{own[0].deep} alone")
        table = Table(*columns)
        for floor in RECALLS:
            ways = [
                (cost, recall, length, item)
                for item in own
                for length, recall, cost in zip(item.shortlist, item.recall_at_10, item.cost_ms, strict=True)
                if recall >= floor
            ]
            if ways:
                cost, recall, length, item = min(ways, key=lambda way: way[0])
                figures = (score(recall), milliseconds(cost), milliseconds(item.deep_ms))
                table.add_row(score(floor), str(item.cheap), f"{length:,}", *figures)
            else:
                table.add_row(score(floor), "none")
        parts += [Text(heading, style="italic"), table]
    return parts


def memory_lines(cells: Sequence[Candidate]) -> list[RenderableType]:
    """The peak memory of a process with one exit, a line for each setup."""
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
    """Latency and throughput of each layer, shape and scope; a rough figure is marked."""
    noted = "graph: the model alone; text: from text to vector. sentences/s from the median"
    rough = "; ~ rough: the middle half of the calls spread over more than 20 % of the median"
    table = Table(title="Latency, in ms a batch", caption=noted + (rough if any(t.noisy for t in timings) else ""))
    setups = setup_labels(list(dict.fromkeys(timing.setup for timing in timings)))
    several = len(setups) > 1
    setup_column = ("setup",) if several else ()
    for name in (*setup_column, "layer", "batch", "tokens", "scope", "p50", "p95", "p99", "calls", "sent./s"):
        table.add_column(name, justify="right")
    for timing in sorted(timings, key=lambda timing: (timing.shape, -timing.layer)):
        table.add_row(
            *((setups[timing.setup],) if several else ()),
            *map(str, (timing.layer, timing.shape.batch_size, timing.shape.tokens, timing.shape.scope)),
            ("~" if timing.noisy else "") + f"{timing.p50_ms:.2f}",
            *(f"{value:.2f}" for value in (timing.p95_ms, timing.p99_ms)),
            str(timing.calls),
            f"{timing.sentences_per_second:,.0f}",
        )
    return table


def _shaded(text: str, value: float, low: float, high: float) -> Text:
    share_of_range = (value - low) / (high - low) if high > low else 1.0
    background, foreground = SHADES[min(int(share_of_range * len(SHADES)), len(SHADES) - 1)]
    return Text(text, style=f"{foreground} on {background}")


def _side_by_side(dims: Iterable[int]) -> list[list[int]]:
    """The dims from the widest, as many together as one table holds."""
    wide = sorted(dims, reverse=True)
    return [wide[start : start + MOST_DIMS] for start in range(0, len(wide), MOST_DIMS)]
