"""Draw the pictures of the README and of the benchmarks from the results.

python -m benchmarks.pictures [--folder docs]
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.text import Text

from benchmarks.common import MINILM, RESULTS, ROOT
from benchmarks.tables import EXIT, result
from benchmarks.tables.distil import UNTOUCHED
from benchmarks.tables.peers import AT_EXIT, OURS, fastest, is_peer, processor
from benchmarks.tables.quality import axes_of
from benchmarks.tables.shipped import SHIPPED, scores_of
from m2d_export import Cell
from m2d_export.report.formatting import rate, score

SIZE = (6.4, 5.2)  # inches, the same for both pictures: the README shows them side by side, at about half their size
EQUAL = 0.5  # points on STS-B that a system may lie below the reference
REFERENCE = "sentence-transformers torch fp32"
INK, SOFT, OWN, PEER = "#1f2328", "#59636e", "#0a7d62", "#b3bac2"
COLOURS = LinearSegmentedColormap.from_list("scores", ["#fff7d6", "#8ccfb7", "#2f8f9d", "#1d4f8c"])
STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 13,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


SEEN_EXITS = {"1": "#1d4f8c", "3": "#0a7d62"}
SEEN_PANELS = {
    "sts": "STS-B test",
    "share": "share of the base's nDCG@10",
    "asym": "the same, documents at exit 6",
}
# Exit, texts seen: STS-B test, share, asym. Batches of 1,024 on an H200, before this package had ``distil``.
PROTOTYPE: Mapping[tuple[str, int], tuple[float, float, float]] = {
    ("1", 3_100_000): (77.3, 0.755, 0.897),
    ("3", 300_000): (77.5, 0.784, 0.822),
    ("3", 3_100_000): (80.0, 0.831, 0.936),
}


@dataclass(frozen=True)
class Bar:
    """A system in the picture of speed."""

    name: str
    detail: str
    per_second: float
    ours: bool


def bars(found: dict[str, Any]) -> list[Bar]:
    """At most eight systems that score as the reference or higher, fastest first.

    Ours: the fastest at exit 3, at full depth, and at full depth in fp32. Peers: the fastest of each library and
    backend, and sentence-transformers in torch with fp32, its default.
    """
    rows, best = found["systems"], fastest(found, "short")
    equal = [name for name, row in rows.items() if row["score"] >= rows[REFERENCE]["score"] - EQUAL]
    exact = [name for name in equal if rows[name]["environment"] == OURS and name.endswith(" fp32")]
    chosen = [best.exit, best.full, max(exact, key=lambda name: rows[name]["short_per_second"]), REFERENCE]
    families: dict[str, list[str]] = {}
    for name in equal:
        if is_peer(rows[name]):
            families.setdefault(" ".join(name.split()[:2]), []).append(name)
    chosen += [max(names, key=lambda name: rows[name]["short_per_second"]) for names in families.values()]
    ordered = sorted(set(chosen) & set(equal), key=lambda name: -rows[name]["short_per_second"])
    return [_bar(name, rows[name]) for name in ordered]


def _bar(name: str, row: dict[str, Any]) -> Bar:
    system, _, setup = name.partition(" ")
    ours = row["environment"] == OURS
    if AT_EXIT in name:
        system, setup = f"{system}, exit {EXIT} of 6", f"shipped checkpoint, {setup.removesuffix(f' {AT_EXIT}')}"
    elif ours:
        system = f"{system}, all 6 layers"
    return Bar(system, setup, row["short_per_second"], ours)


def grid_picture(target: Path) -> None:
    """Heat-maps of the STS-B score, layer by dim: the untouched checkpoint and the shipped one, on one scale."""
    panels = {f"{MINILM}\nas published": scores_of(UNTOUCHED), "trained for its exits\n(shipped)": scores_of(SHIPPED)}
    layers, dims = axes_of(scores_of(SHIPPED))
    values = [[[scores[Cell(layer, dim)] for dim in dims] for layer in layers] for scores in panels.values()]
    low, high = (pick(score for rows in values for row in rows for score in row) for pick in (min, max))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        for axes, title, rows in zip(figure.subplots(1, 2, sharey=True), panels, values, strict=True):
            image = axes.imshow(rows, cmap=COLOURS, vmin=low, vmax=high, aspect="auto")
            for y, row in enumerate(rows):
                for x, value in enumerate(row):
                    colour = "white" if image.norm(value) > 0.5 else INK
                    axes.text(x, y, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=15)
            axes.set_xticks([x - 0.5 for x in range(1, len(dims))], minor=True)
            axes.set_yticks([y - 0.5 for y in range(1, len(layers))], minor=True)
            axes.grid(which="minor", color="white", linewidth=2)
            axes.set_title(title, fontsize=14, fontweight="bold")
            axes.set_xticks(range(len(dims)), [str(dim) for dim in dims])
            axes.set_xlabel("dims")
            _bare(axes)
        first = figure.axes[0]
        first.set_yticks(range(len(layers)), [str(layer) for layer in layers])
        first.set_ylabel("layers run")
        figure.suptitle("STS-B score of every cell", x=0.02, ha="left", fontsize=16, fontweight="bold")
        _save(figure, target)


def speed_picture(target: Path, found: dict[str, Any]) -> None:
    """Bars of sentences a second, of systems that score as the reference or higher."""
    shown = bars(found)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        places = range(len(shown))
        axes.barh(places, [bar.per_second for bar in shown], 0.42, color=[OWN if bar.ours else PEER for bar in shown])
        most = shown[0].per_second
        for place, bar in zip(places, shown, strict=True):
            weight = "bold" if bar.ours else "normal"
            name = axes.text(0, place - 0.27, bar.name, va="bottom", fontweight=weight)
            axes.annotate(f"  {bar.detail}", (1, 0), xycoords=name, va="bottom", color=SOFT, fontsize=11)
            axes.text(bar.per_second + most / 80, place, rate(bar.per_second), va="center", fontweight=weight)
        axes.set(xlim=(0, 1.13 * most), ylim=(len(shown) - 0.5, -0.9))
        axes.set_xticks([])
        axes.set_yticks([])
        _bare(axes)
        figure.suptitle(
            "Sentences a second, at equal or higher score", x=0.02, ha="left", fontsize=16, fontweight="bold"
        )
        axes.set_xlabel(_conditions(found), fontsize=10.5, color=SOFT, loc="left", multialignment="left")
        _save(figure, target)


def _conditions(found: dict[str, Any]) -> str:
    least = score(found["systems"][REFERENCE]["score"] - EQUAL)
    name, _, _ = processor(found).partition(" (")  # its instructions would not fit
    return f"{MINILM} if not marked; all score {least} or more on STS-B\n{name}"


def texts_seen_picture(target: Path, found: dict[str, Any]) -> None:
    """Texts seen against scores of two exits: runs of ``distil``, and those of the prototype, another set-up."""
    rows = [row for row in found["checkpoints"].values() if row["facts"] and row["facts"].get("texts_seen")]
    runs = sorted(rows, key=lambda row: row["facts"]["texts_seen"])
    width = str(found["base"]["width"])
    with matplotlib.rc_context({**STYLE, "font.size": 11}):
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        for place, (panel, axes) in enumerate(zip(SEEN_PANELS, figure.subplots(1, 3), strict=True)):
            for layer, colour in SEEN_EXITS.items():
                cells = [row["exits"][layer][width] for row in runs]
                values = [cell["sts"]["test"] if panel == "sts" else cell[panel] for cell in cells]
                seen = [row["facts"]["texts_seen"] for row in runs]
                axes.plot(seen, values, "o-", color=colour, label=f"exit {layer}")
                older = {seen: scores[place] for (exit_, seen), scores in PROTOTYPE.items() if exit_ == layer}
                name = f"exit {layer}, prototype"
                axes.plot([*older], [*older.values()], "s:", color=colour, markerfacecolor="white", label=name)
            axes.set(xscale="log", title=SEEN_PANELS[panel], xlabel="texts seen")
            axes.grid(color="#e6e8eb")
            axes.spines[["top", "right"]].set_visible(False)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        batches = " and ".join(f"{batch:,}" for batch in sorted({row["facts"]["batch"] for row in runs}))
        figure.suptitle(
            f"{MINILM} at {width} dims. Runs in batches of {batches}; prototype: another set-up, batches of 1,024",
            fontsize=11,
        )
        _save(figure, target)


def _bare(axes: Any) -> None:
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", length=0)


def _save(figure: Figure, target: Path) -> None:
    """Write a PNG whose description holds all texts of the picture, so that a test can see if it is out of date."""
    texts = "; ".join(text.get_text().replace("\n", " ") for text in figure.findobj(Text) if text.get_text())
    figure.savefig(target, dpi=160, facecolor="white", metadata={"Software": None, "Description": texts})


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw all."""
    parser = argparse.ArgumentParser("python -m benchmarks.pictures", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "docs", help="default: docs")
    folder = parser.parse_args(arguments).folder
    grid_picture(folder / "grid.png")
    speed_picture(folder / "speed.png", result("peers.json"))
    if (RESULTS / "distil.json").exists():
        texts_seen_picture(folder / "texts_seen.png", result("distil.json"))


if __name__ == "__main__":
    main()
