"""The values that are derived from records, in the words of docs/results-format.md."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from m2d_export.spec import BYTES_PER_FLOAT, Cell

Interval = tuple[float, float]


@dataclass(frozen=True)
class Setup:
    """What ran an exit; ``threads`` is None where nothing was timed."""

    precision: str
    runtime: str
    compute: str
    provider: str
    threads: int | None = None

    @property
    def untimed(self) -> "Setup":
        """The same setup without threads, which change the times and not the vectors."""
        return replace(self, threads=None)


@dataclass(frozen=True, order=True)
class Shape:
    """A batch that was timed. Scope ``graph`` is the model only, ``text`` includes the tokenizer."""

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
    """Which measurements to show where there are several; None where there is none.

    Latency is shown at ``shape`` and sentences a second at ``throughput``.
    """

    sts: str | None = None
    shape: Shape | None = None
    texts: str | None = None
    collection: str | None = None
    throughput: Shape | None = None

    @property
    def times(self) -> str:
        """The shapes of latency and throughput in words."""
        return times_text(self.shape, self.throughput)


def times_text(latency: Shape | None, throughput: Shape | None) -> str:
    """Two shapes of the same tokens and scope in words; empty where there is none."""
    if latency is None or throughput is None or latency == throughput:
        return str(latency or throughput or "")
    _, _, rest = str(latency).partition(" x ")
    return f"{rest}: latency at batch {latency.batch_size}, throughput at batch {throughput.batch_size}"


@dataclass(frozen=True)
class StoredScore:
    """The score of a cell whose vectors an index stores in ``bytes_per_vector``; also MB per million vectors."""

    bytes_per_vector: float
    score: float | None
    retention: float | None


@dataclass(frozen=True)
class Candidate:
    """A cell in a setup and everything that was measured of it; None where a value was not measured.

    Scores, agreement, overlap, nDCG and recall are x 100. Latency is in ms a batch. Retentions are shares of the
    value of the full cell, which ``full`` marks. ``stored`` is by the storage's name. ``noisy`` is about the times.
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
    latency_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    calls: int | None = None
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
        """GB (1e9 bytes) of the vectors of an index, without what the index itself adds."""
        return vectors * self.cell.dim * bytes_per_value / 1e9


@dataclass(frozen=True)
class Timing:
    """The latency of an exit at a shape, in ms a batch."""

    layer: int
    setup: Setup
    shape: Shape
    p50_ms: float
    p95_ms: float
    p99_ms: float
    sentences_per_second: float
    spread: float
    noisy: bool
    calls: int


@dataclass(frozen=True)
class Cascade:
    """Search with ``cheap``, rank the shortlist again with ``deep``.

    ``recall_at_10`` (x 100) and ``cost_ms`` (ms a query) have one value for each length in ``shortlist``. ``deep_ms``
    is the cost of a query with ``deep`` only: a cascade that costs more is of no use.
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
