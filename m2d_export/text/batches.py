"""Texts to token ids to padded batches of similar length, and vectors back into the caller's order."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as RustTokenizer

from m2d_export.errors import InputError, ManifestError
from m2d_export.spec import INPUTS, TextSpec

IntArray = NDArray[np.int64]
TOKEN_BUDGET = 512  # tokens a batch, padding included: benchmarks/results/ceiling.json has others
LEAST_FILL = 0.67  # of its place in a batch that a text fills: few and mixed texts would be mostly padding
CHARACTERS_PER_TOKEN = 16  # first guess of how much of a long text can matter; doubled until it is enough


@dataclass(frozen=True)
class TokenIds:
    """Token ids of one text; the first ``prompt_length`` of them are not pooled."""

    ids: Sequence[int]
    prompt_length: int = 0


@dataclass(frozen=True)
class Batch:
    """Padded token ids for one call of a runtime, padding on the right.

    ``input_ids`` and ``attention_mask`` are (batch, tokens) int64; ``pooling_mask`` is too, and is given only
    where a checkpoint leaves its prompt out of the pooling. ``rows`` says which texts these are.
    """

    input_ids: IntArray
    attention_mask: IntArray
    pooling_mask: IntArray | None
    rows: Sequence[int]

    def inputs(self) -> dict[str, IntArray]:
        """The inputs of a graph by name."""
        arrays = {name: getattr(self, name) for name in INPUTS}
        return {name: array for name, array in arrays.items() if array is not None}


class Tokenizer:
    """A checkpoint's tokenizer, truncating to its own maximum and padding nothing.

    Equal to what sentence-transformers feeds its model, whatever truncation or padding ``tokenizer.json``
    has baked in; the build checks that (``parity.probe_tokens``).
    """

    def __init__(self, tokenizer_json: str, spec: TextSpec) -> None:
        try:
            self._rust = RustTokenizer.from_str(tokenizer_json)
        except Exception as error:  # the Rust side raises bare Exception
            raise ManifestError(f"tokenizer.json cannot be read: {error}") from error
        self._rust.no_padding()
        self._rust.enable_truncation(spec.max_tokens)
        self.spec = spec

    def encode(self, texts: Sequence[str], prompt: str = "", first_index: int = 0) -> list[TokenIds]:
        """Token ids of each text behind ``prompt``.

        Raises InputError naming ``first_index`` + the place of an item that is no valid string, or the prompt.
        """
        for index, text in enumerate(texts, first_index):
            check_text(text, f"item {index}", index)
        check_text(prompt, "the prompt")
        prompted = [prompt + text for text in texts] if prompt else list(texts)
        excluded = 0 if self.spec.include_prompt or not prompt else self._prompt_length(prompt)
        limit = self.spec.max_tokens * CHARACTERS_PER_TOKEN
        heads = [head(text, limit) for text in prompted]
        # One text is not worth the threads that many are handed to.
        encodings = [self._rust.encode(heads[0])] if len(heads) == 1 else self._rust.encode_batch_fast(heads)
        return [
            # A text of no tokens at all becomes one attended padding token: a defined vector, never NaN.
            TokenIds(self._whole(text, read, encoding.ids, limit) or [self.spec.pad_id], excluded)
            for text, read, encoding in zip(prompted, heads, encodings, strict=True)
        ]

    def _whole(self, text: str, read: str, ids: list[int], limit: int) -> list[int]:
        """Ids of the full ``text``, given those of ``read``, its head within ``limit`` characters."""
        while len(read) < len(text) and len(ids) < self.spec.max_tokens:
            limit *= 2
            read = head(text, limit)
            ids = self._rust.encode(read).ids
        return ids

    def _prompt_length(self, prompt: str) -> int:
        """Tokens of the prompt alone, without a closing special token: sentence-transformers' own count."""
        encoding = self._rust.encode(prompt)
        return len(encoding.ids) - (1 if encoding.special_tokens_mask[-1:] == [1] else 0)


def head(text: str, limit: int) -> str:
    """The first ``limit`` characters of ``text``, cut back to the end of a word; all of it where none ends there.

    Tokenizers tokenize all of a text before they truncate it, seconds for megabytes. A word ends before a space
    that follows no other white space: no tokenizer reads across that place, so where the head fills the token
    limit the rest cannot matter. Inside a run of white space some do, and BERT drops control characters, line
    separators among them, before it looks for words.
    """
    if len(text) <= limit:
        return text
    words = re.match(r".*\S(?= )", text[:limit], re.DOTALL)
    return words.group() if words else text


def check_text(text: object, what: str, index: int | None = None) -> None:
    """Raise InputError, saying ``what`` it is about, unless ``text`` is a string that UTF-8 can hold."""
    if not isinstance(text, str):
        raise InputError(f"{what} is {type(text).__name__}, not str: a text is one string", index)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        message = (
            f"{what} holds a lone surrogate ({text[error.start]!r} at character {error.start}), which no "
            "UTF-8 text can: decode its source with errors='replace'"
        )
        raise InputError(message, index) from None


def batches(tokens: Sequence[TokenIds], spec: TextSpec, token_budget: int = TOKEN_BUDGET) -> Iterator[Batch]:
    """Batches of texts of similar length, longest first, each within ``token_budget`` tokens with its padding.

    A text over the budget gets a batch of its own. Longest first, so that a runtime meets its largest
    buffers at once and memory stays flat afterwards.
    """
    lengths = [len(item.ids) for item in tokens]
    rows: list[int] = []
    for row in sorted(range(len(tokens)), key=lambda row: -lengths[row]):
        longest = lengths[rows[0]] if rows else 0
        if rows and (longest * (len(rows) + 1) > token_budget or lengths[row] < longest * LEAST_FILL):
            yield pad([tokens[row] for row in rows], spec, rows)
            rows = []
        rows.append(row)
    if rows:
        yield pad([tokens[row] for row in rows], spec, rows)


def pad(tokens: Sequence[TokenIds], spec: TextSpec, rows: Sequence[int], length: int = 0) -> Batch:
    """One batch of ``tokens``, padded on the right to the longest of them, or to ``length`` if that is longer."""
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
    return Batch(input_ids, attention_mask, pooling_mask, rows)
