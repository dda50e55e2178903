"""How a figure is written: in the report's Markdown and on a terminal, the same."""

from collections.abc import Sequence

from m2d_export.bench.quantities import Interval

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


def milliseconds(value: float | None) -> str:
    """A latency, as text: three digits that matter."""
    return MISSING if value is None else f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} ms"


def rate(value: float | None) -> str:
    """A throughput, as text."""
    return MISSING if value is None else f"{value:,.0f}"


def megabytes(value: float | None) -> str:
    """Megabytes, as text: a tenth only where it is not nothing."""
    return MISSING if value is None else f"{value:,.{0 if value >= 10 or value == int(value) else 1}f} MB"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; a long one is folded."""
    lines = [header, ["---"] * len(header), *rows]
    made = "".join(f"| {' | '.join(text.replace('|', BAR) for text in line)} |\n" for line in lines)
    if len(rows) <= LONG:
        return made
    return f"<details><summary>{len(rows)} rows</summary>\n\n{made}\n</details>\n"
