"""The figures as PNGs for a README, drawn by matplotlib without a display."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from m2d_export.bench.metrics import candidates, cascades, latencies, stored
from m2d_export.bench.quantities import Candidate, Cascade, Setup, Stored, Timing
from m2d_export.bench.records import Group
from m2d_export.bench.views import sts_labels, view_of
from m2d_export.host.extras import require
from m2d_export.report.formatting import names_of
from m2d_export.report.summary import setup_labels, setups_of
from m2d_export.select.pareto import few, front, steps

# Okabe and Ito's colours for kinds of things, viridis for what has an order: both are safe for colour-blind readers.
KINDS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "oDs^Pv*"
SOFT = "#5a636b"
WIDE, HIGH = 0.05, 0.04  # what a number takes of a picture
STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#c9ccc8",
    "axes.labelcolor": SOFT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e7e3",
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
}
Axes = Any  # matplotlib is an extra: its types are not there where it is not


def draw(group: Group, folder: Path, suffix: str) -> dict[str, str]:
    """Draw what the group's records hold into ``folder``; returns the file name of each picture by its section."""
    matplotlib = require("matplotlib", "report")
    records, view = group.records, view_of(group.records)
    label = sts_labels(records).get(view.sts or "", "")
    cells = candidates(records, view)
    names = setup_labels(setups_of(records, cells))
    scored = _first_setup([cell for cell in cells if cell.score is not None])
    timed = _first_setup([t for t in latencies(records) if view.shape and t.shape.scope == view.shape.scope])
    kept = _first_setup(stored(records, view.sts))
    passed = few(_first_setup([item for item in cascades(records) if item.collection == view.collection]))
    where = names[scored[0].setup] if scored else ""
    pictures: dict[str, tuple[str, bool, Callable[[Axes], None]]] = {
        "score": (f"Score (Spearman x 100)\n{where}, on {label}", bool(scored), lambda ax: _grid(ax, scored, "score")),
        "retention": (
            f"Retention, %\n{where}, on {label}",
            any(cell.retention is not None for cell in scored),
            lambda ax: _grid(ax, scored, "retention"),
        ),
        "front": (
            f"Score against throughput\non {label}, {view.times}",
            bool(front(cells)),
            lambda ax: _front(ax, cells, names),
        ),
        "latency": (
            f"Latency\n{names[timed[0].setup]}, {timed[0].shape.what}" if timed else "",
            bool(timed),
            lambda ax: _latency(ax, timed),
        ),
        "cascade": (
            f"Cascade\non {view.collection}, in {names[passed[0].setup]}, those that are cheapest for some recall"
            if passed
            else "",
            bool(passed),
            lambda ax: _cascade(ax, passed),
        ),
        "storage": (f"Index size against score\non {label}", bool(kept), lambda ax: _storage(ax, kept)),
    }
    made = {}
    with matplotlib.rc_context(STYLE):
        for key, (title, there, onto) in pictures.items():
            if there:
                figure = require("matplotlib.figure", "report").Figure(figsize=(7, 4.4), layout="constrained")
                axes = figure.subplots()
                onto(axes)
                head, *rest = title.split("\n")
                axes.set_title(fill("".join(rest), 95), loc="left", fontsize=9, color=SOFT)
                figure.suptitle(head, x=0.01, ha="left", fontsize=13, fontweight="bold")
                made[key] = f"{key}{suffix}.png"
                figure.savefig(folder / made[key], dpi=160, facecolor="white")
    return made


def _first_setup(items: Sequence[Any]) -> list[Any]:
    """Those of the most exact setup: a picture shows one, the page lets its reader choose."""
    return [item for item in items if item.setup == items[0].setup]


