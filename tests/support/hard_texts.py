"""Texts that are hard for tokenizers, made at random from a seed."""

import random
from collections.abc import Iterator

SPECIAL = ("[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]", "[unused1]", "[mask]", "[[SEP]", "[SEP", "[CLS][SEP]]")
WORDS = (
    "naïve",
    "Ελλάδα",
    "ΣΑΣ",
    "İstanbul",
    "straße",
    "ǅ",
    "ﬁancée",
    "don't",
    "e.g.",
    "한국어",
    "각각",
    "日本語",
    "हिन्दी",
    "مَرْحَبًا",
    "שָׁלוֹם",
)
EMOJI = ("👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "☺️", "🇫🇷", "1️⃣")
SPACES = " \t\n\r\x0b\x0c\x1c\x85\xa0\u1680\u2000\u2009\u2028\u2029\u202f\u205f\u3000"
CONTROLS = "\x00\x01\x07\x1b\x7f\xad\u200b\u200d\u200e\u2060\ufeff\ufffd\ufffe\U000e0001\ue000"
# Combining characters of many classes. Some have class 0, some are no accents that a tokenizer strips.
COMBINING = (
    "\u0300\u0301\u0316\u0323\u0327\u0334\u0344\u0345\u0360\u0483\u05b0\u064b\u093c\u094d\u0e38\u0eb8\u0f71\u1734"
    "\u1bf2\u20d0\u20dd\u302a\u302e\u3099\uabed\U00011046\U00016ff0\U0001d165\U0001d16d\U0001d166\U0001d1aa\u0488\u0903"
)
BLOCKS = (
    *((0x20, 0x7F), (0x80, 0x250), (0x250, 0x370), (0x370, 0x590), (0x590, 0x900), (0x900, 0x1100), (0x1100, 0x1200)),
    *((0x1200, 0x2000), (0x2000, 0x2E80), (0x2E80, 0x3400), (0x4E00, 0x4F00), (0xAC00, 0xAD00), (0xF900, 0xFB00)),
    *((0xFB00, 0x10000), (0x10000, 0x10400), (0x1D000, 0x1D800), (0x1F300, 0x1FB00), (0x2F800, 0x2FA20), (0, 0x110000)),
)


def hard_texts(count: int, seed: int = 8) -> Iterator[str]:
    """``count`` texts, the same ones for the same seed."""
    chance = random.Random(seed)
    for _ in range(count):
        yield "".join(_part(chance) for _ in range(chance.randint(0, 12)))


def _part(chance: random.Random) -> str:
    kind = chance.randrange(10)
    if kind == 0:
        return chance.choice(SPECIAL)
    if kind == 1:
        return chance.choice(WORDS) + chance.choice(("", " "))
    if kind == 2:
        return chance.choice(EMOJI)
    if kind == 3:
        return chance.choice(SPACES)
    if kind == 4:
        return chance.choice(CONTROLS)
    if kind == 5:  # sometimes very many combining characters
        length = chance.choice((1, 2, 3, 5, 200)) if chance.random() < 0.1 else chance.randint(1, 4)
        return chance.choice("aeo각\u1100") + "".join(chance.choices(COMBINING + CONTROLS[:3], k=length))
    if kind == 6:
        return chance.choice("aXé한中") * chance.choice((1, 2, 99, 100, 101, 300))
    low, high = chance.choice(BLOCKS)
    codes = (chance.randrange(low, high) for _ in range(chance.randint(1, 6)))
    return "".join(chr(code) for code in codes if not 0xD800 <= code <= 0xDFFF) + chance.choice(("", " "))


def every_code_point() -> Iterator[str]:
    """Each code point by itself and inside a word."""
    for code in range(0x110000):
        if not 0xD800 <= code <= 0xDFFF:
            yield chr(code)
            yield f"pa{chr(code)}rrot"
