"""The columns of results: one list, from which terminal, Markdown, page and docs/results-format.md are made.

To add a column, add a row here and a field of ``Candidate`` that ``bench.metrics`` fills.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from m2d_export.bench.metrics import index_ndcg
from m2d_export.bench.records import Record
from m2d_export.bench.values import Candidate, StoredScore, Timing, View
from m2d_export.bench.views import bm25_record, bm25_text, index_text, sts_labels
from m2d_export.report.formatting import WRITERS, interval, share

# The notes of columns. For each note, ``PARTS`` has the part of a view that the values depend on.
LABEL, TEXTS, COLLECTION, BESIDE_BM25 = "on {label}", "on {texts}", "on {collection}", "on {collection}{bm25}"
INDEX, INDEX_TEXTS = "on {collection}, index of {index}", "on {texts}, index of {index}"
LATENCY, THROUGHPUT = "{latency}", "{throughput}"
PARTS = {
    **{LABEL: "sts", TEXTS: "texts", COLLECTION: "collection", BESIDE_BM25: "collection"},
    **{INDEX: "index", INDEX_TEXTS: "index", LATENCY: "times", THROUGHPUT: "times"},
}


@dataclass(frozen=True)
class Column:
    """A value of a candidate, and how it is shown.

    ``key`` is the field of ``Candidate``, ``write`` a name in ``WRITERS``, and ``source`` the record that the value
    comes from. ``note`` says what it was measured on; ``measured_on`` has the values for the names in braces.
    ``interval`` is the field with its 95 % interval. ``mark`` is a field whose name is added to the text if the field
    is true. ``heat`` is the heading of its heat-map, if it has one. On a terminal, the heat-map shows the column
    ``extra`` in brackets. ``shown`` is "table", "hover" (on the page, while the mouse is on a cell) or "data" (only as
    part of another column).
    """

    key: str
    title: str
    write: str
    source: str
    note: str = ""
    interval: str = ""
    mark: str = ""
    heat: str = ""
    extra: str = ""
    shown: str = "table"

    @property
    def part(self) -> str:
        """The part of a view that its values depend on; empty if there is none."""
        return PARTS.get(self.note, "")


COLUMNS = (
    Column(
        *("score", "score", "score", "`score`: `spearman.cosine`", LABEL, "interval"),
        heat="Score: Spearman × 100 on {label}",
        extra="retention",
    ),
    Column(
        *("retention", "retention", "share", "score / score of the full cell", LABEL),
        heat="Retention: share of the full cell's score on {label}",
    ),
    Column(
        *("difference", "difference to the full cell", "difference", "`score`: `difference`", LABEL),
        interval="difference_interval",
        shown="hover",
    ),
    Column("spearman", "Spearman by", "named", "`score`: `spearman`", LABEL, shown="hover"),
    Column("pearson", "Pearson by", "named", "`score`: `pearson`", LABEL, shown="hover"),
    Column("stored", "score as", "named", "`storage`: `spearman`, by `storage`", LABEL, shown="hover"),
    Column("pairs", "pairs", "count", "`score`: `pairs`", LABEL, shown="hover"),
    Column("time", "measured", "text", "`time` of the last quality record", LABEL, shown="hover"),
    Column("latency_ms", "p50 latency", "ms", "`latency`: `p50_ms`", LATENCY, mark="noisy"),
    Column("p95_ms", "p95", "ms", "`latency`: `p95_ms`", LATENCY, shown="hover"),
    Column("p99_ms", "p99", "ms", "`latency`: `p99_ms`", LATENCY, shown="hover"),
    Column("calls", "calls", "count", "`latency`: number of `seconds`", LATENCY, shown="hover"),
    Column("spread", "spread", "share", "`latency`: `spread`", LATENCY, shown="hover"),
    Column("noisy", "noisy", "text", "`latency`: `noisy`, of latency or throughput", LATENCY, shown="data"),
    Column("sentences_per_second", "sentences/s", "count", "`latency`: `sentences_per_second`", THROUGHPUT),
    Column(
        *("agreement", "agreement", "score", "`agreement`: `spearman`", TEXTS),
        heat="Agreement: Spearman with the full cell's similarities × 100 on {texts}",
        extra="overlap_at_10",
    ),
    Column("overlap_at_10", "overlap@10", "score", "`agreement`: `overlap_at_10`", TEXTS),
    Column("agreement_retention", "agreement retained", "share", "agreement / 100", TEXTS, shown="data"),
    Column(
        *("ndcg", "nDCG@10", "score", "`retrieval`: `ndcg_at_10`", BESIDE_BM25),
        heat="Retrieval: nDCG@10 × 100 on {collection}{bm25}",
        extra="recall_at_100",
    ),
    Column("ndcg_retention", "nDCG retained", "share", "nDCG@10 / nDCG@10 of the full cell", COLLECTION),
    Column("recall_at_100", "recall@100", "score", "`retrieval`: `recall_at_100`", COLLECTION),
    Column("bm25", "BM25's nDCG@10", "score", "`bm25`: `ndcg_at_10`", COLLECTION, shown="data"),
    Column(
        "index_cell", "index cell", "text", "`index_retrieval`, `index_agreement`: `index_cell`", INDEX, shown="data"
    ),
    Column("index_ndcg", "nDCG@10 in the index", "score", "`index_retrieval`: `ndcg_at_10`", INDEX),
    Column(
        *("index_share", "share in the index", "share", "`index_retrieval`: `share`", INDEX),
        heat="Queries in an index: nDCG@10 / that of its own queries on {collection}, index of {index}{bm25_share}",
        extra="index_ndcg",
    ),
    Column(
        *("index_overlap", "overlap@10 in the index", "score", "`index_agreement`: `overlap_at_10`", INDEX_TEXTS),
        heat="Queries in an index: overlap@10 with what its own queries find on {texts}, index of {index}",
    ),
    Column("index_overlap_share", "share in the index", "share", "overlap@10 / 100", INDEX_TEXTS, shown="data"),
    Column("bytes_per_vector", "bytes a vector (float32)", "count", "4 x `dim`"),
    Column("peak_mb", "peak memory", "mb", "`memory`: `peak_mb`"),
)
TABLE = tuple(column for column in COLUMNS if column.shown == "table")
# ``Timing`` has the fields of these columns too.
TIMES = tuple(column for column in COLUMNS if column.part == "times" and column.shown != "data")
BY_KEY: Mapping[str, Column] = {column.key: column for column in COLUMNS}


def measured_on(records: Sequence[Record], view: View) -> dict[str, str]:
    """What values were measured on, for the notes and headings of columns."""
    bm25, found = bm25_text(records, view.collection), bm25_record(records, view.collection)
    own = index_ndcg(records, view)
    beside = share(found["ndcg_at_10"] / own) if found and own else ""
    return {
        "label": sts_labels(records).get(view.sts or "", ""),
        "index": index_text(records, view.index),
        "bm25": f"; {bm25}" if bm25 else "",
        "bm25_share": f"; BM25 ({found['language']}) {beside}" if found and beside else "",
        "texts": view.texts or "",
        "collection": view.collection or "",
        "latency": str(view.shape or ""),
        "throughput": str(view.throughput or ""),
    }


def text_of(column: Column | str, candidate: Candidate | Timing) -> str:
    """A column's value as text, with its interval and its mark."""
    column = BY_KEY[column] if isinstance(column, str) else column
    ends = interval(getattr(candidate, column.interval)) if column.interval else ""
    mark = column.mark if column.mark and getattr(candidate, column.mark) else ""
    return " ".join(filter(None, (WRITERS[column.write](getattr(candidate, column.key)), ends, mark)))


def values_of(candidate: Candidate, part: str) -> dict[str, Any]:
    """The values, as JSON, of the columns that depend on ``part`` of a view."""
    keys = [key for column in COLUMNS if column.part == part for key in (column.key, column.interval) if key]
    return {key: _plain(getattr(candidate, key)) for key in keys}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: asdict(item) if isinstance(item, StoredScore) else item for name, item in value.items()}
    return value
