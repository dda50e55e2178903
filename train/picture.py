"""The picture of a training: the last grid, and how its scores grew."""

from collections.abc import Sequence
from pathlib import Path

from m2d_export.host.extras import require
from m2d_export.report.pictures import STYLE, draw_heat_map
from m2d_export.spec import Cell

from .log import Entry


def draw(log: Sequence[Entry], path: Path) -> None:
    """Write a PNG: a heat-map of the last dev scores, and a line per layer for the largest and the smallest dim."""
    matplotlib = require("matplotlib", "train")
    colors = matplotlib.colormaps["viridis"]
    steps, grids = [entry.step for entry in log], [entry.scores for entry in log]
    layers, dims = (sorted({getattr(cell, axis) for cell in grids[-1]}) for axis in ("layer", "dim"))
    with matplotlib.rc_context(STYLE):
        figure = require("matplotlib.figure", "train").Figure(figsize=(11, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        known = {cell: value for cell, value in grids[-1].items() if value is not None}
        draw_heat_map(left, known, {layer: str(layer) for layer in layers}, {dim: str(dim) for dim in dims})
        left.set_title("dev score (Spearman x 100) at the end")
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
        right.set(xlabel="step", title=f"dev score, {dims[-1]} dims (solid) and {dims[0]} dims (dotted)")
        right.margins(x=0.12)
        figure.savefig(path, dpi=150, facecolor="white")


def _or_nan(score: float | None) -> float:
    return float("nan") if score is None else score