def _grid(axes: Axes, cells: Sequence[Candidate], name: str) -> None:
    layers, dims = names_of(cells)
    scale = 100 if name == "retention" else 1
    values = {(c.cell.layer, c.cell.dim): getattr(c, name) * scale for c in cells if getattr(c, name) is not None}
    rows = [[values.get((layer, dim), float("nan")) for dim in dims] for layer in layers]
    image = axes.imshow(rows, cmap="cividis", aspect="auto", origin="lower")
    for (layer, dim), value in values.items():
        light = image.norm(value) < 0.55
        place = (list(dims).index(dim), list(layers).index(layer))
        axes.text(*place, f"{value:.1f}", ha="center", va="center", color="white" if light else "black")
    axes.set_xticks(range(len(dims)), list(dims.values()))
    axes.set_yticks(range(len(layers)), list(layers.values()))
    note = "   (* not trained)" if any("*" in name for name in (*dims.values(), *layers.values())) else ""
    axes.set(xlabel=f"dim{note}", ylabel="layer")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _front(axes: Axes, cells: Sequence[Candidate], names: Mapping[Setup, str]) -> None:
    best = front(cells)
    for place, setup in enumerate(dict.fromkeys(cell.setup for cell in cells)):
        own = [c for c in cells if c.setup == setup and c.score is not None and c.sentences_per_second is not None]
        marker = {"marker": MARKERS[place % len(MARKERS)], "color": KINDS[place % len(KINDS)], "linewidths": 0}
        axes.scatter([c.sentences_per_second for c in own], [c.score for c in own], s=26, alpha=0.35, **marker)
        own = [c for c in best if c.setup == setup]
        shown = ([c.sentences_per_second for c in own], [c.score for c in own])
        axes.scatter(*shown, s=34, zorder=3, label=names[setup], **marker)
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


def _latency(axes: Axes, timings: Sequence[Timing]) -> None:
    """Over the batch size at the fewest tokens, or over the tokens where one batch size was timed."""
    sizes = {t.shape.batch_size for t in timings}
    along, other = ("batch_size", "tokens") if len(sizes) > 1 else ("tokens", "batch_size")
    fixed = min(getattr(t.shape, other) for t in timings)
    timings = [t for t in timings if getattr(t.shape, other) == fixed]
    layers = sorted({t.layer for t in timings})
    colours = require("matplotlib", "report").colormaps["viridis"]
    for place, layer in enumerate(layers):
        own = sorted((t for t in timings if t.layer == layer), key=lambda t: getattr(t.shape, along))
        shade = colours(0.88 * place / max(1, len(layers) - 1))
        x, y = [getattr(t.shape, along) for t in own], [t.p50_ms for t in own]
        upper = [t.p95_ms - t.p50_ms for t in own]
        marker = MARKERS[place % len(MARKERS)]
        axes.errorbar(x, y, yerr=[[0] * len(y), upper], color=shade, marker=marker, capsize=2.5, label=f"layer {layer}")
    axes.set(xscale="log", yscale="log", ylabel="ms a batch (p50, whiskers to p95)")
    axes.set_xlabel(f"{along.replace('_', ' ')}, at {other.replace('_', ' ')} {fixed}")
    ticks = sorted({getattr(t.shape, along) for t in timings})
    axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    _plain_ticks(axes, "y")
    axes.legend(fontsize=9)


def _cascade(axes: Axes, passed: Sequence[Cascade]) -> None:
    """A line for each cascade, and the shortlists that are the cheapest for what they find, where there is room."""
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


def _storage(axes: Axes, kept: Sequence[Stored]) -> None:
    deepest = max(item.cell.layer for item in kept)
    for place, storage in enumerate(dict.fromkeys(item.storage for item in kept)):
        own = [item for item in kept if item.storage == storage and item.cell.layer == deepest]
        style = {"color": KINDS[place % len(KINDS)], "marker": MARKERS[place % len(MARKERS)]}
        axes.plot([item.bytes_per_vector for item in own], [item.score for item in own], label=storage, **style)
    axes.set(xscale="log", xlabel="MB per million vectors", ylabel=f"score, layer {deepest}")
    _plain_ticks(axes, "x")
    axes.legend(fontsize=9)


def _plain_ticks(axes: Axes, which: str) -> None:
    """Plain numbers at 1, 2 and 5 of each decade, not powers of ten."""
    ticker = require("matplotlib.ticker", "report")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_locator(ticker.NullLocator())
