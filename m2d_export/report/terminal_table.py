"""A table on a terminal, from what each column writes of a row."""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeVar

from rich.table import Table
from rich.text import Text

Row = TypeVar("Row")
WORDS = ("setup", "why")  # columns of words; all others hold numbers


def terminal_table(
    columns: Mapping[str, Callable[[Row], str | Text]], rows: Iterable[Row], title: str = "", caption: str = ""
) -> Table:
    """A table with a line for each of ``rows``; ``columns`` are functions of a row by their headings."""
    table = Table(title=title or None, caption=caption or None)
    for heading in columns:
        justify: Literal["left", "right"] = "left" if heading in WORDS else "right"
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=heading == "setup")
    for row in rows:
        table.add_row(*(write(row) for write in columns.values()))
    return table
