"""Results on a terminal: the quality of every cell as heat-maps, the latency of every layer."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from m2d_export.bench.figures import candidates, latencies
from m2d_export.bench.quantities import Candidate, Timing, View
from m2d_export.bench.records import Record
from m2d_export.bench.summary import setup_labels
from m2d_export.bench.views import default_view, sts_labels

# ColorBrewer's YlGnBu, five classes: ordered for colour-blind readers too; dark text on light, light on dark.
SHADES = (("#ffffcc", "black"), ("#a1dab4", "black"), ("#41b6c4", "black"), ("#2c7fb8", "white"), ("#253494", "white"))
UNTRAINED = "* a layer or dim that this checkpoint was not trained for"


def tables(records: Sequence[Record]) -> RenderableType:
    """All that one bundle's records on one machine say of cells and layers, as a rich renderable."""
    view = default_view(records)
    parts: list[RenderableType] = []
    for name, label in sts_labels(records).items():
        cells = candidates(records, View(name, view.shape, view.texts, view.collection))
        parts += grids(cells, lambda cell: cell.score, f"Score: Spearman x 100 on {label}")
    cells = candidates(records, view)
    if view.texts:
        heading = f"Agreement with the full cell on {view.texts}: Spearman x 100"
        parts += grids(cells, lambda cell: cell.agreement, heading)
    if view.collection:
        parts += grids(cells, lambda cell: cell.ndcg, f"Retrieval from {view.collection}: nDCG@10 x 100")
    if any(not (cell.trained_layer and cell.trained_dim) for cell in cells):
        parts.append(Text(UNTRAINED + "\n", style="dim"))
    timings = latencies(records)
    return Group(*parts, latency_table(timings)) if timings else Group(*parts)


def grids(cells: Sequence[Candidate], value: Callable[[Candidate], float | None], heading: str) -> list[RenderableType]:
    """A grid for each variant: threads change no vector, so that of several the first stands for all."""
    setups = {cell.setup.variant: replace(cell.setup, threads=None) for cell in cells}
    labels = setup_labels(list(setups.values()))
    return [
        grid(
            [cell for cell in cells if cell.setup.variant == variant],
            value,
            heading if len(setups) == 1 else f"{heading}, {labels[setup]}",
        )
        for variant, setup in setups.items()
    ]


def grid(cells: Sequence[Candidate], value: Callable[[Candidate], float | None], heading: str) -> RenderableType:
    """Layers x dims of one quantity, each cell shaded by it; what is untrained is marked with an asterisk."""
    found = {(item.cell.layer, item.cell.dim): value(item) for item in cells}
    trained = {item.cell.dim: item.trained_dim for item in cells}
    trained_layers = {item.cell.layer: item.trained_layer for item in cells}
    known = [number for number in found.values() if number is not None] or [0.0]
    table = Table()
    table.add_column("layer \\ dim", justify="right")
    for dim in sorted(trained, reverse=True):
        table.add_column(f"{dim}" if trained[dim] else f"{dim}*", justify="right")
    for layer in sorted(trained_layers, reverse=True):
        shades = [_shaded(found.get((layer, dim)), min(known), max(known)) for dim in sorted(trained, reverse=True)]
        table.add_row(f"{layer}" if trained_layers[layer] else f"{layer}*", *shades)
    # A line of its own, since a title would be wrapped to the width of the table.
    return Group(Text(heading, style="italic"), table)


def latency_table(timings: Sequence[Timing]) -> Table:
    """Latency and throughput of each layer, shape and scope; a rough figure is marked."""
    noted = "graph: the model alone; text: from text to vector. sentences/s from the median"
    rough = "; ~ rough: the middle half of the calls spread over more than 20 % of the median"
    table = Table(title="Latency, in ms a batch", caption=noted + (rough if any(t.noisy for t in timings) else ""))
    setups = setup_labels(list(dict.fromkeys(timing.setup for timing in timings)))
    several = len(setups) > 1
    setup_column = ("setup",) if several else ()
    for name in (*setup_column, "layer", "batch", "tokens", "scope", "p50", "p95", "p99", "calls", "sentences/s"):
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


def _shaded(value: float | None, low: float, high: float) -> Text:
    if value is None:
        return Text("n/a")
    share = (value - low) / (high - low) if high > low else 1.0
    background, foreground = SHADES[min(int(share * len(SHADES)), len(SHADES) - 1)]
    return Text(f" {value:.1f} ", style=f"{foreground} on {background}")
