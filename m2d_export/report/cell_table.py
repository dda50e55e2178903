"""All that is known of every cell as one table of the Markdown: the columns of the page's, and Pearson beside them."""

from collections.abc import Callable, Mapping, Sequence

from m2d_export.bench.quantities import Candidate, Setup, View
from m2d_export.report.formatting import MISSING, interval, megabytes, milliseconds, rate, score, share, table
from m2d_export.select.pareto import front

Column = tuple[str, Callable[[Candidate], str]]


def all_cells(cells: Sequence[Candidate], view: View, label: str, names: Mapping[Setup, str]) -> str:
    """Every cell with every figure that was measured of any; a column without figures is left out."""
    best = {id(cell) for cell in front(cells)}
    columns: list[Column] = [
        (f"score on {label}", lambda cell: f"{score(cell.score)} {interval(cell.interval)}".strip()),
        ("retention", lambda cell: share(cell.retention)),
        (f"Pearson on {label}", lambda cell: score(cell.pearson.get("cosine"))),
        (f"agreement on {view.texts}", lambda cell: score(cell.agreement)),
        ("overlap@10", lambda cell: score(cell.overlap_at_10)),
        (f"nDCG@10 on {view.collection}", lambda cell: score(cell.ndcg)),
        ("recall@100", lambda cell: score(cell.recall_at_100)),
        ("p50", lambda cell: milliseconds(cell.latency_ms) + (" noisy" if cell.noisy else "")),
        ("sentences/s", lambda cell: rate(cell.sentences_per_second)),
        ("J a sentence", lambda cell: MISSING if (used := cell.joules_per_sentence) is None else f"{used:.3g}"),
        ("bytes a vector, fp32", lambda cell: f"{cell.bytes_per_vector:,}"),
        ("peak memory", lambda cell: megabytes(cell.peak_mb)),
    ]
    known = [(name, write) for name, write in columns if any(write(cell) != MISSING for cell in cells)]
    rows = [[_name(cell, id(cell) in best), names[cell.setup], *(write(cell) for _, write in known)] for cell in cells]
    if not rows:
        return ""
    notes = [f"Times of {view.times}."] if view.times else []
    notes += ["◆ on the Pareto front."] if best else []
    notes += ["\\* a layer or dim that was not trained."] if any("*" in row[0] for row in rows) else []
    return table(["cell", "variant", *(name for name, _ in known)], rows) + "".join(f"\n{' '.join(notes)}\n")


def _name(cell: Candidate, best: bool) -> str:
    return f"{cell.cell}" + "*" * (not cell.trained) + " ◆" * best
