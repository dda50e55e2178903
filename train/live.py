"""A training as it is watched: a progress bar, the grid at each evaluation, and a picture of how it grew."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from m2d_export.host.extras import require
from m2d_export.spec import Cell
from train.evaluate import Scores
from train.log import Entry


class Screen:
    """Where a training is shown: a bar on a terminal, a grid at each evaluation everywhere."""

    def __init__(self, console: Console, bar: Progress) -> None:
        self.console, self._bar = console, bar
        self._task = bar.add_task("training", total=None, loss="")
        self._before: Scores | None = None

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def step(self, step: int, steps: int, loss: float) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=step, total=steps, loss=f"loss {loss:.3f}")

    def evaluated(self, entry: Entry) -> None:
        """Print dev scores, each with what it has gained since the evaluation before."""
        self.console.print(grid_table(entry.scores, self._before, f"dev after step {entry.step}"))
        self._before = entry.scores


@contextlib.contextmanager
def screen() -> Iterator[Screen]:
    """A screen on standard error."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
    bar = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
    with bar:
        yield Screen(console, bar)


def grid_table(grid: Scores, before: Scores | None, title: str) -> Table:
    """Scores as a table, the deepest layer first."""
    dims = sorted({cell.dim for cell in grid}, reverse=True)
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    table.add_column("layer", justify="right")
    for dim in dims:
        table.add_column(f"{dim} dims", justify="right")
    for layer in sorted({cell.layer for cell in grid}, reverse=True):
        table.add_row(str(layer), *(_shown(Cell(layer, dim), grid, before) for dim in dims))
    return table


def _shown(cell: Cell, grid: Scores, before: Scores | None) -> str:
    score, earlier = grid[cell], before[cell] if before else None
    if score is None:
        return "-"
    return f"{score:.1f}" if earlier is None else f"{score:.1f} [dim]{score - earlier:+.1f}[/]"


def draw(log: Sequence[Entry], path: Path) -> None:
    """Write a PNG: the last grid as a heat-map, and how each layer's full vector and smallest dim grew on dev."""
    matplotlib = require("matplotlib", "train")
    colors = matplotlib.colormaps["viridis"]
    steps, grids = [entry.step for entry in log], [entry.scores for entry in log]
    layers, dims = (sorted({getattr(cell, axis) for cell in grids[-1]}) for axis in ("layer", "dim"))
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = require("matplotlib.figure", "train").Figure(figsize=(11, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        _heat_map(left, grids[-1], layers, dims)
        for place, layer in enumerate(layers):
            color = colors(place / max(1, len(layers) - 1) * 0.9)
            for dim, style in {dims[0]: "s:", dims[-1]: "o-"}.items():
                right.plot(steps, [_or_nan(grid[Cell(layer, dim)]) for grid in grids], style, color=color, ms=3)
            right.annotate(
                f"layer {layer}",
                (steps[-1], _or_nan(grids[-1][Cell(layer, dims[-1])])),
                xytext=(4, -3),
                textcoords="offset points",
                color=color,
            )
        right.set(xlabel="step", title=f"dev score, {dims[-1]} dims (solid) and {dims[0]} (dotted)")
        right.margins(x=0.12)
        figure.savefig(path, dpi=150, facecolor="white")


def _heat_map(axes: Any, grid: Scores, layers: Sequence[int], dims: Sequence[int]) -> None:
    rows = [[_or_nan(grid[Cell(layer, dim)]) for dim in dims] for layer in layers]
    image = axes.imshow(rows, cmap="cividis", aspect="auto", origin="lower")
    for y, row in enumerate(rows):
        for x, score in enumerate(row):
            color = "white" if image.norm(score) < 0.55 else "black"
            axes.text(x, y, f"{score:.1f}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(dims)), [str(dim) for dim in dims])
    axes.set_yticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set(xlabel="dim", ylabel="layer", title="dev score (Spearman x 100) at the end")


def _or_nan(score: float | None) -> float:
    return float("nan") if score is None else score
