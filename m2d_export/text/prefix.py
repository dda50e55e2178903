"""Tokenize only the beginning of a long text: the part that decides its first tokens.

A tokenizer truncates the tokens only after it has read the whole text, and a text may have megabytes.
"""

import re
import unicodedata
from functools import cache

from tokenizers import Encoding
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer

CHARACTERS_PER_TOKEN = 8  # a first guess: a prefix with too few tokens is doubled
MARGIN = 512  # characters at the end of a prefix; their tokens may change when the text goes on


class PrefixReader:
    """Tokenizes the part of a text that decides its first ids. ``rust`` truncates to ``max_tokens`` ids."""

    def __init__(self, rust: RustTokenizer, max_tokens: int) -> None:
        added = [token.content for token in rust.get_added_tokens_decoder().values()]
        longest_word: int = getattr(rust.model, "max_input_chars_per_word", 0)
        longest_added = max(map(len, added), default=0)
        self._rust, self._max_tokens = rust, max_tokens
        self._margin = MARGIN + 2 * max(longest_word, longest_added)
        self.limit = max_tokens * CHARACTERS_PER_TOKEN + self._margin
        is_bert = isinstance(rust.model, WordPiece) and isinstance(rust.pre_tokenizer, BertPreTokenizer)
        self._longest_word = longest_word if is_bert else 0
        self._added, self._longest_added = added, longest_added
        self._kind_of = cache(self._kind_of_now)

    def ids(self, texts: list[str]) -> list[list[int]]:
        """Tokenize texts that are longer than ``limit`` characters."""
        first = self._rust.encode_batch([text[: self.limit] for text in texts])
        return [
            found.ids if self._is_enough(text[: self.limit], found) else self._read_on(text)
            for text, found in zip(texts, first, strict=True)
        ]

    def _read_on(self, text: str) -> list[int]:
        text = self._without_middles(text)
        limit = self.limit
        while True:
            found = self._rust.encode(text[:limit])
            if limit >= len(text) or self._is_enough(text[:limit], found):
                return found.ids
            limit *= 2

    def _is_enough(self, prefix: str, found: Encoding) -> bool:
        """Whether the ids of a prefix are the first ids of the whole text.

        The last characters of a prefix (the margin) may get other tokens when the text goes on: they may be a part of a
        word or of a token of several words. So all tokens must end before the margin. Marks and control characters do
        not count towards the margin, because normalizers drop or move them.
        """
        if len(found.ids) < self._max_tokens:
            return False
        place, counted = len(prefix), 0
        while place and counted < self._margin:
            place -= 1
            counted += unicodedata.category(prefix[place])[0] not in "MC"
        return max(end for _, end in found.offsets) <= place

    def _without_middles(self, text: str) -> str:
        """Shorten the runs of characters that would have the same ids if they were longer or shorter.

        A run keeps its beginning and its end. With BERT, three kinds of runs are shortened: white space is one space,
        some characters are dropped, and a word that is too long is one unknown token. In other tokenizers, a run
        repeats one character, such as a space.
        """
        half = self._margin // 2
        kinds: dict[str, list[str]] = {}
        for character in sorted(set(text)):
            if self._longest_word or character * self._margin in text:
                kinds.setdefault(self._kind_of(character), []).append(re.escape(character))
        for run in ("".join(kinds.get("space", ())), "".join(kinds.get("dropped", ())), *kinds.get("alike", ())):
            if run:
                text = re.sub(f"([{run}]{{{half}}})[{run}]+([{run}]{{{half}}})", r"\1\2", text)
        letters, dropped = "".join(kinds.get("letter", ())), "".join(kinds.get("dropped", ()))
        if letters and not any(re.fullmatch(f"[{letters}{dropped}]+", token) for token in self._added):
            # Both ends stay long enough, because an added token may begin or end in the word.
            head = f"(?:[{letters}][{dropped}]*)" if dropped else f"[{letters}]"
            ends = self._longest_word + 1 + self._longest_added, self._longest_added
            word = f"[{letters}{dropped}]"
            text = re.sub(f"({head}{{{ends[0]}}}){word}+({word}{{{ends[1]}}})", r"\1\2", text)
        return text

    def _kind_of_now(self, character: str) -> str:
        """What the tokenizer does with a character.

        Only with BERT, a character can be a "letter", a "space" or "dropped". It is "alike" if its long runs have the
        same ids at any length. If none of these is true, it is "other".
        """
        longest = self._longest_word
        if longest:
            unknown = self._plain("a" * (longest + 1))
            if self._plain(character * (longest + 1)) == unknown == self._plain("a" * longest + character):
                return "letter"
            if not self._plain(character):
                between = self._plain(f"a{character}b")
                return {tuple(self._plain("ab")): "dropped", tuple(self._plain("a b")): "space"}.get(
                    tuple(between), "other"
                )
        runs = [character * count for count in (self._margin, self._margin + 1, 2 * self._margin)]
        found = [[self._plain(run), self._plain(f"a{run}b")] for run in runs]
        return "alike" if found[0] == found[1] == found[2] and len(found[0][0]) < self._max_tokens else "other"

    def _plain(self, text: str) -> list[int]:
        return self._rust.encode(text, add_special_tokens=False).ids
