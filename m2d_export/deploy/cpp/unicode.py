"""Make tables of what a BERT normalizer and pre-tokenizer do to every code point.

The tables come from the installed `tokenizers`, so they have its Unicode version.
"""

import functools
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Any

import numpy as np
from tokenizers import normalizers, pre_tokenizers

from m2d_export.errors import SpecError

CODE_POINTS = [code for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]
SEPARATORS = "|", "!"  # no normalizer changes them; a chunk with "|" in it is joined with "!"
CHUNK = 1 << 16
ORDER_SHIFT = 8  # the bits above the traits hold the order of combining characters
LOWEST, HIGHEST = "\u0334", "\u0345"  # their combining classes are 1 and 240, the lowest and the highest

Characters = tuple[int, ...]


class Trait(IntFlag):
    """What is done to a code point. The file vocabulary.bin has these numbers."""

    SKIPPED = 1  # ignored
    PADDED = 2  # a word by itself
    DECOMPOSED = 4  # replaced by its characters in ``decomposed``
    HANGUL = 8  # replaced by its letters; a formula computes them
    MARK = 16  # dropped after combining characters are put in order
    LOWERED = 32  # replaced by its characters in ``lowered``
    SPACE = 64  # ends a word
    PUNCTUATION = 128  # a word by itself, also if it replaces another character


@dataclass(frozen=True)
class UnicodeTables:
    """What is done to every code point, in this order: skip, pad, decompose, order, drop marks, lower, split.

    ``traits`` has ranges of code points with equal traits: (first code point, ``Trait`` | order << 8). The order of a
    combining character is its combining class. The order of every other character is 0.
    """

    traits: Sequence[tuple[int, int]]
    decomposed: Mapping[int, Characters]
    lowered: Mapping[int, Characters]


@functools.cache
def probe(clean_text: bool, handle_chinese_chars: bool, strip_accents: bool | None, lowercase: bool) -> UnicodeTables:
    """Make the tables of a ``BertNormalizer`` with these settings and of a ``BertPreTokenizer``. This takes seconds.

    Raises SpecError if the tables change a code point in another way than the normalizer does. The error names the code
    point.
    """
    strips = lowercase if strip_accents is None else strip_accents
    cleaned = _changed(_bert(clean_text=True)) if clean_text else {}
    padded = _changed(_bert(handle_chinese_chars=True)) if handle_chinese_chars else {}
    lowered = _changed(_bert(lowercase=True)) if lowercase else {}
    nfd = normalizers.NFD()
    decomposed = _changed(nfd) if strips else {}
    marks = [code for code, text in _changed(_bert(strip_accents=True)).items() if not text] if strips else []
    orders = _orders(nfd) if strips else {}

    early = {code: _codes(nfd.normalize_str(text) if strips else text) for code, text in cleaned.items() if text}
    replaced = {code: _codes(text) for code, text in decomposed.items() if code not in cleaned} | early
    hangul = {code for code, characters in replaced.items() if characters == hangul_letters(code)}
    replaced = {code: characters for code, characters in replaced.items() if code not in hangul}

    traits = np.zeros(0x110000, dtype=np.int64)
    for trait, codes in (
        (Trait.SKIPPED, [code for code, text in cleaned.items() if not text]),
        (Trait.PADDED, padded),
        (Trait.DECOMPOSED, replaced),
        (Trait.HANGUL, hangul),
        (Trait.MARK, marks),
        (Trait.LOWERED, lowered),
    ):
        traits[list(codes)] |= trait
    for code, order in orders.items():
        traits[code] |= order << ORDER_SHIFT
    pieces = _pieces()
    traits[CODE_POINTS] |= np.select([pieces == 2, pieces == 3], [Trait.SPACE, Trait.PUNCTUATION], 0)

    starts = [0, *(np.flatnonzero(np.diff(traits)) + 1).tolist()]
    lower = {code: _codes(text) for code, text in lowered.items()}
    tables = UnicodeTables([(start, int(traits[start])) for start in starts], replaced, lower)
    _check(tables, traits, _changed(_bert(clean_text, handle_chinese_chars, strips, lowercase)))
    return tables


