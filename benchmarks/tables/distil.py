"""Tables of checkpoints that were distilled from text, and of what a head costs."""

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.head_cost import COMPARED
from benchmarks.tables import not_yet, on, result
from m2d_export.report.formatting import MISSING, milliseconds, plain_table, score

TEST = "test"
Row = Mapping[str, Any]


def distil(file: str = "distil.json") -> str:
    """Every exit of every checkpoint at full width and at the narrow dim, then how each checkpoint was made."""
    if missing := not_yet(file, "distil CHECKPOINT --distilled NAME=FOLDER"):
        return missing
    found = result(file)
    checkpoints: Mapping[str, Row] = found["checkpoints"]
    dims = list(next(iter(next(iter(checkpoints.values()))["exits"].values())))
    tables = [f"At {dim} dims:\n\n{_scores(checkpoints, dim)}" for dim in dims]
    ndcg = ", ".join(f"{name} {score(value)}" for name, value in found["ndcg"].items())
    facts = (
        f"- nDCG@10 of the untouched checkpoint at full depth and width: {ndcg}. All shares are of this sum.\n"
        f"- BM25, with a stemmer and stop words: {_share(found['bm25']['share'])}."
    )
    trained = any(row["facts"] and row["facts"]["steps"] for row in checkpoints.values())
    picture = ["![scores of exits 1 and 3 by the number of texts seen](../docs/texts_seen.png)"] if trained else []
    return "\n\n".join([*tables, _made(checkpoints), facts, *picture, f"{on(found['machine'])}."])


def _scores(checkpoints: Mapping[str, Row], dim: str) -> str:
    layers = sorted({int(layer) for row in checkpoints.values() for layer in row["exits"]}, reverse=True)
    rows = [
        [str(layer), *(_cell(row["exits"].get(str(layer), {}).get(dim)) for row in checkpoints.values())]
        for layer in layers
    ]
    return plain_table(["exit", *checkpoints], rows)


def _cell(cell: Row | None) -> str:
    """STS-B, share, asymmetric share, share in the index of the base."""
    if cell is None:
        return MISSING
    shares = (_share(cell.get(name)) for name in ("share", "asym", "base_index"))
    return " \\| ".join([score(cell["sts"].get(TEST)), *shares])


def _share(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def _made(checkpoints: Mapping[str, Row]) -> str:
    """The facts that distil wrote."""
    columns: Mapping[str, Callable[[Row], str]] = {
        "steps": lambda facts: f"{facts['steps']:,} of {facts['batch']:,}",
        "texts seen": lambda facts: f"{facts['texts_seen']:,}",
        "distinct texts": lambda facts: f"{facts['texts']['own'] + facts['texts']['mix']:,}",
        "heads": lambda facts: f"{facts['seconds']['heads']:,.0f} s",
        "training": lambda facts: f"{facts['seconds']['training']:,.0f} s",
        "machine": lambda facts: str(facts["machine"]).partition(" (")[0],
    }
    rows = [
        [name, f"{row['mean_cosine']:.4f}", *(write(row["facts"]) for write in columns.values())]
        for name, row in checkpoints.items()
        if row["facts"]
    ]
    return plain_table(["checkpoint", "mean cosine of the last exit to the base", *columns], rows)


def head_cost() -> str:
    """The time of an exit without a head, with a head over its own layer, and with one over all layers."""
    if missing := not_yet("head_cost.json", "head_cost"):
        return missing
    found = result("head_cost.json")
    kinds = list(next(iter(next(iter(found["exits"].values())).values()))["milliseconds"])
    rows = [
        [
            exit_,
            shape,
            *(milliseconds(row["milliseconds"][kind]) for kind in kinds),
            *(f"{row[name]['mean']:.3f} [{row[name]['low']:.3f}, {row[name]['high']:.3f}]" for name in COMPARED),
        ]
        for exit_, shapes in found["exits"].items()
        for shape, row in shapes.items()
    ]
    header = ["exit", "texts x tokens", *kinds, *(" / ".join(pair) for pair in COMPARED.values())]
    where = f"Medians of {found['rounds']} rounds on {found['threads']} threads; {on(found['machine'])}."
    return f"{plain_table(header, rows)}\n\n{where}"
