"""Records as tables on a terminal: a heat-map of scores, a table of latencies."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from m2d_export.bench.sts import Pairs
from m2d_export.bench.sweep import Record

# ColorBrewer's YlGnBu, five classes: ordered for colour-blind readers too; dark text on light, light on dark.
SHADES = (("#ffffcc", "black"), ("#a1dab4", "black"), ("#41b6c4", "black"), ("#2c7fb8", "white"), ("#253494", "white"))


def tables(records: Sequence[Record], pairs: Pairs) -> RenderableType:
    """The score of every cell, then the latency of every layer, as a rich renderable."""
    scores = [record for record in records if record["kind"] == "score"]
    latencies = [record for record in records if record["kind"] == "latency"]
    return Group(score_table(scores, pairs), latency_table(latencies))


def score_table(scores: Sequence[Record], pairs: Pairs) -> RenderableType:
    """Layers x dims, each cell shaded by its score; untrained dims are marked with an asterisk."""
    cells = {(record["layer"], record["dim"]): record["spearman"] for record in scores}
    trained = {record["dim"]: record["trained_dim"] for record in scores}
    table = Table()
    table.add_column("layer \\ dim", justify="right")
    for dim in sorted(trained, reverse=True):
        table.add_column(f"{dim}" if trained[dim] else f"{dim}*", justify="right")
    known = [score for score in cells.values() if score is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    for layer in sorted({layer for layer, _ in cells}, reverse=True):
        row = [_shaded(cells[layer, dim], low, high) for dim in sorted(trained, reverse=True)]
        table.add_row(str(layer), *row)
    # Lines of their own, since a title and a caption would be wrapped to the width of the table.
    heading = Text(f"Score: Spearman x 100 on {pairs.label}", style="italic")
    note = Text("" if all(trained.values()) else "* a dim that this checkpoint was not trained for\n", style="dim")
    return Group(heading, table, note)


def latency_table(latencies: Sequence[Record]) -> Table:
    """Latency and throughput of each layer and shape: the graph alone, without the tokenizer."""
    table = Table(title="Latency of the graph alone, in ms a batch", caption="sentences/s from the median")
    for name in ("layer", "batch", "tokens", "p50", "p95", "p99", "calls", "sentences/s"):
        table.add_column(name, justify="right")
    for record in sorted(latencies, key=lambda record: (record["batch_size"], record["tokens"], -record["layer"])):
        table.add_row(
            *(str(record[name]) for name in ("layer", "batch_size", "tokens")),
            *(f"{record[name]:.2f}" for name in ("p50_ms", "p95_ms", "p99_ms")),
            str(len(record["seconds"])),
            f"{record['sentences_per_second']:,.0f}",
        )
    return table


def _shaded(score: float | None, low: float, high: float) -> Text:
    if score is None:
        return Text("n/a")
    share = (score - low) / (high - low) if high > low else 1.0
    background, foreground = SHADES[min(int(share * len(SHADES)), len(SHADES) - 1)]
    return Text(f" {score:.1f} ", style=f"{foreground} on {background}")