def hangul_letters(code: int) -> Characters:
    """Compute the letters of a Hangul syllable by Unicode's formula. Return any other code point as it is."""
    place = code - 0xAC00
    if not 0 <= place < 11172:
        return (code,)
    lead, vowel, tail = 0x1100 + place // 588, 0x1161 + place % 588 // 28, 0x11A7 + place % 28
    return (lead, vowel) if tail == 0x11A7 else (lead, vowel, tail)


def _bert(
    clean_text: bool = False, handle_chinese_chars: bool = False, strip_accents: bool = False, lowercase: bool = False
) -> Any:
    return normalizers.BertNormalizer(clean_text, handle_chinese_chars, strip_accents, lowercase)


def _codes(text: str) -> Characters:
    return tuple(map(ord, text))


def _changed(normalizer: Any) -> dict[int, str]:
    """Find the code points that a normalizer changes, and the text that replaces each of them."""
    changed: dict[int, str] = {}
    for start in range(0, len(CODE_POINTS), CHUNK):
        codes = CODE_POINTS[start : start + CHUNK]
        separator = SEPARATORS[start == 0]  # "|" itself is in the first chunk
        if start == 0:
            changed |= {ord(separator): text for text in [normalizer.normalize_str(separator)] if text != separator}
            codes = [code for code in codes if code != ord(separator)]
        texts = normalizer.normalize_str(separator.join(map(chr, codes))).split(separator)
        if len(texts) != len(codes):
            raise SpecError(
                "in this version of tokenizers, the characters next to a character change how it is normalized. Tables "
                "cannot describe this: install another version"
            )
        changed |= {code: text for code, text in zip(codes, texts, strict=True) if text != chr(code)}
    return changed


def _pieces() -> Any:
    """Put each code point inside a word, and count the pieces of the word: 1, 2 (white space) or 3 (punctuation)."""
    splitter = pre_tokenizers.BertPreTokenizer()
    counts = []
    for start in range(0, len(CODE_POINTS), CHUNK):
        codes = CODE_POINTS[start : start + CHUNK]
        pieces = splitter.pre_tokenize_str("".join(f"a{chr(code)}b " for code in codes))
        places = np.array([piece[1][0] for piece in pieces]) // 4
        counts.append(np.bincount(places, minlength=len(codes)))
    return np.concatenate(counts)


def _orders(nfd: Any) -> dict[int, int]:
    """Find the combining class of every character that NFD exchanges with a neighbour.

    Python knows the classes. Its Unicode version may differ, but Unicode never changes a class.
    """
    orders = {ord(character): unicodedata.combining(character) for character in _combining(nfd)}
    unknown = [code for code, order in orders.items() if not order]
    if unknown:
        raise SpecError(f"tokenizers knows U+{unknown[0]:04X}, but this Python does not: install a newer Python")
    return orders


def _combining(nfd: Any) -> list[str]:
    """Find the code points that NFD exchanges with a neighbour. Code points that NFD replaces are left out."""
    found = set()
    for start in range(0, len(CODE_POINTS), CHUNK):
        characters = [chr(code) for code in CODE_POINTS[start : start + CHUNK] if code != ord("\n")]
        after = nfd.normalize_str("\n".join(character + LOWEST for character in characters)).split("\n")
        before = nfd.normalize_str("\n".join(HIGHEST + character for character in characters)).split("\n")
        for character, first, second in zip(characters, after, before, strict=True):
            if (
                first == LOWEST + character != character + LOWEST
                or second == character + HIGHEST != HIGHEST + character
            ):
                found.add(character)
    return sorted(found)


def _check(tables: UnicodeTables, traits: Any, whole: Mapping[int, str]) -> None:
    """Raise SpecError if the tables change some code point in another way than the whole normalizer does."""
    kinds = traits.tolist()

    def folded(code: int) -> str:
        if kinds[code] & Trait.SKIPPED:
            return ""
        letters = hangul_letters(code) if kinds[code] & Trait.HANGUL else tables.decomposed.get(code, (code,))
        kept = (letter for letter in letters if not kinds[letter] & Trait.MARK)
        text = "".join(chr(lower) for letter in kept for lower in tables.lowered.get(letter, (letter,)))
        return f" {text} " if kinds[code] & Trait.PADDED else text

    for code in {*whole, *np.flatnonzero(traits).tolist()}:
        if whole.get(code, chr(code)) != folded(code):
            raise SpecError(
                f"the normalizer of this version of tokenizers changes U+{code:04X} in another way than its parts do: "
                "install another version"
            )
