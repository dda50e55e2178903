"""Write a tokenizer.json as vocabulary.bin, a file with everything that the C++ tokenizer needs.

The file is little-endian. ``Tokenizer`` in ``templates/tokenizer.hpp`` reads its parts in the same order. A number is a
uint32. A string begins with the number of its UTF-8 bytes. A list begins with the number of its items. The last 8 bytes
are an FNV-1a checksum of all bytes before them.
"""

import json
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer

from m2d_export.deploy.cpp.unicode import UnicodeTables, probe
from m2d_export.errors import SpecError
from m2d_export.spec import TextSpec

MAGIC = b"M2DVOC2\n"
SAMPLE = "a"  # any text that has a token
POST_PROCESSORS = ("TemplateProcessing", "BertProcessing", "RobertaProcessing")
FNV_START, FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3


def vocabulary_file(tokenizer_json: str, text: TextSpec, dim: int, unpooled: int = 0, normalize: bool = True) -> bytes:
    """The bytes of vocabulary.bin for vectors of ``dim`` numbers; the first ``unpooled`` tokens are not pooled.

    Raises SpecError if C++ does not support a part of ``tokenizer.json``; the message names this part.
    """
    data = json.loads(tokenizer_json)
    _check(data)
    model = data["model"]
    rust = Tokenizer.from_str(tokenizer_json)
    before, after = _special_tokens(rust, data)
    if text.max_tokens <= len(before) + len(after):
        raise SpecError(f"a text of at most {text.max_tokens} tokens has room for special tokens only")
    # The ids are taken from the loaded tokenizer, because it gives a new id to a token that is not in the vocabulary.
    added = {token["content"]: _id(rust, token["content"]) for token in data["added_tokens"]}
    longest_first = sorted(added, key=lambda token: -len(token.encode()))  # C++ takes the first token that matches
    prefix = model["continuing_subword_prefix"]
    parts = [
        MAGIC,
        _numbers(dim, normalize, text.max_tokens, text.pad_id, model["vocab"][model["unk_token"]]),
        _numbers(model["max_input_chars_per_word"]),
        _list(before),
        _list(after),
        _string(text.prompt()),
        _numbers(unpooled),
        _strings(model["vocab"]),
        _strings({t.removeprefix(prefix): number for t, number in model["vocab"].items() if t.startswith(prefix)}),
        _strings({token: added[token] for token in longest_first}),
        *_tables(probe(**{name: value for name, value in data["normalizer"].items() if name != "type"})),
    ]
    content = b"".join(parts)
    return content + struct.pack("<Q", checksum(content))


def checksum(content: bytes) -> int:
    """The 64-bit FNV-1a checksum of ``content``. It detects a damaged file, but not a forged file."""
    value = FNV_START
    for byte in content:
        value = (value ^ byte) * FNV_PRIME & 0xFFFFFFFFFFFFFFFF
    return value


def _check(data: Mapping[str, Any]) -> None:
    """Raise SpecError if C++ does not support a part of the tokenizer, or a setting of a part."""
    for part, kind in (("normalizer", "BertNormalizer"), ("pre_tokenizer", "BertPreTokenizer"), ("model", "WordPiece")):
        found = (data[part] or {}).get("type", "none")
        if found != kind:
            raise _refusal(f"its {part} is {found}, not {kind}")
    if data["post_processor"] is not None and data["post_processor"]["type"] not in POST_PROCESSORS:
        raise _refusal(f"its post_processor is {data['post_processor']['type']}, not {', '.join(POST_PROCESSORS)}")
    model = data["model"]
    if model["unk_token"] not in model["vocab"]:
        raise _refusal(f"its unknown token {model['unk_token']!r} is not in the vocabulary")
    if not model["continuing_subword_prefix"]:
        raise _refusal("its continuing_subword_prefix is empty")
    for token in data["added_tokens"]:
        if not token["content"]:
            raise _refusal("it has an added token without characters")
        if token["normalized"]:
            raise _refusal(f"its added token {token['content']!r} matches normalized text (normalized: true)")
        if token["single_word"]:
            raise _refusal(f"its added token {token['content']!r} matches only whole words (single_word: true)")
        # White space next to an added token gets no ids. So lstrip and rstrip matter only for tokens with white space.
        if token["content"] != "".join(token["content"].split()):
            raise _refusal(f"its added token {token['content']!r} holds white space")


def _refusal(reason: str) -> SpecError:
    return SpecError(f"C++ cannot reproduce this tokenizer: {reason}. Use Python, or m2d-export onnx or triton")


def _special_tokens(rust: Tokenizer, data: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """The special tokens that the post-processor puts before and after a sample text."""
    rust.no_padding()
    rust.no_truncation()
    bare = Tokenizer.from_str(json.dumps({**data, "post_processor": None, "padding": None, "truncation": None}))
    body = bare.encode(SAMPLE).ids
    whole = rust.encode(SAMPLE)
    before = next(place for place, special in enumerate([*whole.special_tokens_mask, 0]) if not special)
    after = before + len(body)
    if whole.ids[before:after] != body or not all(whole.special_tokens_mask[after:]):
        raise _refusal("its post_processor does more than add special tokens before and after a text")
    return whole.ids[:before], whole.ids[after:]


def _id(rust: Tokenizer, token: str) -> int:
    number = rust.token_to_id(token)
    if number is None:
        raise _refusal(f"its added token {token!r} has no id after loading")
    return number


def _tables(tables: UnicodeTables) -> Iterable[bytes]:
    yield _numbers(len(tables.traits))
    yield from (_numbers(first, traits) for first, traits in tables.traits)
    for replaced in (tables.decomposed, tables.lowered):
        yield _numbers(len(replaced))
        yield from (_numbers(code) + _list(replaced[code]) for code in sorted(replaced))


def _numbers(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def _list(numbers: Iterable[int]) -> bytes:
    items = list(numbers)
    return _numbers(len(items), *items)


def _string(text: str) -> bytes:
    content = text.encode()
    return _numbers(len(content)) + content


def _strings(tokens: Mapping[str, int]) -> bytes:
    return _numbers(len(tokens)) + b"".join(_numbers(number) + _string(token) for token, number in tokens.items())
