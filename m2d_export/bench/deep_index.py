"""An index that the deepest exit of a bundle made in float32, in which queries of other cells search."""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property

import numpy as np

from m2d_export.agreement import NEIGHBOURS, QUERIES, IntArray
from m2d_export.bench.encoded import DOCUMENT, QUERY, Encoded, TextSet, prompts
from m2d_export.bench.quality import OwnTexts, Reference, Searched
from m2d_export.bench.records import Record
from m2d_export.bench.retrieval import Retrieval, evaluate, search
from m2d_export.bench.values import OWN
from m2d_export.bundle.disk import Bundle
from m2d_export.bundle.manifest import ROTATION
from m2d_export.encoder import Encoder
from m2d_export.errors import IntegrityError, SpecError
from m2d_export.spec import Cell, Precision
from m2d_export.vectors import FloatArray


@dataclass(frozen=True)
class DeepIndex:
    """The deepest exit of ``bundle`` in float32; queries come from ``measured``, the same bundle or another.

    Each set of texts is encoded once, for all cells and setups. If the two bundles do not have the same rotation,
    vectors are compared as they were before it. This is possible at full width only. Raises SpecError if the bundles
    give vectors of different spaces, or if ``bundle`` has no float32.
    """

    bundle: Bundle
    measured: Bundle
    threads: int | None = None
    _known: dict[TextSet, FloatArray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        own, other = self.measured.manifest, self.bundle.manifest
        if (own.space, own.grid.width) != (other.space, other.grid.width):
            raise SpecError(
                f"{self.bundle.root} gives vectors of another space than {self.measured.root}: queries of one cannot "
                "be searched in an index of the other. Choose the bundle of the checkpoint that this one was distilled "
                "from, or leave --index out"
            )
        self.bundle.entry(self.layer, Precision.FP32)

    @property
    def layer(self) -> int:
        """The deepest exit."""
        return self.bundle.grid.full.layer

    @property
    def is_own(self) -> bool:
        """Whether the measured bundle made the index."""
        return self.bundle.id == self.measured.id

    @property
    def is_rotated(self) -> bool:
        """Whether the spaces of the two bundles differ by a rotation."""
        return self.bundle.manifest.rotation != self.measured.manifest.rotation

    @property
    def identity(self) -> Record:
        """The fields that name the index in a record: the id, and the folder, which is easier to read."""
        return {"index": self.bundle.id, "index_name": OWN if self.is_own else self.bundle.root.name}

    @property
    def prompts(self) -> Record:
        """The fields that name the prompts: queries get those of the measured bundle."""
        return prompts(self.measured.manifest.text, self.bundle.manifest.text)

    def dims(self, dims: Sequence[int]) -> list[int]:
        """Those of ``dims`` at which the vectors of the two bundles can be compared."""
        return [dim for dim in dims if not self.is_rotated or dim == self.bundle.grid.width]

    def keep(self, deepest: Encoded, sets: Sequence[TextSet]) -> None:
        """Take over the vectors of the same exit, which is open in float32 already."""
        self._known.update({of: deepest.vectors(of) for of in sets})

    def vectors(self, of: TextSet) -> FloatArray:
        """The vectors (n, width) of a set, without the rotation if the other bundle does not have the same one."""
        if of not in self._known:
            options = {"runtime": "onnxrt", "precision": Precision.FP32, "threads": self.threads}
            with Encoder(self.bundle, self.layer, self.bundle.grid.width, normalize=False, **options) as encoder:  # type: ignore[arg-type]
                self._known[of] = Encoded(encoder, self.bundle.manifest.text).vectors(of)
        return self._rotated_back(self._known[of], self.bundle)

    def queries(self, vectors: FloatArray) -> FloatArray:
        """Vectors of the measured bundle, in the space of ``vectors``."""
        return self._rotated_back(vectors, self.measured)

    def _rotated_back(self, vectors: FloatArray, bundle: Bundle) -> FloatArray:
        if not self.is_rotated or bundle.manifest.rotation is None:
            return vectors
        return vectors @ rotation_of(bundle)


def rotation_of(bundle: Bundle) -> FloatArray:
    """The matrix U (width, width) that undoes the rotation: if v is a rotated vector, v U is the vector before it.

    Raises IntegrityError if the file does not hold the matrix that the manifest states.
    """
    width = bundle.grid.width
    try:
        matrix = np.load(io.BytesIO(bundle.read(ROTATION)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise IntegrityError(f"{bundle.root / ROTATION} cannot be read: {error}. Build the bundle again") from error
    digest = hashlib.sha256(np.ascontiguousarray(matrix).tobytes()).hexdigest()
    if (matrix.dtype, matrix.shape, digest) != (np.float32, (width, width), bundle.manifest.rotation):
        raise IntegrityError(f"{bundle.root / ROTATION} is not the rotation of the manifest. Build the bundle again")
    return np.asarray(matrix, dtype=np.float32)


@dataclass(frozen=True)
class IndexSearch:
    """Retrieval with queries of each cell from an index of the deepest exit."""

    searched: Searched
    index: DeepIndex
    _best: dict[int, Retrieval] = field(default_factory=dict, repr=False)

    def texts(self) -> tuple[TextSet, ...]:
        """The queries; the index encodes the documents."""
        return self.searched.texts()[:1]

    def plan(self, layer: int, dims: Sequence[int], full: Cell) -> list[Record]:
        """One record for each dim that can be compared."""
        shared = {"kind": "index_retrieval", **self.searched.identity, **self.index.identity}
        return [{**shared, "dim": dim, "index_cell": [self.index.layer, dim]} for dim in self.index.dims(dims)]

    def records(self, layer: int, dims: Sequence[int], exit_: Encoded, reference: Reference) -> Iterator[Record]:
        """NDCG and recall of each dim, and the share of what the index's own queries find."""
        asked, stored = self.searched.texts()
        queries, documents = self.index.queries(exit_.vectors(asked)), self.index.vectors(stored)
        for planned in self.plan(layer, dims, reference.cell):
            dim = planned["dim"]
            found = evaluate(self.searched.collection, queries[:, :dim], documents[:, :dim])
            if dim not in self._best:
                own = self.index.vectors(asked)
                self._best[dim] = evaluate(self.searched.collection, own[:, :dim], documents[:, :dim])
            best = self._best[dim].ndcg_at_10
            share = found.ndcg_at_10 / best if best else None
            yield {**planned, **self.index.prompts, **asdict(found), "own_ndcg_at_10": best, "share": share}


@dataclass(frozen=True)
class IndexNeighbours:
    """Nearest neighbours of texts without grades. Queries of each cell search an index of the deepest exit."""

    own: OwnTexts
    index: DeepIndex
    _best: dict[int, IntArray] = field(default_factory=dict, repr=False)

    @cached_property
    def _rows(self) -> IntArray:
        """The places of the texts that are queries too: all of them, or a sample."""
        return np.sort(np.random.default_rng(0).permutation(len(self.own.own))[:QUERIES])

    @cached_property
    def _asked(self) -> TextSet:
        return TextSet(tuple(self.own.own[row] for row in self._rows), QUERY)

    def texts(self) -> tuple[TextSet, ...]:
        """The texts that are queries, and those in the index if the same exit makes it."""
        return (self._asked, self._stored) if self.index.is_own else (self._asked,)

    def plan(self, layer: int, dims: Sequence[int], full: Cell) -> list[Record]:
        """One record for each dim that can be compared."""
        shared = {**self.own.identity, **self.index.identity, "kind": "index_agreement"}
        return [{**shared, "dim": dim, "index_cell": [self.index.layer, dim]} for dim in self.index.dims(dims)]

    def records(self, layer: int, dims: Sequence[int], exit_: Encoded, reference: Reference) -> Iterator[Record]:
        """The overlap of each dim with the neighbours that the index's own queries find."""
        queries, stored = self.index.queries(exit_.vectors(self._asked)), self.index.vectors(self._stored)
        for planned in self.plan(layer, dims, reference.cell):
            dim = planned["dim"]
            if dim not in self._best:
                self._best[dim] = self._nearest(self.index.vectors(self._asked), stored, dim)
            found = self._nearest(queries, stored, dim)
            shared = (found[:, :, None] == self._best[dim][:, None, :]).sum(axis=(1, 2))
            overlap = float(shared.mean() / NEIGHBOURS * 100)
            yield {**planned, **self.index.prompts, "count": len(self.own.own), "overlap_at_10": overlap}

    @cached_property
    def _stored(self) -> TextSet:
        return TextSet(self.own.own, DOCUMENT)

    def _nearest(self, queries: FloatArray, stored: FloatArray, dim: int) -> IntArray:
        return search(queries[:, :dim], stored[:, :dim], NEIGHBOURS, self._rows)


def index_measures(measures: Sequence[object], index: DeepIndex) -> tuple[IndexSearch | IndexNeighbours, ...]:
    """For each collection and file of texts in ``measures``, the measure that searches it in ``index``."""
    kinds: Mapping[type, type] = {Searched: IndexSearch, OwnTexts: IndexNeighbours}
    return tuple(kinds[type(measure)](measure, index) for measure in measures if type(measure) in kinds)
