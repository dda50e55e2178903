"""Show the grid on a terminal as heat-maps: tables of layers x dims, with a colour for the value of each cell."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from rich.console import Group, RenderableType
from rich.text import Text

from m2d_export.bench.values import Candidate
from m2d_export.report.columns import BY_KEY, Column
from m2d_export.report.formatting import WRITERS, axis_names, interval
from m2d_export.report.results import setup_labels
from m2d_export.report.terminal_table import terminal_table
from m2d_export.spec import Cell

# A pair is a background, from ColorBrewer's YlGnBu, and the colour of its text. Colour-blind readers see the order too.
SHADES = (("#ffffcc", "black"), ("#a1dab4", "black"), ("#41b6c4", "black"), ("#2c7fb8", "white"), ("#253494", "white"))
UNTRAINED = "* a layer or dim that this checkpoint was not trained for"
FEW_DIMS, MANY_DIMS = 5, 9  # dims that fit into 100 characters, if cells have a value in brackets, and if not


def heat_maps(cells: Sequence[Candidate], column: Column, measured: dict[str, str]) -> list[RenderableType]:
    """Make a heat-map for each setup. Setups that differ only in threads share one, because they have equal vectors."""
    if all(getattr(cell, column.key) is None for cell in cells):
        return []
    first = {(cell.setup.untimed, cell.cell): cell for cell in reversed(cells)}
    labels = setup_labels(list(dict.fromkeys(cell.setup.untimed for cell in cells)))
    heading, note = heading_of(column, measured), ", [95 % bootstrap interval]" if column.interval else ""

    def write(cell: Candidate) -> str:
        ends = interval(getattr(cell, column.interval)) if column.interval else ""
        return f"{brief_text(column)(cell)}\n{ends}".rstrip()

    parts: list[RenderableType] = []
    for setup, label in labels.items():
        own = [cell for (untimed, _), cell in first.items() if untimed == setup]
        named = f", {label}" if len(labels) > 1 else ""
        parts.append(heat_map(own, column, heading + named + note, write))
    return parts


def heading_of(column: Column, measured: dict[str, str], brackets: bool = True) -> str:
    """Write the heading of a heat-map. ``measured`` is the result of ``columns.measured_on``."""
    return column.heat.format(**measured) + (f" ({BY_KEY[column.extra].title})" if brackets and column.extra else "")


def brief_text(column: Column) -> Callable[[Candidate], str]:
    """Make a function that writes a cell's value. The value of ``column.extra`` follows in brackets if there is one."""
    extra = BY_KEY.get(column.extra)

    def write(cell: Candidate) -> str:
        other = getattr(cell, extra.key) if extra else None
        brackets = "" if extra is None or other is None else f" ({WRITERS[extra.write](other)})"
        return WRITERS[column.write](getattr(cell, column.key)) + brackets

    return write


def heat_map(
    cells: Sequence[Candidate],
    column: Column,
    heading: str,
    write: Callable[[Candidate], str],
    dims_abreast: int = FEW_DIMS,
) -> RenderableType:
    """Make the heat-map of one column. An asterisk marks layers and dims that were not trained."""
    found = {cell.cell: cell for cell in cells}
    layer_names, dim_names = axis_names(cells)
    values = [value for cell in cells if (value := getattr(cell, column.key)) is not None]
    low, high = min(values, default=0.0), max(values, default=0.0)

    def shaded(layer: int, dim: int) -> Text:
        cell = found.get(Cell(layer, dim))
        value = getattr(cell, column.key) if cell else None
        if cell is None or value is None:
            return Text("n/a")
        share_of_range = (value - low) / (high - low) if high > low else 1.0
        background, foreground = SHADES[min(int(share_of_range * len(SHADES)), len(SHADES) - 1)]
        return Text(write(cell), style=f"{foreground} on {background}")

    parts: list[RenderableType] = [Text(heading, style="italic")]  # the title of a table would be wrapped
    for dims in side_by_side(dim_names, dims_abreast):
        columns = {dim_names[dim]: partial(shaded, dim=dim) for dim in dims}
        parts.append(terminal_table({"layer \\ dim": layer_names.__getitem__, **columns}, reversed(layer_names)))
    return Group(*parts)


def side_by_side(dims: Iterable[int], count: int = FEW_DIMS) -> list[list[int]]:
    """Split the dims into tables with ``count`` dims each. The largest dim is first."""
    wide = sorted(dims, reverse=True)
    return [wide[start : start + count] for start in range(0, len(wide), count)]
