"""The words of the package as frozen, validated values; this module imports only the standard library and errors."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from m2d_export.errors import SpecError

Item = TypeVar("Item")
SMALLEST_DEFAULT_DIM = 32
BYTES_PER_FLOAT = 4
LARGEST_VOCABULARY = 1 << 31
INPUTS = ("input_ids", "attention_mask", "pooling_mask")  # the inputs of graphs, (batch, tokens) int64 each
LONG = "-long"  # after a runtime's name, the key of its graph for texts of many tokens
DEFAULT = "default"  # the key of the graph for runtimes that have no graph of their own
POOLING_MODES = ("mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
OUTPUT = "sentence_embedding"  # torch.export gives the name "embedding" to another value


class Precision(StrEnum):
    """The type that weights are stored in; precisions.py has everything else about it."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


@dataclass(frozen=True, order=True)
class Cell:
    """One point of the grid: the first ``layer`` blocks run, and the first ``dim`` numbers of the vector are kept."""

    layer: int
    dim: int

    def __str__(self) -> str:
        return f"{self.layer}x{self.dim}"

    @staticmethod
    def parse(text: str) -> "Cell":
        """Read a cell such as 3x128; raises SpecError for anything else."""
        found = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", text)
        if not found:
            raise SpecError(f"a cell is written LAYERxDIM, such as 3x128; got {text!r}")
        return Cell(int(found[1]), int(found[2]))


@dataclass(frozen=True)
class Grid:
    """The exit layers of a bundle, and the dims that bench measures.

    ``layers`` are ascending, from 0 to ``depth``; layer 0 is a table of token vectors. ``dims`` are descending, from
    ``width`` to 1. An encoder accepts any dim from 1 to ``width``. Training optimised ``trained_dims``. Raises
    SpecError for values that do not fit.
    """

    depth: int
    width: int
    layers: tuple[int, ...]
    dims: tuple[int, ...]
    trained_dims: tuple[int, ...]

    def __post_init__(self) -> None:
        for layer in self.layers:
            if not 0 <= layer <= self.depth:
                raise SpecError(f"layer {layer} does not exist: this checkpoint has layers 1 to {self.depth}")
        for dim in (*self.dims, *self.trained_dims):
            self.check_dim(dim)
        if not self.layers or not self.dims:
            raise SpecError("a grid needs at least one layer and one dim")
        if list(self.layers) != sorted(set(self.layers)):
            raise SpecError(f"layers must ascend without repeats, got {self.layers}")
        if list(self.dims) != sorted(set(self.dims), reverse=True):
            raise SpecError(f"dims must descend without repeats, got {self.dims}")

    def check_layer(self, layer: int) -> int:
        """Return ``layer`` if there is an exit; raises SpecError that lists the exits."""
        if isinstance(layer, bool) or not isinstance(layer, int):
            raise SpecError(f"a layer is a whole number, got {layer!r}")
        if layer not in self.layers:
            raise SpecError(f"no exit at layer {layer}: this grid has layers {', '.join(map(str, self.layers))}")
        return layer

    def check_dim(self, dim: int) -> int:
        """Return ``dim`` if it is from 1 to the width; raises SpecError otherwise."""
        if isinstance(dim, bool) or not isinstance(dim, int):
            raise SpecError(f"a dim is a whole number, got {dim!r}")
        if not 1 <= dim <= self.width:
            raise SpecError(f"dim {dim} is out of range: this checkpoint's vectors have 1 to {self.width} dims")
        return dim

    @property
    def full(self) -> Cell:
        """The deepest exit with all dims, with which other cells are compared."""
        return Cell(self.layers[-1], self.width)


def check_flag(value: object, name: str) -> bool:
    """Return ``value`` if it is True or False; raises SpecError otherwise, because "no" would count as true."""
    if not isinstance(value, bool):
        raise SpecError(f"{name} is {value!r}, expected True or False")
    return value


def check_items(values: object, kind: type[Item], name: str) -> tuple[Item, ...]:
    """Return ``values`` as a tuple if it is a list of ``kind``; raises SpecError that names ``name``."""
    found = tuple(values) if isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping) else None
    if found is None or not all(isinstance(item, kind) and not isinstance(item, bool) for item in found):
        raise SpecError(f"{name} is {values!r}, expected a list of {kind.__name__}")
    return found


def default_dims(width: int) -> tuple[int, ...]:
    """The width, and the powers of two from 32 that are below it, descending: 384 gives 384, 256, 128, 64, 32."""
    powers = [2**exponent for exponent in range(width.bit_length()) if SMALLEST_DEFAULT_DIM <= 2**exponent < width]
    return (width, *reversed(powers))


