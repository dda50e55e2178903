"""How a figure is written: in the report's Markdown and on a terminal, the same."""

from collections.abc import Iterable, Sequence

from m2d_export.bench.quantities import Candidate, Interval

MISSING = "–"
BAR = "\\|"  # a bar that does not end a column
LONG = 12  # rows; a longer table is folded


def score(value: float | None) -> str:
    """A score, recall or nDCG x 100, as text."""
    return MISSING if value is None else f"{value:.1f}"


def interval(ends: Interval | None) -> str:
    """A 95 % interval, as text."""
    return "" if ends is None else f"[{ends[0]:.1f}, {ends[1]:.1f}]"


def share(value: float | None) -> str:
    """A retention, as text."""
    return MISSING if value is None else f"{100 * value:.1f} %"


def with_share(value: float | None, retention: float | None) -> str:
    """A score, and its retention in brackets where it has one."""
    return score(value) + (f" ({share(retention)})" if retention is not None else "")


def names_of(cells: Iterable[Candidate]) -> tuple[dict[int, str], dict[int, str]]:
    """What to call the layers and the dims of some cells, from the smallest: an asterisk is on those not trained."""
    own = sorted(cells, key=lambda cell: cell.cell.dim)
    layers = {cell.cell.layer: f"{cell.cell.layer}{'' if cell.trained_layer else '*'}" for cell in own}
    dims = {cell.cell.dim: f"{cell.cell.dim}{'' if cell.trained_dim else '*'}" for cell in own}
    return dict(sorted(layers.items())), dims


def milliseconds(value: float | None) -> str:
    """A latency, as text: three digits that matter."""
    return MISSING if value is None else f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} ms"


def rate(value: float | None) -> str:
    """A throughput, as text."""
    return MISSING if value is None else f"{value:,.0f}"


def megabytes(value: float | None) -> str:
    """Megabytes, as text: a tenth only where it is not nothing."""
    return MISSING if value is None else f"{value:,.{0 if value >= 10 or value == int(value) else 1}f} MB"


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(text.replace('|', BAR) for text in line)} |" for line in lines)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; a long one is folded."""
    made = plain_table(header, rows) + "\n"
    if len(rows) <= LONG:
        return made
    return f"<details><summary>{len(rows)} rows</summary>\n\n{made}\n</details>\n"
