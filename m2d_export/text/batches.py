"""Put token ids into padded batches of texts of similar length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from m2d_export.spec import INPUTS, TextSpec
from m2d_export.text.tokenizer import TokenIds

IntArray = NDArray[np.int64]
TOKEN_BUDGET = 512  # tokens in a batch, with padding; benchmarks/results/ceiling.json compares other budgets
ATTENTION_BUDGET = 1 << 23  # texts x tokens^2 in a batch: how many scores an attention head has, of 4 bytes or more
MIN_FILL = 0.67  # a text below this share of the longest length starts a new batch, because padding takes time

SAMPLE_TOKENS = 1024  # the longest text in checks of a build, because attention in PyTorch holds whole matrices
SAMPLE_ATTENTION = 1 << 21  # texts x tokens^2 of a batch in these checks


@dataclass(frozen=True)
class Batch:
    """Token ids for one call of a runtime, padded on the right.

    ``input_ids`` and ``attention_mask`` are (batch, tokens) int64. ``pooling_mask`` has the same shape. It is None
    if a prompt's tokens are pooled like all others. ``rows`` are the places of these texts in the input. If ``pad``
    found that the arrays fit a TextSpec, ``spec`` is this TextSpec. A runtime with another TextSpec checks them itself.
    """

    input_ids: IntArray
    attention_mask: IntArray
    pooling_mask: IntArray | None
    rows: Sequence[int]
    spec: TextSpec | None = field(default=None, init=False)  # ``dataclasses.replace`` does not copy it

    @property
    def attention(self) -> int:
        """Texts x tokens^2: how many scores one attention head has."""
        texts, tokens = self.input_ids.shape
        return int(texts * tokens**2)

    def inputs(self) -> dict[str, IntArray]:
        """The inputs of a graph by name."""
        arrays = {name: getattr(self, name) for name in INPUTS}
        return {name: array for name, array in arrays.items() if array is not None}


def batches(tokens: Sequence[TokenIds], spec: TextSpec, token_budget: int = TOKEN_BUDGET) -> Iterator[Batch]:
    """Yield batches of texts of similar length. A batch has at most ``token_budget`` tokens, with padding.

    A batch of several texts also keeps within ``ATTENTION_BUDGET``. A text over a budget gets a batch of its own. The
    longest texts come first, so that a runtime allocates its largest buffers at once and needs no more memory later.
    """
    lengths = [len(item.ids) for item in tokens]
    rows: list[int] = []
    for row in sorted(range(len(tokens)), key=lambda row: -lengths[row]):
        longest = lengths[rows[0]] if rows else 0
        padded = longest * (len(rows) + 1)
        is_full = padded > token_budget or padded * longest > ATTENTION_BUDGET
        if rows and (is_full or lengths[row] < longest * MIN_FILL):
            yield pad([tokens[row] for row in rows], spec, rows)
            rows = []
        rows.append(row)
    if rows:
        yield pad([tokens[row] for row in rows], spec, rows)


def stream_room(threads: int) -> int:
    """The largest ``Batch.attention`` in one of ``threads`` parallel streams. A larger batch runs alone."""
    return max(TOKEN_BUDGET**2, ATTENTION_BUDGET // threads)


def sample_spec(spec: TextSpec) -> TextSpec:
    """A copy of ``spec`` for the checks of a build: texts are cut, so that attention does not need too much memory."""
    return replace(spec, max_tokens=min(spec.max_tokens, SAMPLE_TOKENS))


def pad(tokens: Sequence[TokenIds], spec: TextSpec, rows: Sequence[int], length: int = 0) -> Batch:
    """One batch of ``tokens``, padded on the right to the longest text, or to ``length`` if that is longer."""
    lengths = [len(item.ids) for item in tokens]
    width = max(length, *lengths)
    padded = [[*item.ids, *[spec.pad_id] * (width - own)] for item, own in zip(tokens, lengths, strict=True)]
    input_ids = np.array(padded, dtype=np.int64)
    attention_mask = np.array([[1] * own + [0] * (width - own) for own in lengths], dtype=np.int64)
    pooling_mask = None
    if not spec.include_prompt:
        pooling_mask = attention_mask.copy()
        for row, item in enumerate(tokens):
            pooling_mask[row, : min(item.prompt_length, len(item.ids))] = 0
    is_within = (  # without NumPy: its first calls after a model has run are slow
        0 < width <= spec.max_tokens and min(map(min, padded)) >= 0 and max(map(max, padded)) < spec.vocabulary
    )
    batch = Batch(input_ids, attention_mask, pooling_mask, rows)
    if is_within:
        object.__setattr__(batch, "spec", spec)
    return batch
