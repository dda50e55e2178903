"""Tables of checkpoints that were distilled from text, and of what a head costs."""

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.distil import UNTOUCHED
from benchmarks.head_cost import COMPARED
from benchmarks.tables import EXIT, not_yet, on, result
from m2d_export import Cell
from m2d_export.report.formatting import MISSING, milliseconds, plain_table, score
from train.distil.card import before_and_after

Row = Mapping[str, Any]
MEASURES: Mapping[str, Callable[[Row], str]] = {
    "STS-B test": lambda cell: score(cell["sts"].get("test")),
    "Share": lambda cell: share_of(cell.get("share")),
    "Share, if the documents are those of the checkpoint's last exit": lambda cell: share_of(cell.get("asym")),
    "Share, if the documents are those of the untouched checkpoint": lambda cell: share_of(cell.get("base_index")),
}


def distil(file: str = "distil.json") -> str:
    """Every exit of every checkpoint at full width and at the narrow dim, then how each checkpoint was made."""
    if missing := not_yet(file, "distil CHECKPOINT --distilled NAME=FOLDER"):
        return missing
    found = result(file)
    checkpoints: Mapping[str, Row] = found["checkpoints"]
    dims = list(next(iter(next(iter(checkpoints.values()))["exits"].values())))
    tables = [
        f"{what}, at {dim} dims:\n\n{by_exit(checkpoints, dim, value)}"
        for dim in dims
        for what, value in MEASURES.items()
        if any(
            value(row["exits"][layer][dim]) != MISSING
            for row in checkpoints.values()
            if row["facts"]
            for layer in row["exits"]
        )
    ]
    ndcg = ", ".join(f"{name} {score(value)}" for name, value in found["ndcg"].items())
    facts = (
        f"- nDCG@10 of the untouched checkpoint at full depth and width: {ndcg}. All shares are of this sum.\n"
        f"- BM25, with stems and without stop words: {share_of(found['bm25']['share'])}; with plain words: "
        f"{share_of(found['bm25']['plain'])}."
    )
    trained = any(row["facts"] and row["facts"].get("texts_seen") for row in checkpoints.values())
    picture = ["![scores of exits 1 and 3 by the number of texts seen](../docs/texts_seen.png)"] if trained else []
    return "\n\n".join([*tables, _made(checkpoints), facts, *picture, f"{on(found['machine'])}."])


def by_exit(checkpoints: Mapping[str, Row], dim: str, value: Callable[[Row], str]) -> str:
    """A measure of every exit of every checkpoint, at one dim."""
    layers = sorted({int(layer) for row in checkpoints.values() for layer in row["exits"]}, reverse=True)
    found = [[row["exits"].get(str(layer), {}).get(dim) for row in checkpoints.values()] for layer in layers]
    rows = [
        [str(layer), *(MISSING if cell is None else value(cell) for cell in cells)]
        for layer, cells in zip(layers, found, strict=True)
    ]
    return plain_table(["exit", *checkpoints], rows)


def share_of(value: float | None) -> str:
    """A share as text."""
    return MISSING if value is None else f"{value:.3f}"


def _made(checkpoints: Mapping[str, Row]) -> str:
    """How near each last exit is to the base, and the facts that distil wrote, of checkpoints that it made."""
    columns: Mapping[str, Callable[[Row], str]] = {
        "steps x texts": lambda facts: f"{facts['steps']:,} x {facts['batch']:,}",
        "texts seen": lambda facts: f"{facts['texts_seen']:,}",
        "distinct texts": lambda facts: f"{facts['texts']['own'] + facts['texts']['mix']:,}",
        "heads": lambda facts: f"{facts['seconds']['heads']:,.0f} s",
        "training": lambda facts: f"{facts['seconds']['training']:,.0f} s",
        "machine": lambda facts: str(facts["machine"]).partition(" (")[0],
    }
    rows = [
        [
            name,
            MISSING if row["mean_cosine"] is None else f"{row['mean_cosine']:.4f}",
            *(write(row["facts"]) if "texts_seen" in row["facts"] else MISSING for write in columns.values()),
        ]
        for name, row in checkpoints.items()
        if row["facts"]
    ]
    return plain_table(["checkpoint", "mean cosine of the last exit to the base", *columns], rows)


def few_texts() -> str:
    """Exit 3 with a head that was solved from few texts: at full width, without a mix and without training."""
    if missing := not_yet("few_texts.json", "distil CHECKPOINT --distilled COUNT=FOLDER"):
        return missing
    found = result("few_texts.json")
    rows = [
        [name if name == UNTOUCHED else f"{int(name):,}", score(cell["sts"]["test"]), share_of(cell["share"])]
        for name, row in found["checkpoints"].items()
        for cell in [row["exits"][str(EXIT)][str(found["base"]["width"])]]
    ]
    return plain_table(["texts", "STS-B test", "share"], rows)


def distil_agreement() -> str:
    """The agreement of every exit of other encoders, at full width and at the smallest dim, before and after."""
    if missing := not_yet("distil_agreement.json", "distil_agreement FOLDER"):
        return missing
    return "\n\n".join(_agreement(name, row) for name, row in result("distil_agreement.json")["checkpoints"].items())


def _agreement(name: str, row: Row) -> str:
    before, after = (
        {Cell.parse(cell): value for cell, value in row["agreement"][when].items()} for when in ("before", "after")
    )
    ends = {max(cell.dim for cell in after), min(cell.dim for cell in after)}
    grid = before_and_after(before, {cell: value for cell, value in after.items() if cell.dim in ends})
    texts, seconds = row["texts"], row["seconds"]
    if row["steps"]:
        trained = f", then {row['steps']:,} steps of {row['batch']} texts in {seconds['training']:,.0f} s"
    else:
        trained = (
            f"; a training of {seconds['training']:,.0f} s drifted and was taken back" if seconds["training"] else ""
        )
    made = (
        f"{name}, on {row['machine'].partition(' (')[0]}: heads from {texts['own'] + texts['mix']:,} texts in "
        f"{seconds['heads']:,.0f} s{trained}"
    )
    return f"{made}:\n\n{grid}"


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
