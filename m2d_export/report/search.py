"""What queries of each layer find in a collection, in their own index and in one of the deepest exit, and BM25."""

from dataclasses import dataclass

from m2d_export.bench.metrics import full_ndcg, index_ndcg
from m2d_export.bench.values import Candidate, Setup
from m2d_export.bench.views import bm25_record, bm25_text, index_text, prompts_text
from m2d_export.report.columns import text_of
from m2d_export.report.formatting import MISSING, axis_names, score, share
from m2d_export.report.results import Results

SEARCHES = ("retrieval", "index_retrieval")  # kinds of record
KEYS = ("ndcg", "ndcg_retention", "index_ndcg", "index_share")


@dataclass(frozen=True)
class SearchTable:
    """A row for each layer, the deepest first, then BM25; ``cells`` are those of the rows, all with one dim.

    ``keys`` name the values of a cell that are shown: the columns after the first.
    """

    heading: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    cells: tuple[Candidate, ...]
    keys: tuple[str, ...]

    def text(self, key: str, layer: int) -> str:
        """The value of a layer."""
        return next((text_of(key, cell) for cell in self.cells if cell.cell.layer == layer), MISSING)


def search_table(results: Results, setup: Setup | None = None) -> SearchTable | None:
    """The table of a setup, by default the most exact one, at the widest dim; None if nothing was searched."""
    searched = [cell for cell in results.cells if is_searched(cell) and setup in (None, cell.setup)]
    if not searched:
        return None
    own = [cell for cell in searched if cell.setup == searched[0].setup]
    dim = max(cell.cell.dim for cell in own)
    cells = sorted((cell for cell in own if cell.cell.dim == dim), key=lambda cell: -cell.cell.layer)
    names, _ = axis_names(cells)
    records, view = results.group.records, results.view
    keys = tuple(key for key in KEYS if any(getattr(cell, key) is not None for cell in cells))
    rows = [(names[cell.cell.layer], *(text_of(key, cell) for key in keys)) for cell in cells]
    bm25, index = bm25_record(records, view.collection), index_text(records, view.index)
    if bm25:
        full, best, value = full_ndcg(records, view.collection), index_ndcg(records, view), bm25["ndcg_at_10"]
        shares = {"ndcg_retention": value / full if full else None, "index_share": value / best if best else None}
        values = {"ndcg": score(value), **{key: share(shown) for key, shown in shares.items()}}
        rows.append((f"BM25 ({bm25['language']})", *(values.get(key, MISSING) for key in keys)))
    titles = {
        **{"ndcg": "nDCG@10", "ndcg_retention": "share"},
        **{"index_ndcg": f"in the index of {index}", "index_share": "share of its own queries"},
    }
    found = [f"Retrieval on {view.collection} at {dim} dims", bm25_text(records, view.collection)]
    found += [f"index of {index}" if "index_ndcg" in keys else "", prompts_text(records, view, *SEARCHES)]
    header = ("layer", *(titles[key] for key in keys))
    return SearchTable("; ".join(filter(None, found)), header, tuple(rows), tuple(cells), keys)


def is_searched(cell: Candidate) -> bool:
    """Whether a cell has a value of a search."""
    return cell.ndcg is not None or cell.index_ndcg is not None