def parse_numbers(text: str, what: str) -> tuple[int, ...]:
    """Read whole numbers separated by commas, sorted, without repeats; raises SpecError that names ``what``."""
    numbers = set()
    for item in text.split(","):
        try:
            numbers.add(int(item))
        except ValueError:
            message = f"{what} takes whole numbers separated by commas, such as 1,2,6; got {text!r}"
            raise SpecError(message) from None
    return tuple(sorted(numbers))


@dataclass(frozen=True)
class Pooling:
    """How token vectors become one vector: pooling modes of sentence-transformers, joined in this order."""

    modes: tuple[str, ...] = ("mean",)
    include_prompt: bool = True

    def __str__(self) -> str:
        return "+".join(self.modes) + ("" if self.include_prompt else ", without the prompt's tokens")

    @property
    def mean(self) -> "Pooling":
        """The mean of the same tokens."""
        return Pooling(("mean",), self.include_prompt)


@dataclass(frozen=True)
class HeadSpec:
    """The head of the exit at ``layer``: it reads the pooled vectors of the layers ``reads``, joined in this order.

    Layer 0 is the output of the embeddings. The layers in ``mean`` are pooled by their mean, the others as the
    checkpoint pools. Raises SpecError if ``reads`` does not ascend, has a layer after the exit, or lacks one of
    ``mean``.
    """

    layer: int
    reads: tuple[int, ...]
    mean: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        ascending = self.reads == tuple(sorted(set(self.reads)))
        if not self.reads or not ascending or self.reads[-1] > self.layer or set(self.mean) - set(self.reads):
            raise SpecError(
                f"the head of exit {self.layer} reads the layers {self.reads}, and the mean of {self.mean}: expected "
                f"layers from 0 to {self.layer} that ascend, and means of some of them"
            )

    def __str__(self) -> str:
        reads = ", ".join(f"{layer} (mean)" if layer in self.mean else str(layer) for layer in self.reads)
        return f"layer{'s' * (len(self.reads) > 1)} {reads}"

    @property
    def is_plain(self) -> bool:
        """Whether the head reads only its own layer, pooled as the checkpoint pools: the one form that others load."""
        return self.reads == (self.layer,) and not self.mean

    def pooling(self, layer: int, usual: Pooling) -> Pooling:
        """How this head pools ``layer``, in a checkpoint that pools as ``usual``."""
        return usual.mean if layer in self.mean else usual


# A text's role in a search -> the names that its prompt may have. The first name that a checkpoint has is used.
ROLES = {"query": ("query",), "document": ("document", "passage", "corpus")}


