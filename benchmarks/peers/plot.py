"""Score against speed of every system, as a picture."""

from pathlib import Path
from typing import Any

OURS, PEERS = "#d1495b", "#30638e"


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw the results of a run: short sentences per second, to the right, and the score, upwards."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 7), layout="constrained")
    axes.set_xscale("log")
    rows = sorted(result["systems"].items(), key=lambda item: item[1]["short_per_second"])
    for place, (name, row) in enumerate(rows):
        colour = OURS if row["environment"] == "m2d-export" else PEERS
        point = row["short_per_second"], row["score"]
        axes.scatter(*point, color=colour, zorder=3)
        # Many systems share a score and nearly a speed: labels stand above in their order, side by side.
        axes.annotate(
            name,
            point,
            xytext=((place + 0.3) / len(rows), 1.01),
            textcoords="axes fraction",
            rotation=50,
            fontsize=8,
            color=colour,
            arrowprops={"arrowstyle": "-", "color": "lightgrey", "shrinkB": 4, "relpos": (0, 0)},
        )
    axes.margins(x=0.05, y=0.1)
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top + (top - bottom) / 2)  # room for the lines between points and labels
    threads, cpu = result["threads"], result["machine"]["cpu"]
    axes.set_xlabel(f"STS-B sentences per second, on {threads} threads of {cpu}")
    axes.set_ylabel("Spearman x 100 on STS-B test")
    axes.grid(color="#eeeeee")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)
