"""Make a table for a terminal. Each column has a function that writes its values."""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeVar

from rich.table import Table
from rich.text import Text

Row = TypeVar("Row")
WORDS = ("setup", "why")  # columns with words; all other columns have numbers


def terminal_table(
    columns: Mapping[str, Callable[[Row], str | Text]], rows: Iterable[Row], title: str = "", caption: str = ""
) -> Table:
    """Make a table with a line for each of ``rows``.

    The keys of ``columns`` are headings. Each function in ``columns`` writes the value of a row in its column.
    """
    table = Table(title=title or None, caption=caption or None)
    for heading in columns:
        justify: Literal["left", "right"] = "left" if heading in WORDS else "right"
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=heading == "setup")
    for row in rows:
        cells = (write(row) for write in columns.values())
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))  # rich reads markup in a str
    return table
