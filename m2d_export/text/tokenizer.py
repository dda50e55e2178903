"""Turn texts into token ids. They are equal to the ids of sentence-transformers for the same checkpoint."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer as RustTokenizer

from m2d_export.errors import InputError, ManifestError, SpecError, raised_as
from m2d_export.host.machine import MAX_THREADS
from m2d_export.spec import TextSpec
from m2d_export.text.prefix import PrefixReader

THREADS = ("RAYON_NUM_THREADS", "RAYON_RS_NUM_CPUS")  # variables that set the number of the tokenizer's threads


@dataclass(frozen=True)
class TokenIds:
    """Token ids of one text; the first ``prompt_length`` of them are not pooled."""

    ids: Sequence[int]
    prompt_length: int = 0


class Tokenizer:
    """A checkpoint's tokenizer. It truncates texts to the checkpoint's maximum, and does not pad them.

    Settings of truncation and padding in ``tokenizer.json`` are ignored. sentence-transformers ignores them too, and
    the build compares the ids with those of sentence-transformers. Raises ManifestError if ``tokenizer_json`` cannot be
    read, and SpecError if the environment asks for too many threads.
    """

    def __init__(self, tokenizer_json: str, spec: TextSpec) -> None:
        _check_threads()
        with raised_as(_unusable):
            self._rust = RustTokenizer.from_str(tokenizer_json)
            self._rust.no_padding()
            self._rust.enable_truncation(spec.max_tokens)
        self._reader = PrefixReader(self._rust, spec.max_tokens)
        self.spec = spec

    @property
    def special_ids(self) -> list[int]:
        """Ids of the special tokens, such as those of [CLS] and [UNK]."""
        return [number for number, token in self._rust.get_added_tokens_decoder().items() if token.special]

    def encode(self, texts: Sequence[str], prompt: str = "", first_index: int = 0) -> list[TokenIds]:
        """Token ids of each text with ``prompt`` in front.

        Raises InputError if an item is not a valid string. The error names the item's index, counted from
        ``first_index``.
        """
        for index, text in enumerate(texts, first_index):
            check_text(text, f"item {index}", index)
        check_text(prompt, "the prompt")
        prompted = [prompt + text for text in texts] if prompt else list(texts)
        try:  # not ``with raised_as``: entering it takes time, which counts if there is only one text
            not_pooled = 0 if self.spec.include_prompt or not prompt else self._prompt_length(prompt)
            found = self._ids(prompted)
        except BaseException:
            with raised_as(_unusable):
                raise
        # A text without tokens becomes one attended padding token, because a mean over no tokens is NaN.
        return [TokenIds(ids or [self.spec.pad_id], not_pooled) for ids in found]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        limit = self._reader.limit
        if len(texts) == 1 and len(texts[0]) <= limit:  # a batch uses threads; one text is faster without them
            return [self._rust.encode(texts[0]).ids]
        short = [text for text in texts if len(text) <= limit]
        ids = [encoding.ids for encoding in self._rust.encode_batch_fast(short)]
        if len(short) == len(texts):
            return ids
        of_short, of_long = iter(ids), iter(self._reader.ids([text for text in texts if len(text) > limit]))
        return [next(of_short if len(text) <= limit else of_long) for text in texts]

    def _prompt_length(self, prompt: str) -> int:
        """How many tokens the prompt has without a special token at the end, as sentence-transformers counts them."""
        encoding = self._rust.encode(prompt)
        return len(encoding.ids) - (1 if encoding.special_tokens_mask[-1:] == [1] else 0)


def _check_threads() -> None:
    """Raise SpecError if the environment asks for too many threads: their start would take minutes."""
    for name in THREADS:
        value = os.environ.get(name, "")
        if value.isdecimal() and len(value) <= 20 and int(value) > MAX_THREADS:  # Rust ignores a longer number
            raise SpecError(f"the environment variable {name} is {value}, expected at most {MAX_THREADS}: unset it")


def _unusable(found: str) -> ManifestError:
    return ManifestError(f"tokenizer.json cannot be used: {found}. Build the bundle again")


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
