"""A table on a terminal, made by the functions of its columns."""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeVar

from rich.table import Table
from rich.text import Text

Row = TypeVar("Row")
WORDS = ("setup", "why")  # columns with words; all others have numbers


def terminal_table(
    columns: Mapping[str, Callable[[Row], str | Text]], rows: Iterable[Row], title: str = "", caption: str = ""
) -> Table:
    """A table with a line for each of ``rows``; ``columns`` has, by heading, the function that writes a row's value."""
    table = Table(title=title or None, caption=caption or None)
    for heading in columns:
        justify: Literal["left", "right"] = "left" if heading in WORDS else "right"
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=heading == "setup")
    for row in rows:
        cells = (write(row) for write in columns.values())
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))  # a str would be markup
    return table
