"""What a running training shows on standard error: a progress bar, and the grid at each evaluation."""

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from m2d_export.report.formatting import difference, score
from m2d_export.spec import Cell

from .evaluate import Scores
from .log import Entry


class Screen:
    """Shows a training on ``console``: lines, the grid at each evaluation, and a bar if it is a terminal."""

    def __init__(self, console: Console, bar: Progress) -> None:
        self.console, self._bar = console, bar
        self._task = bar.add_task("training", total=None, loss="")
        self._before: Scores | None = None

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def step(self, step: int, steps: int, loss: float) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=step, total=steps, loss=f"loss {loss:.3f}")

    def evaluated(self, entry: Entry) -> None:
        """Print the dev scores, each with its difference to the evaluation before."""
        self.console.print(grid_table(entry.scores, self._before, f"dev after step {entry.step}"))
        self._before = entry.scores


@contextlib.contextmanager
def open_screen() -> Iterator[Screen]:
    """A screen on standard error."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
    bar = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
    with bar:
        yield Screen(console, bar)


def grid_table(grid: Scores, before: Scores | None, title: str) -> Table:
    """Scores as a table, the deepest layer first, each with its difference to ``before``."""
    dims = sorted({cell.dim for cell in grid}, reverse=True)
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    table.add_column("layer", justify="right")
    for dim in dims:
        table.add_column(f"{dim} dims", justify="right")
    for layer in sorted({cell.layer for cell in grid}, reverse=True):
        table.add_row(str(layer), *(_cell_text(Cell(layer, dim), grid, before) for dim in dims))
    return table


def _cell_text(cell: Cell, grid: Scores, before: Scores | None) -> str:
    now, earlier = grid[cell], before.get(cell) if before else None
    return score(now) if now is None or earlier is None else f"{score(now)} [dim]{difference(now - earlier)}[/]"
