"""Tables of the shipped checkpoint, beside the checkpoints that it was made from (``benchmarks.distil``)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from benchmarks.distil import DEV, UNTOUCHED
from benchmarks.tables import on, result
from benchmarks.tables.distil import by_exit, share_of
from m2d_export import Cell
from m2d_export.report.formatting import plain_table, score

FILE = "shipped.json"
BEFORE, SHIPPED = "before the pairs", "shipped"  # names in the file
SEED = "seed "  # of other runs of the last training
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Quality:
    """STS-B test, share, and share with the documents of exit 6; None where the last has no floor."""

    sts: float
    share: float
    asym: float | None = None


# What the mean of three runs of the last training must reach (issue 27).
FLOORS: Mapping[Cell, Quality] = {
    Cell(6, 384): Quality(83.5, 0.94),
    Cell(3, 384): Quality(83.5, 0.80, 0.88),
    Cell(2, 384): Quality(82.0, 0.75, 0.87),
    Cell(1, 384): Quality(79.0, 0.70, 0.83),
    Cell(3, 64): Quality(82.0, 0.67),
    Cell(6, 64): Quality(82.0, 0.76),
}


def checkpoints() -> Mapping[str, Row]:
    """The exits of each checkpoint in the file: a row for each layer and dim."""
    return {name: row["exits"] for name, row in result(FILE)["checkpoints"].items()}


def sts(cell: Row) -> float:
    """The score on STS-B test."""
    value: float = cell["sts"]["test"]
    return value


def scores_of(name: str) -> dict[Cell, float]:
    """The score of every cell of a checkpoint on STS-B test."""
    exits = checkpoints()[name]
    return {Cell(int(layer), int(dim)): sts(cell) for layer, cells in exits.items() for dim, cell in cells.items()}


def full_width(name: str, layer: int) -> Row:
    """What was measured of an exit with all its dims."""
    cells: Mapping[str, Row] = checkpoints()[name][str(layer)]
    return cells[max(cells, key=int)]


def depth_of(name: str) -> int:
    """The deepest exit of a checkpoint."""
    return max(map(int, checkpoints()[name]))


def shipped() -> str:
    """STS-B and retrieval at every cell of the shipped checkpoint, and at full width of the untouched one."""
    exits = checkpoints()[SHIPPED]
    dims = list(next(iter(exits.values())))
    measures: Mapping[str, Callable[[Row], str]] = {
        "STS-B test (Spearman x 100)": lambda cell: score(sts(cell)),
        "Share in retrieval": lambda cell: share_of(cell["share"]),
        "Share in retrieval, with the documents of exit 6": lambda cell: share_of(cell.get("asym")),
    }
    header = ["layer", *(f"{dim} dims" for dim in dims), f"{UNTOUCHED}, {dims[0]}"]
    parts = []
    for title, value in measures.items():
        rows = [
            [layer, *(value(cell) for cell in exits[layer].values()), value(full_width(UNTOUCHED, int(layer)))]
            for layer in sorted(exits, key=int, reverse=True)
        ]
        parts.append(f"{title}:\n\n{plain_table(header, rows)}")
    lexical = result(FILE)["bm25"]
    fact = f"BM25 finds {share_of(lexical['share'])} with stems, and {share_of(lexical['plain'])} with plain words."
    return "\n\n".join([*parts, fact])


def stages() -> str:
    """Each exit at full width after each stage: in its own index, in that of exit 6, and in the untouched one's."""
    found = result(FILE)
    known = {name: row for name, row in found["checkpoints"].items() if not name.startswith(SEED)}
    width = str(found["base"]["width"])
    measures: Mapping[str, Callable[[Row], str]] = {
        "STS-B test": lambda cell: score(sts(cell)),
        "Share": lambda cell: share_of(cell["share"]),
        "Share, if the documents are those of the checkpoint's last exit": lambda cell: share_of(cell.get("asym")),
        "Share, if the documents are those of the untouched checkpoint": lambda cell: share_of(cell.get("base_index")),
        "Agreement with the untouched checkpoint, sentences of STS-B dev": lambda cell: score(cell["agreement"][DEV]),
        "Agreement with the untouched checkpoint, documents of the collections": lambda cell: score(
            mean(value for name, value in cell["agreement"].items() if name != DEV)
        ),
    }
    tables = [f"{what}:\n\n{by_exit(known, width, value)}" for what, value in measures.items()]
    return "\n\n".join([*tables, f"{on(found['machine'])}."])


def runs() -> Mapping[Cell, list[Quality]]:
    """What each run of the last training reached in the cells with floors."""
    exits = [exits for name, exits in checkpoints().items() if name == SHIPPED or name.startswith(SEED)]
    found = {}
    for cell in FLOORS:
        rows = [run[str(cell.layer)][str(cell.dim)] for run in exits]
        found[cell] = [Quality(sts(row), row["share"], row["asym"]) for row in rows]
    return found


def seeds() -> str:
    """The mean of all runs of the last training beside its floors."""
    found = runs()
    rows = [
        [
            str(cell),
            _beside(score, [run.sts for run in own], FLOORS[cell].sts),
            _beside(share_of, [run.share for run in own], FLOORS[cell].share),
            _beside(share_of, [run.asym for run in own if run.asym is not None], FLOORS[cell].asym),
        ]
        for cell, own in found.items()
    ]
    count = len(next(iter(found.values())))
    header = ["cell", "STS-B test", "share", "share, documents of exit 6"]
    which = (
        f"Mean of {count} runs, each with its own seed." if count > 1 else "One run; other seeds are not measured yet."
    )
    return f"{plain_table(header, rows)}\n\n{which}"


def _beside(show: Callable[[float], str], values: Sequence[float], floor: float | None) -> str:
    """Mean, standard deviation and floor of some values."""
    spread = f" ± {stdev(values):.2g}" if len(values) > 1 else ""
    return f"{show(mean(values))}{spread}" + (f" (floor {show(floor)})" if floor is not None else "")
