"""Turn texts into token ids, the same ids that sentence-transformers gives to the checkpoint."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer as RustTokenizer

from m2d_export.errors import InputError, ManifestError
from m2d_export.spec import TextSpec

CHARACTERS_PER_TOKEN = 16  # the first guess of how long a prefix fills the token limit; doubled until it does


@dataclass(frozen=True)
class TokenIds:
    """Token ids of one text; the first ``prompt_length`` of them are not pooled."""

    ids: Sequence[int]
    prompt_length: int = 0


class Tokenizer:
    """A checkpoint's tokenizer. It truncates to the checkpoint's maximum and pads nothing.

    Settings of truncation and padding in ``tokenizer.json`` are ignored, as sentence-transformers does. The build
    compares its ids with those of sentence-transformers. Raises ManifestError if ``tokenizer_json`` cannot be read.
    """

    def __init__(self, tokenizer_json: str, spec: TextSpec) -> None:
        try:
            self._rust = RustTokenizer.from_str(tokenizer_json)
        except Exception as error:  # the Rust side raises bare Exception
            raise ManifestError(f"tokenizer.json cannot be read: {error}. Build the bundle again") from error
        self._rust.no_padding()
        self._rust.enable_truncation(spec.max_tokens)
        self.spec = spec

    def encode(self, texts: Sequence[str], prompt: str = "", first_index: int = 0) -> list[TokenIds]:
        """Token ids of each text with ``prompt`` in front.

        Raises InputError if an item is not a valid string; it names the item's index, counted from ``first_index``.
        """
        for index, text in enumerate(texts, first_index):
            check_text(text, f"item {index}", index)
        check_text(prompt, "the prompt")
        prompted = [prompt + text for text in texts] if prompt else list(texts)
        not_pooled = 0 if self.spec.include_prompt or not prompt else self._prompt_length(prompt)
        limit = self.spec.max_tokens * CHARACTERS_PER_TOKEN
        prefixes = [text_prefix(text, limit) for text in prompted]
        # The Rust library gives batches to threads, which costs more than it saves for a single text.
        encodings = [self._rust.encode(prefixes[0])] if len(texts) == 1 else self._rust.encode_batch_fast(prefixes)
        return [
            # A text without tokens becomes one attended padding token, because a mean over no tokens is NaN.
            TokenIds(self._complete(text, prefix, encoding.ids, limit) or [self.spec.pad_id], not_pooled)
            for text, prefix, encoding in zip(prompted, prefixes, encodings, strict=True)
        ]

    def _complete(self, text: str, prefix: str, ids: list[int], limit: int) -> list[int]:
        """The ids of ``text``, given the ids of its ``prefix`` within ``limit`` characters."""
        while len(prefix) < len(text) and len(ids) < self.spec.max_tokens:
            limit *= 2
            prefix = text_prefix(text, limit)
            ids = self._rust.encode(prefix).ids
        return ids

    def _prompt_length(self, prompt: str) -> int:
        """Tokens of the prompt without a closing special token, counted as sentence-transformers does."""
        encoding = self._rust.encode(prompt)
        return len(encoding.ids) - (1 if encoding.special_tokens_mask[-1:] == [1] else 0)


def text_prefix(text: str, limit: int) -> str:
    """The first ``limit`` characters of ``text``, cut back to the end of a word; the whole text if no word ends there.

    Tokenizers read a whole text before they truncate it, which takes seconds for megabytes. If the tokens of the prefix
    fill the limit, the rest of the text cannot change them: a word ends before a single space that follows a character
    other than white space, and no tokenizer joins characters across that place. Some join runs of white space, and BERT
    drops control characters (line separators too) before it looks for words, so the prefix never ends inside a run.
    """
    if len(text) <= limit:
        return text
    words = re.match(r".*\S(?= )", text[:limit], re.DOTALL)
    return words.group() if words else text


def check_text(text: object, name: str, index: int | None = None) -> None:
    """Raise InputError unless ``text`` is a string that UTF-8 can encode; the message calls it ``name``."""
    if not isinstance(text, str):
        raise InputError(f"{name} is {type(text).__name__}, not str: a text is one string", index)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        message = (
            f"{name} holds a lone surrogate ({text[error.start]!r} at character {error.start}), which UTF-8 cannot "
            "encode: decode its source with errors='replace'"
        )
        raise InputError(message, index) from None
