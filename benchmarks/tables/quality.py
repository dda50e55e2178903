"""Tables of scores: the grid of an ordinary checkpoint, agreement, and what training on pairs gains."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from benchmarks.common import RESULTS
from benchmarks.tables import on, result
from m2d_export import Cell
from m2d_export.bench.metrics import candidates, latencies
from m2d_export.bench.records import read_records
from m2d_export.bench.values import Shape
from m2d_export.report.formatting import milliseconds, plain_table, rate, score

FILE = "minilm_stsb.jsonl"
TOKENS = 16
RECIPES = {"base": "untouched base", "stock": "stock recipe", "grid": "grid recipe"}


def axes_of(cells: Iterable[Cell]) -> tuple[list[int], list[int]]:
    """The layers and the dims of some cells, largest first."""
    own = list(cells)
    return sorted({cell.layer for cell in own}, reverse=True), sorted({cell.dim for cell in own}, reverse=True)


def grid() -> str:
    """Scores of the untouched checkpoint, and the time of every exit."""
    records = read_records(RESULTS / FILE)
    scores = {cell.cell: cell.score for cell in candidates(records) if cell.score is not None}
    timings = {(timing.layer, timing.shape): timing for timing in latencies(records)}
    layers, dims = axes_of(scores)
    header = ["layer", *(f"{dim} dims" for dim in dims), "one text, p50", "in batches of 32"]
    rows = []
    for layer in layers:
        one, many = (timings[layer, Shape(size, TOKENS, "graph")] for size in (1, 32))
        times = [milliseconds(one.latency_ms), f"{rate(many.sentences_per_second)}/s"]
        rows.append([str(layer), *(score(scores[Cell(layer, dim)]) for dim in dims), *times])
    full, third = scores[Cell(layers[0], dims[0])], min(dim for dim in dims if 3 * dim >= dims[0])
    facts = (
        f"- At full depth, cutting {dims[0]} dims to {third} costs {full - scores[Cell(layers[0], third)]:.1f} points. "
        f"At {dims[0]} dims, cutting one layer costs {full - scores[Cell(layers[1], dims[0])]:.1f}.\n"
        f"- Times are those of the graph alone, in fp32, at {TOKENS} tokens a text."
    )
    return f"{plain_table(header, rows)}\n\n{facts}\n\n{on(records[0]['machine'])}."


def agreement() -> str:
    """How well agreement on unlabelled sentences ranks the cells."""
    found = result("agreement_vs_score.json")
    cells = (("all cells", "rank_correlation"), ("without the full cell", "rank_correlation_without_the_full_cell"))
    names = {
        "spearman": "agreement",
        "random_spearman": "random pairs only",
        "nearest_spearman": "nearest pairs only",
        "overlap_at_10": "overlap of the 10 nearest",
    }
    rows = [[title, *(f"{found[key][name]:.3f}" for name in names)] for title, key in cells]
    header = ["rank correlation with the score", *names.values()]
    where = f"{len(found['cells'])} cells; {found['texts']}; {found['pairs']}; {on(found['machine'])}."
    return f"{plain_table(header, rows)}\n\n{where}"


def runs() -> str:
    """Mean and standard deviation of every recipe on STS-B test, at the widest and the narrowest trained dim."""
    found = result("training.json")
    spreads: dict[str, Any] = {recipe: spread["test"] for recipe, spread in found["spread"].items()}
    layers, dims = _axes_of_names(next(iter(spreads.values())))
    return _by_exit(
        layers,
        found["runs"],
        lambda recipe, layer: " | ".join(_mean(spreads[recipe][f"{layer}x{dim}"]) for dim in (dims[0], dims[-1])),
    )


def elsewhere() -> str:
    """Agreement of every exit with the untouched base's full vector, on text of another kind."""
    found = result("training.json")["runs"]
    layers = sorted(map(int, found["base"][0]["agreement"]), reverse=True)
    return _by_exit(
        layers, found, lambda recipe, layer: score(mean(r["agreement"][str(layer)]["spearman"] for r in found[recipe]))
    )


def _by_exit(layers: Sequence[int], runs: Mapping[str, Sequence[Any]], cell: Callable[[str, int], str]) -> str:
    titles = [RECIPES.get(name, name) + (f", {len(own)} runs" if len(own) > 1 else "") for name, own in runs.items()]
    return plain_table(["exit", *titles], [[str(layer), *(cell(name, layer) for name in runs)] for layer in layers])


def _axes_of_names(cells: Iterable[str]) -> tuple[list[int], list[int]]:
    return axes_of(Cell(*map(int, name.split("x"))) for name in cells)


def _mean(cell: Mapping[str, float]) -> str:
    return score(cell["mean"]) + (f" ± {cell['sd']:.1f}" if "sd" in cell else "")


def ablation() -> str:
    """STS-B dev after short runs of each recipe, at the widest and the narrowest trained dim."""
    found = result("ablation.json")
    layers, dims = _axes_of_names(found["rows"][0]["dev"])
    header = ["recipe", *(f"exit {layer}" for layer in layers), "all cells"]
    rows = [
        [
            row["recipe"],
            *(" | ".join(score(row["dev"][f"{layer}x{dim}"]) for dim in (dims[0], dims[-1])) for layer in layers),
            f"{mean(row['dev'].values()):.2f}",
        ]
        for row in found["rows"]
    ]
    return plain_table(header, rows)
