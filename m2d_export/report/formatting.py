"""Write numbers for a terminal and for Markdown. On the page, templates/parts.js writes them in the same way."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from m2d_export.bench.values import Candidate, Interval, StoredScore

MISSING = "–"
BAR = re.compile(r"(?<!\\)\|")  # a bar without a backslash would end a cell of a table
LONG = 12  # a table with more rows is folded


def score(value: float | None) -> str:
    """A score, recall or nDCG x 100."""
    return MISSING if value is None else f"{value:.1f}"


def difference(value: float | None) -> str:
    """A difference of scores, with its sign."""
    return MISSING if value is None else f"{value:+.1f}" if value else "0.0"


def interval(ends: Interval | None) -> str:
    """A 95 % interval of scores."""
    return "" if ends is None else f"[{ends[0]:.1f}, {ends[1]:.1f}]"


def share(value: float | None) -> str:
    """A retention."""
    return MISSING if value is None else f"{100 * value:.1f} %"


def milliseconds(value: float | None) -> str:
    """A latency with three significant digits."""
    return MISSING if value is None else f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} ms"


def rate(value: float | None) -> str:
    """A throughput or a count."""
    return MISSING if value is None else f"{value:,.0f}"


def megabytes(value: float | None) -> str:
    """Megabytes. Below 10, a size that is not a whole number has one decimal."""
    return MISSING if value is None else f"{value:,.{0 if value >= 10 or value == int(value) else 1}f} MB"


def gigabytes(value: float | None) -> str:
    """Gigabytes with three significant digits."""
    return MISSING if value is None else f"{value:,.0f} GB" if value >= 100 else f"{value:#.3g} GB"


def named(values: Mapping[str, float | StoredScore | None]) -> str:
    """Scores with their names."""
    scores = {name: value.score if isinstance(value, StoredScore) else value for name, value in values.items()}
    return ", ".join(f"{name} {score(value)}" for name, value in scores.items() if value is not None) or MISSING


def text(value: object | None) -> str:
    """Any value."""
    return MISSING if value is None else str(value)


# The ways to write a column; templates/parts.js has the same names.
WRITERS: Mapping[str, Callable[[Any], str]] = {
    **{"score": score, "difference": difference, "share": share, "ms": milliseconds, "count": rate},
    **{"mb": megabytes, "named": named, "text": text},
}


def axis_names(cells: Iterable[Candidate]) -> tuple[dict[int, str], dict[int, str]]:
    """The names of the layers and dims of ``cells``, in ascending order. An asterisk marks an untrained one."""
    own = sorted(cells, key=lambda cell: cell.cell.dim)
    layers = {cell.cell.layer: f"{cell.cell.layer}{'' if cell.trained_layer else '*'}" for cell in own}
    dims = {cell.cell.dim: f"{cell.cell.dim}{'' if cell.trained_dim else '*'}" for cell in own}
    return dict(sorted(layers.items())), dims


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(BAR.sub(r"\|", text) for text in line) + " |" for line in lines)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; a long table is folded."""
    made = plain_table(header, rows) + "\n"
    if len(rows) <= LONG:
        return made
    return f"<details><summary>{len(rows)} rows</summary>\n\n{made}\n</details>\n"