@dataclass(frozen=True)
class TextSpec:
    """How texts become token ids, as far as ``tokenizer.json`` does not say it.

    ``vocabulary`` is the number of rows of the encoder's token table: every id must be smaller. Raises SpecError if
    ``pad_id`` is not smaller.
    """

    max_tokens: int
    pad_id: int
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    include_prompt: bool = True  # False: the encoder reads the tokens of a prompt, but does not pool them
    vocabulary: int = LARGEST_VOCABULARY

    def __post_init__(self) -> None:
        if not 0 <= self.pad_id < self.vocabulary:
            raise SpecError(f"the padding token {self.pad_id} is not one of the {self.vocabulary} in the token table")

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs of a graph; it has ``pooling_mask`` only if the tokens of a prompt are not pooled."""
        return INPUTS[:2] if self.include_prompt else INPUTS

    def role_prompt(self, role: str | None) -> str | None:
        """The name of the prompt for a ``role`` in ROLES, else of the default prompt; as in sentence-transformers."""
        names = ROLES[role] if role is not None else ()
        return next((name for name in names if name in self.prompts), self.default_prompt_name)

    def prompt(self, prompt: str | None = None, prompt_name: str | None = None) -> str:
        """``prompt``, else the prompt of this name, else the default prompt, else ""; as in sentence-transformers."""
        if prompt is not None and prompt_name is not None:
            raise SpecError("prompt and prompt_name exclude each other: give one of them")
        if prompt is not None:
            return prompt
        name = prompt_name if prompt_name is not None else self.default_prompt_name
        if name is None:
            return ""
        if not isinstance(name, str) or name not in self.prompts:
            known = ", ".join(sorted(self.prompts)) or "none at all"
            raise SpecError(f"no prompt named {name!r}: this checkpoint has {known}")
        return self.prompts[name]


@dataclass(frozen=True)
class Origin:
    """The checkpoint of a bundle: a Hub id at ``revision``, or the name of a folder, without its path.

    ``fingerprint`` is a sha256 over its weights, tokenizer and settings.
    """

    name: str
    revision: str | None
    fingerprint: str


@dataclass(frozen=True)
class ShapeRange:
    """The (batch, tokens) shapes of an engine: the smallest, the one it is tuned for, and the largest.

    The names are TensorRT's, which calls this an optimisation profile.
    """

    min: tuple[int, int]
    opt: tuple[int, int]
    max: tuple[int, int]

    def __post_init__(self) -> None:
        for what, sizes in zip(("batch", "tokens"), zip(self.min, self.opt, self.max, strict=True), strict=True):
            if not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
                raise SpecError(f"shapes {self}: {what} must be at least 1 and must not decrease; got {sizes}")

    def __str__(self) -> str:
        return ":".join(f"{batch}x{tokens}" for batch, tokens in (self.min, self.opt, self.max))


def parse_shapes(text: str) -> tuple[ShapeRange, ...]:
    """Read shape ranges; each is MIN:OPT:MAX of batch x tokens, as in 1x1:8x16:32x32,1x33:8x128:32x256."""
    ranges = []
    for item in text.split(","):
        found = re.fullmatch(r"\s*(\d+)x(\d+):(\d+)x(\d+):(\d+)x(\d+)\s*", item, re.ASCII)
        if not found:
            raise SpecError(f"--shapes takes MIN:OPT:MAX of batch x tokens, such as 1x1:8x16:32x64; got {item!r}")
        numbers = [int(number) for number in found.groups()]
        ranges.append(ShapeRange(*zip(numbers[::2], numbers[1::2], strict=True)))
    return tuple(ranges)


def default_shapes(max_tokens: int) -> tuple[ShapeRange, ...]:
    """Shape ranges for up to 32, 128 and 512 tokens, and for up to ``max_tokens``."""
    ends = [end for end in (32, 128, 512) if end < max_tokens] + [max_tokens]
    starts = [1, *(end + 1 for end in ends[:-1])]
    return tuple(ShapeRange((1, start), (32, end), (128, end)) for start, end in zip(starts, ends, strict=True))


@dataclass(frozen=True)
class EngineKey:
    """Everything that an engine depends on: engines with equal keys can replace each other.

    ``graph`` and ``weights`` are sha256. ``targets`` are compute capabilities such as sm86; if it is empty, the library
    uses its default. ``gpu`` names the GPU that the engine was tuned on, None if it was built without a GPU. ``flags``
    are settings of the builder.
    """

    kind: str
    version: str
    graph: str
    weights: str
    shapes: tuple[ShapeRange, ...]
    targets: tuple[str, ...]
    gpu: str | None
    flags: tuple[str, ...]

    @property
    def digest(self) -> str:
        """A sha256 of all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Engine:
    """An engine on the disk: its path, the sha256 that the file must have, and its key.

    ``cache`` is a folder next to the bundle for code that the library compiles on a GPU.
    """

    path: Path
    sha256: str
    key: EngineKey
    cache: Path


@dataclass(frozen=True)
class EngineEntry:
    """An engine in a manifest: the exit and precision it was built from, its ``path`` in the bundle, and its key."""

    layer: int
    precision: Precision
    path: str
    key: EngineKey


@dataclass(frozen=True)
class CheckedFile:
    """A file below the folder ``root`` whose bytes were checked; ``identity`` is that of the file that was read."""

    path: Path
    root: Path
    sha256: str
    identity: tuple[int, ...]


@dataclass(frozen=True)
class Variant:
    """An exit in a precision, ready to open: its graph at the absolute ``path``, and at most one engine of each kind.

    ``origin`` is the checkpoint that it was built from. ``checkpoint`` is the folder or Hub id of this checkpoint, None
    if the caller gave none. ``files`` are the files of the graph, of its weights and of ``long``. ``sha256`` has the
    sha256 of the graph and of its weights. ``long`` is the graph for texts of many tokens, None if the runtime has
    none. ``pooling`` is the mode of a checkpoint that pools in one way.
    """

    layer: int
    precision: Precision
    path: Path
    width: int
    origin: Origin
    engines: tuple[Engine, ...] = ()
    sha256: tuple[str, ...] = ()
    text: TextSpec | None = None
    files: tuple[CheckedFile, ...] = ()
    long: Path | None = None
    checkpoint: str | None = None
    pooling: str | None = None

    def engine(self, kind: str) -> Engine:
        """The engine of ``kind``; raises SpecError, which says how to build one."""
        for engine in self.engines:
            if engine.key.kind == kind:
                return engine
        raise SpecError(
            f"this bundle has no {kind} engine of layer {self.layer}, {self.precision}: "
            f"build it with --precision {self.precision} --engine {kind}"
        )
