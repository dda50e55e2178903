"""What figures are made of: frozen values in the words of docs/results-format.md."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from m2d_export.spec import BYTES_PER_FLOAT, Cell

Interval = tuple[float, float]
Variant = tuple[str, str, str, str]


@dataclass(frozen=True)
class Setup:
    """What ran an exit; ``threads`` is None where nothing was timed."""

    precision: str
    runtime: str
    compute: str
    provider: str
    threads: int | None

    @property
    def variant(self) -> Variant:
        """What a vector depends on: everything but the threads."""
        return self.precision, self.runtime, self.compute, self.provider


@dataclass(frozen=True, order=True)
class Shape:
    """A batch that was timed; scope ``graph`` is the graph alone, ``text`` has the tokenizer in it too."""

    batch_size: int
    tokens: int
    scope: str

    @property
    def what(self) -> str:
        """The scope in words."""
        return "graph alone" if self.scope == "graph" else "text to vector"

    def __str__(self) -> str:
        return f"batch {self.batch_size} x {self.tokens} tokens, {self.what}"


@dataclass(frozen=True)
class View:
    """Which measurements to look at where there are several; None where there is none.

    ``shape`` is what latency is of, ``throughput`` what sentences a second are of.
    """

    sts: str | None = None
    shape: Shape | None = None
    texts: str | None = None
    collection: str | None = None
    throughput: Shape | None = None

    @property
    def times(self) -> str:
        """What latency and throughput are of, in words."""
        return times_text(self.shape, self.throughput)


def times_text(latency: Shape | None, throughput: Shape | None) -> str:
    """Two shapes of the same tokens and scope in words, or nothing where there is none."""
    if latency is None or throughput is None or latency == throughput:
        return str(latency or throughput or "")
    _, _, rest = str(latency).partition(" x ")
    return f"{rest}: latency at batch {latency.batch_size}, throughput at batch {throughput.batch_size}"


@dataclass(frozen=True)
class Kept:
    """What is left of a cell's score where an index stores its vectors in fewer bits."""

    score: float | None
    retention: float | None


@dataclass(frozen=True)
class Candidate:
    """A cell in a setup, and all that is known of it; None is not measured.

    Scores, agreement, overlap, nDCG and recall are x 100, latency is in ms a batch. Retentions are shares of what the
    full cell has; ``full`` marks that cell. ``kept`` is by the storage's name, ``noisy`` of latency or throughput.
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
    kept: Mapping[str, Kept] = field(default_factory=dict)
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
    joules_per_sentence: float | None = None
    peak_mb: float | None = None
    time: str | None = None

    @property
    def precision(self) -> str:
        """What the graph stores its weights in."""
        return self.setup.precision

    @property
    def runtime(self) -> str:
        """What ran the graph."""
        return self.setup.runtime

    @property
    def compute(self) -> str:
        """The precision the runtime multiplies in."""
        return self.setup.compute

    @property
    def trained(self) -> bool:
        """Whether training optimised this very cell."""
        return self.trained_layer and self.trained_dim

    @property
    def bytes_per_vector(self) -> int:
        """The bytes of a vector in an index of float32."""
        return BYTES_PER_FLOAT * self.cell.dim

    def index_gb(self, vectors: float, bytes_per_value: float) -> float:
        """GB (1e9 bytes) of an index of ``vectors``, without what the index adds of its own."""
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
    joules_per_sentence: float | None


@dataclass(frozen=True)
class Stored:
    """The score of a cell whose vectors are kept as ``storage``; MB per million vectors equals bytes a vector."""

    cell: Cell
    setup: Setup
    storage: str
    bytes_per_vector: float
    score: float | None
    retention: float | None


@dataclass(frozen=True)
class Cascade:
    """Shortlist with ``cheap``, rerank with ``deep``: recall x 100 and ms a query, one for each shortlist length.

    ``deep_ms`` is what a query costs with ``deep`` alone: a cascade that costs more is of no use.
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
