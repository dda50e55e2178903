"""The charts as PNGs for a README, drawn by matplotlib without a display.

A function of ``PICTURES`` draws on axes and returns the title. It returns None if the results have no values for the
chart. The first line of a title is large.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any

from m2d_export.bench.values import Cascade, Timing
from m2d_export.bench.views import bm25_record, index_text
from m2d_export.host.extras import require
from m2d_export.report.columns import BY_KEY, measured_on
from m2d_export.report.formatting import axis_names
from m2d_export.report.pareto import few, front, steps
from m2d_export.report.results import Results
from m2d_export.report.search import search_table
from m2d_export.spec import Cell

# Colour-blind readers can tell these colours apart: Okabe and Ito's are for kinds, viridis is for an order.
KINDS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "oDs^Pv*"
SOFT = "#5a636b"
WIDE, HIGH = 0.05, 0.04  # size of a number, as a share of the axes
STYLE = {
    **{"font.family": ["DejaVu Sans"], "font.size": 10, "legend.frameon": False},
    "text.parse_math": False,  # a name may hold dollar signs
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#c9ccc8", "axes.labelcolor": SOFT},
    **{"axes.grid": True, "axes.axisbelow": True, "grid.color": "#e6e7e3", "xtick.color": SOFT, "ytick.color": SOFT},
}
Axes = Any  # matplotlib is an extra and may be missing


def draw(results: Results, folder: Path, suffix: str) -> dict[str, str]:
    """Draw the charts that have values into ``folder``; returns the file of each picture by its name."""
    matplotlib = require("matplotlib", "report")
    made = {}
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a letter that the font does not have is drawn as a box
        for name, onto in PICTURES.items():
            picture = require("matplotlib.figure", "report").Figure(figsize=(7, 4.4), layout="constrained")
            axes = picture.subplots()
            title = onto(axes, results)
            if title is None:
                continue
            head, *rest = title.split("\n")
            axes.set_title(fill("".join(rest), 95), loc="left", fontsize=9, color=SOFT)
            picture.suptitle(head, x=0.01, ha="left", fontsize=13, fontweight="bold")
            made[name] = f"{name}{suffix}.png"
            picture.savefig(folder / made[name], dpi=160, facecolor="white")
    return made


def _first_setup(items: Sequence[Any]) -> list[Any]:
    """The items of the most exact setup, because a picture shows one setup only."""
    return [item for item in items if item.setup == items[0].setup]


def _heat_map(axes: Axes, results: Results, name: str) -> str | None:
    cells = _first_setup([cell for cell in results.cells if getattr(cell, name) is not None])
    if not cells:
        return None
    scale = 100 if name == "retention" else 1
    draw_heat_map(axes, {cell.cell: getattr(cell, name) * scale for cell in cells}, *axis_names(cells))
    heading, _, what = BY_KEY[name].heat.format(**measured_on(results.group.records, results.view)).partition(": ")
    return f"{heading}{', %' if name == 'retention' else ''}\n{what}; {results.labels[cells[0].setup]}"


def draw_heat_map(axes: Axes, values: Mapping[Cell, float], layers: Mapping[int, str], dims: Mapping[int, str]) -> None:
    """Draw layers x dims, each cell with its colour and its value; ``layers`` and ``dims`` name rows and columns.

    If a name has an asterisk, a note says that it marks what was not trained.
    """
    rows = [[values.get(Cell(layer, dim), float("nan")) for dim in dims] for layer in layers]
    image = axes.imshow(rows, cmap="cividis", aspect="auto", origin="lower")
    for cell, value in values.items():
        light = image.norm(value) < 0.55
        place = (list(dims).index(cell.dim), list(layers).index(cell.layer))
        axes.text(*place, f"{value:.1f}", ha="center", va="center", color="white" if light else "black")
    axes.set_xticks(range(len(dims)), list(dims.values()))
    axes.set_yticks(range(len(layers)), list(layers.values()))
    note = "   (* not trained)" if any("*" in name for name in (*dims.values(), *layers.values())) else ""
    axes.set(xlabel=f"dim{note}", ylabel="layer")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _front(axes: Axes, results: Results) -> str | None:
    cells, best = results.cells, front(results.cells)
    if not best:
        return None
    for place, setup in enumerate(dict.fromkeys(cell.setup for cell in cells)):
        own = [c for c in cells if c.setup == setup and c.score is not None and c.sentences_per_second is not None]
        marker = {"marker": MARKERS[place % len(MARKERS)], "color": KINDS[place % len(KINDS)], "linewidths": 0}
        axes.scatter([c.sentences_per_second for c in own], [c.score for c in own], s=26, alpha=0.35, **marker)
        own = [c for c in best if c.setup == setup]
        shown = ([c.sentences_per_second for c in own], [c.score for c in own])
        axes.scatter(*shown, s=34, zorder=3, label=results.labels[setup], **marker)
    speeds, scores = [c.sentences_per_second for c in best], [c.score for c in best]
    below = [c.score - c.interval[0] if c.interval else 0 for c in best if c.score is not None]
    above = [c.interval[1] - c.score if c.interval else 0 for c in best if c.score is not None]
    axes.errorbar(speeds, scores, yerr=[below, above], color="#333333", linewidth=1.2, elinewidth=0.9, capsize=2.5)
    for cell in best:
        at = (cell.sentences_per_second, cell.score)
        axes.annotate(str(cell.cell), at, xytext=(5, 5), textcoords="offset points", fontsize=9)
    axes.set(xscale="log", xlabel="sentences/s", ylabel="score (whiskers: 95 % interval)")
    axes.margins(x=0.12)
    _plain_ticks(axes, "x")
    axes.legend(loc="lower left", fontsize=9)
    return f"Score against throughput\non {results.label}, {results.view.times}"


def _latency(axes: Axes, results: Results) -> str | None:
    """Latency by batch size at the fewest tokens; by tokens if only one batch size was timed."""
    view = results.view
    timings: list[Timing] = _first_setup(
        [t for t in results.timings if view.shape and t.shape.scope == view.shape.scope]
    )
    if not timings:
        return None
    sizes = {t.shape.batch_size for t in timings}
    along, other = ("batch_size", "tokens") if len(sizes) > 1 else ("tokens", "batch_size")
    fixed = min(getattr(t.shape, other) for t in timings)
    timings = [t for t in timings if getattr(t.shape, other) == fixed]
    layers = sorted({t.layer for t in timings})
    colours = require("matplotlib", "report").colormaps["viridis"]
    for place, layer in enumerate(layers):
        own = sorted((t for t in timings if t.layer == layer), key=lambda t: getattr(t.shape, along))
        shade = colours(0.88 * place / max(1, len(layers) - 1))
        x, y = [getattr(t.shape, along) for t in own], [t.latency_ms for t in own]
        upper = [t.p95_ms - t.latency_ms for t in own]
        marker = MARKERS[place % len(MARKERS)]
        axes.errorbar(x, y, yerr=[[0] * len(y), upper], color=shade, marker=marker, capsize=2.5, label=f"layer {layer}")
    axes.set(xscale="log", yscale="log", ylabel="ms a batch (p50, whiskers to p95)")
    axes.set_xlabel(f"{along.replace('_', ' ')}, at {other.replace('_', ' ')} {fixed}")
    ticks = sorted({getattr(t.shape, along) for t in timings})
    axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    _plain_ticks(axes, "y")
    axes.legend(fontsize=9)
    return f"Latency\n{results.labels[timings[0].setup]}, {timings[0].shape.what}"


def _search(axes: Axes, results: Results) -> str | None:
    """Lines for what layers find by themselves, for their queries in an index, and for BM25, at the widest dim."""
    found = search_table(results)
    if found is None:
        return None
    view, records = results.view, results.group.records
    names = {"ndcg": "index of its own layer", "index_ndcg": f"index of {index_text(records, view.index)}"}
    for place, (key, name) in enumerate(names.items()):
        cells = [cell for cell in found.cells if getattr(cell, key) is not None]
        if cells:
            style = {"color": KINDS[place], "marker": MARKERS[place]}
            axes.plot([c.cell.layer for c in cells], [getattr(c, key) for c in cells], label=name, **style)
    if bm25 := bm25_record(records, view.collection):
        style = {"color": SOFT, "linestyle": "--", "label": f"BM25 ({bm25['language']})"}
        axes.axhline(bm25["ndcg_at_10"], **style)
    layers, _ = axis_names(found.cells)
    axes.set_xticks(list(layers), list(layers.values()))
    axes.set(xlabel="layer that encodes the queries", ylabel="nDCG@10")
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right", fontsize=9)
    return f"Retrieval\non {view.collection}, {found.cells[0].cell.dim} dims; {results.labels[found.cells[0].setup]}"


def _cascade(axes: Axes, results: Results) -> str | None:
    """A line for each cascade, with numbers at the cheapest shortlists if there is room."""
    here = [item for item in results.cascades if item.collection == results.view.collection]
    passed: list[Cascade] = few(_first_setup(here))
    if not passed:
        return None
    for place, item in enumerate(passed):
        style = {"color": KINDS[place % len(KINDS)], "marker": MARKERS[place % len(MARKERS)]}
        axes.plot(item.cost_ms, item.recall_at_10, label=f"{item.cheap} → {item.deep}", **style)
    axes.autoscale_view()
    taken: list[tuple[float, float]] = []
    for step in steps(passed):
        item = passed[step.cascade]
        at = (item.cost_ms[step.shortlist], item.recall_at_10[step.shortlist])
        x, y = axes.transLimits.transform(at)
        if all(abs(x - other) > WIDE or abs(y - high) > HIGH for other, high in taken):
            taken.append((x, y))
            length = f"{item.shortlist[step.shortlist]:,}"
            axes.annotate(length, at, xytext=(4, -11), textcoords="offset points", fontsize=8)
    axes.set(xlabel="ms a query, encoding and searching (numbers: shortlist length)", ylabel="recall@10")
    axes.legend(loc="lower right", fontsize=9)
    where = f"on {results.view.collection}, in {results.labels[passed[0].setup]}"
    return f"Cascade\n{where}, those that are cheapest for some recall"


def _storage(axes: Axes, results: Results) -> str | None:
    cells = _first_setup([cell for cell in results.cells if cell.stored])
    if not cells:
        return None
    deepest = max(cell.cell.layer for cell in cells)
    for place, storage in enumerate(dict.fromkeys(name for cell in cells for name in cell.stored)):
        own = [cell.stored[storage] for cell in cells if storage in cell.stored and cell.cell.layer == deepest]
        style = {"color": KINDS[place % len(KINDS)], "marker": MARKERS[place % len(MARKERS)]}
        axes.plot([item.bytes_per_vector for item in own], [item.score for item in own], label=storage, **style)
    axes.set(xscale="log", xlabel="MB per million vectors", ylabel=f"score, layer {deepest}")
    _plain_ticks(axes, "x")
    axes.legend(fontsize=9)
    return f"Index size against score\non {results.label}"


def _plain_ticks(axes: Axes, which: str) -> None:
    """Label the axis at 1, 2 and 5 times the powers of ten, with plain numbers."""
    ticker = require("matplotlib.ticker", "report")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_locator(ticker.NullLocator())


PICTURES: Mapping[str, Callable[[Axes, Results], str | None]] = {
    **{"score": partial(_heat_map, name="score"), "retention": partial(_heat_map, name="retention"), "front": _front},
    "search": _search,
    **{"latency": _latency, "cascade": _cascade, "storage": _storage},
}
