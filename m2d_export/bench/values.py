"""The values that are derived from records, in the words of docs/results-format.md."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from m2d_export.spec import BYTES_PER_FLOAT, Cell

Interval = tuple[float, float]
OWN = "own"  # the name of the index that the measured bundle made


@dataclass(frozen=True)
class Setup:
    """What ran an exit; ``threads`` is None if nothing was timed."""

    precision: str
    runtime: str
    compute: str
    provider: str
    threads: int | None = None

    @property
    def untimed(self) -> "Setup":
        """The same setup without threads, because threads change the times and not the vectors."""
        return replace(self, threads=None)


@dataclass(frozen=True, order=True)
class Shape:
    """A batch that was timed; the scope ``graph`` is the model only, and ``text`` includes the tokenizer."""

    batch_size: int
    tokens: int
    scope: str

    @property
    def what(self) -> str:
        """The scope in words."""
        return "model only" if self.scope == "graph" else "text to vector"

    def __str__(self) -> str:
        return f"batch {self.batch_size} x {self.tokens} tokens, {self.what}"


@dataclass(frozen=True)
class View:
    """Which measurements to show if there are several; None if there is none.

    Latency is shown at ``shape``, and throughput at ``throughput``. ``index`` is the id of the bundle that made the
    index in which queries searched.
    """

    sts: str | None = None
    shape: Shape | None = None
    texts: str | None = None
    collection: str | None = None
    throughput: Shape | None = None
    index: str | None = None

    @property
    def times(self) -> str:
        """The shapes of latency and throughput in words."""
        return times_text(self.shape, self.throughput)


def times_text(latency: Shape | None, throughput: Shape | None) -> str:
    """Two shapes with the same tokens and scope in words; empty if there are none."""
    if latency is None or throughput is None or latency == throughput:
        return str(latency or throughput or "")
    _, _, rest = str(latency).partition(" x ")
    return f"{rest}: latency at batch {latency.batch_size}, throughput at batch {throughput.batch_size}"


@dataclass(frozen=True)
class StoredScore:
    """The score of a cell whose vectors take ``bytes_per_vector`` in an index, which is also MB per million vectors."""

    bytes_per_vector: float
    score: float | None
    retention: float | None


@dataclass(frozen=True)
class Candidate:
    """A cell in a setup with all its values; a value is None if it was not measured.

    Scores, agreement, overlap, nDCG and recall are x 100. Latency is in ms per batch. Retentions are shares of the full
    cell's value; ``full`` marks the full cell. The keys of ``stored`` are names of storages. ``noisy`` is about the
    times. ``bm25`` is the nDCG@10 of BM25.

    ``index_cell`` made the index in which queries of this cell searched. ``index_ndcg`` is the nDCG@10 of these queries
    in the index. ``index_share`` is ``index_ndcg`` divided by the nDCG@10 of queries of ``index_cell``.
    ``index_overlap`` is the share, x 100, of the ten nearest neighbours that both kinds of queries find.
    """

    cell: Cell
    setup: Setup
    trained_layer: bool
    trained_dim: bool
    full: bool = False
    score: float | None = None
    interval: Interval | None = None
    difference: float | None = None
    difference_interval: Interval | None = None
    retention: float | None = None
    spearman: Mapping[str, float | None] = field(default_factory=dict)
    pearson: Mapping[str, float | None] = field(default_factory=dict)
    pairs: int | None = None
    stored: Mapping[str, StoredScore] = field(default_factory=dict)
    agreement: float | None = None
    agreement_retention: float | None = None
    overlap_at_10: float | None = None
    ndcg: float | None = None
    ndcg_retention: float | None = None
    recall_at_100: float | None = None
    bm25: float | None = None
    index_cell: str | None = None
    index_ndcg: float | None = None
    index_share: float | None = None
    index_overlap: float | None = None
    index_overlap_share: float | None = None
    latency_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    calls: int | None = None
    spread: float | None = None
    sentences_per_second: float | None = None
    noisy: bool | None = None
    peak_mb: float | None = None
    time: str | None = None

    @property
    def trained(self) -> bool:
        """Whether training optimised this cell."""
        return self.trained_layer and self.trained_dim

    @property
    def bytes_per_vector(self) -> int:
        """The bytes of a float32 vector."""
        return BYTES_PER_FLOAT * self.cell.dim

    def index_gb(self, vectors: float, bytes_per_value: float) -> float:
        """GB (1e9 bytes) of the vectors of an index, without other data of the index."""
        return vectors * self.cell.dim * bytes_per_value / 1e9


@dataclass(frozen=True)
class Timing:
    """The times of an exit at a shape; the fields are those of ``Candidate``."""

    layer: int
    setup: Setup
    shape: Shape
    latency_ms: float
    p95_ms: float
    p99_ms: float
    calls: int
    spread: float
    noisy: bool
    sentences_per_second: float


@dataclass(frozen=True)
class Cascade:
    """A search with ``cheap``, whose shortlist ``deep`` ranks again.

    ``recall_at_10`` (x 100) and ``cost_ms`` (ms per query) have one value for each length in ``shortlist``. ``deep_ms``
    is the cost of a query with ``deep`` only. A cascade that costs more than that is of no use.
    """

    collection: str
    documents: int
    cheap: Cell
    deep: Cell
    setup: Setup
    shortlist: tuple[int, ...]
    recall_at_10: tuple[float, ...]
    cost_ms: tuple[float, ...]
    deep_ms: float
