"""Score against speed of every system, as a picture."""

from pathlib import Path
from typing import Any

OURS, PEERS = "#d1495b", "#30638e"


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw the results of a run: short sentences per second, to the right, and the score, upwards."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    axes.set_xscale("log")
    rows = sorted(result["systems"].items(), key=lambda item: item[1]["short_per_second"])
    for place, (name, row) in enumerate(rows):
        ours = row["environment"] == "m2d-export"
        point = row["short_per_second"], row["score"]
        axes.scatter(*point, color=OURS if ours else PEERS, zorder=3)
        # Most systems share a score, so that labels on one line would cover one another.
        axes.annotate(
            name,
            point,
            xytext=(0, 14 + 15 * (place % 5)) if place % 2 else (0, -20 - 15 * (place % 5)),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color=OURS if ours else "black",
            arrowprops={"arrowstyle": "-", "color": "lightgrey", "shrinkB": 3},
        )
    axes.margins(x=0.18, y=0.45)
    axes.set_xlabel(
        f"STS-B sentences per second, {result['threads']} threads of {result['machine']['cpu']} (log scale)"
    )
    axes.set_ylabel("Spearman x 100 on STS-B test")
    axes.grid(color="#eeeeee")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    pyplot.close(figure)
