"""The C++ tokenizer gives the ids of ``tokenizers`` for every text, or the export refuses the tokenizer."""

import json
import os
import random
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2d_export.deploy.cpp.vocabulary import vocabulary_file
from m2d_export.errors import SpecError
from m2d_export.spec import TextSpec
from m2d_export.text.tokenizer import Tokenizer
from tests.deploy.cpp_programs import SANITIZERS, compiled, message, sentences
from tests.support.hard_texts import every_code_point, hard_texts
from tests.support.shared import Once

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
HEADERS = f"-I{ROOT / 'm2d_export' / 'deploy' / 'cpp' / 'templates'}"
PUBLISHED = (ROOT / "models" / "minilm-l6-2d" / "tokenizer.json").read_text(encoding="utf-8")
SPEC = TextSpec(max_tokens=128, pad_id=0)
FUZZ_TEXTS = os.environ.get("M2D_FUZZ_TEXTS", "100000")


@pytest.fixture(scope="session")
def token_ids(once: Once) -> Path:
    """The program that writes the ids of texts."""
    return compiled(once, "token_ids", "-O2", HEADERS)


def altered(**parts: Any) -> str:
    """The published tokenizer with some parts replaced; a part that is an object keeps its other settings."""
    data = json.loads(PUBLISHED)
    for name, value in parts.items():
        data[name] = data[name] | value if isinstance(data[name], dict) and isinstance(value, dict) else value
    return json.dumps(data)


def ids_in_cpp(program: Path, vocabulary: Path, texts: Sequence[bytes]) -> list[list[int]]:
    done = subprocess.run([program, vocabulary], input=message(texts), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    numbers = np.frombuffer(done.stdout, dtype=np.int32).tolist()
    ids, place = [], 0
    while place < len(numbers):
        ids.append(numbers[place + 1 : place + 1 + numbers[place]])
        place += 1 + numbers[place]
    return ids


def check_same(
    program: Path, folder: Path, texts: Iterable[str], tokenizer: str = PUBLISHED, spec: TextSpec = SPEC
) -> None:
    """Check that both tokenizers give the same ids; a failure shows the first text with other ids."""
    vocabulary = folder / "vocabulary.bin"
    vocabulary.write_bytes(vocabulary_file(tokenizer, spec, 384))
    check_same_bytes(program, vocabulary, [text.encode() for text in texts], tokenizer, spec)


def check_same_bytes(program: Path, vocabulary: Path, texts: Sequence[bytes], tokenizer: str, spec: TextSpec) -> None:
    expected = Tokenizer(tokenizer, spec).encode([text.decode(errors="replace") for text in texts], spec.prompt())
    given = ids_in_cpp(program, vocabulary, [spec.prompt().encode() + text for text in texts])
    assert len(given) == len(texts) > 0
    wrong = [(text, item.ids, ids) for text, item, ids in zip(texts, expected, given, strict=True) if item.ids != ids]
    assert wrong[:1] == []


def test_hard_texts_have_the_same_ids(token_ids: Path, tmp_path: Path) -> None:
    check_same(token_ids, tmp_path, ["", " ", *hard_texts(2500), *islice(every_code_point(), 0, None, 401)])


@pytest.mark.parametrize("seed", range(4))
def test_a_hundred_thousand_hard_texts_have_the_same_ids(token_ids: Path, tmp_path: Path, seed: int) -> None:
    check_same(token_ids, tmp_path, hard_texts(25_000, seed + 1))


def joined(texts: Iterator[str], count: int) -> Iterator[str]:
    """``count`` texts at a time as one text, with spaces between them: fewer calls for the same words."""
    while part := list(islice(texts, count)):
        yield " ".join(part)


LONG = TextSpec(max_tokens=4096, pad_id=0)


def test_every_code_point_has_the_same_ids_as_a_word_and_inside_a_word(token_ids: Path, tmp_path: Path) -> None:
    check_same(token_ids, tmp_path, joined(every_code_point(), 200), spec=LONG)


def test_all_sentences_of_stsb_have_the_same_ids(token_ids: Path, tmp_path: Path, stsb: Path) -> None:
    check_same(token_ids, tmp_path, sentences(*sorted(stsb.glob("*.csv"))))


SETTINGS = [
    {"lowercase": False},
    {"strip_accents": False},
    {"lowercase": False, "strip_accents": True},
    {"clean_text": False, "handle_chinese_chars": False},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_setting_of_the_normalizer_is_honoured(
    token_ids: Path, tmp_path: Path, settings: dict[str, bool]
) -> None:
    texts = [*hard_texts(6_000, 5), *joined(islice(every_code_point(), 0, None, 11), 200)]
    check_same(token_ids, tmp_path, texts, altered(normalizer=settings), LONG)


def test_a_tokenizer_of_other_settings_has_the_same_ids(token_ids: Path, tmp_path: Path) -> None:
    prefix, unknown = "@@", "[MASK]"
    vocabulary = {
        token.replace("##", prefix): number for token, number in json.loads(PUBLISHED)["model"]["vocab"].items()
    }
    model = {
        "vocab": vocabulary | {"new": 40_000},
        "continuing_subword_prefix": prefix,
        "unk_token": unknown,
        "max_input_chars_per_word": 5,
    }
    added = [token | {"lstrip": True, "rstrip": True} for token in json.loads(PUBLISHED)["added_tokens"]]
    added += [added[0] | {"id": 40_001, "content": "[SEP]é", "special": False}]
    post = {"type": "BertProcessing", "sep": ["[CLS]", 101], "cls": ["[SEP]", 102]}
    tokenizer = altered(model=model, added_tokens=added, post_processor=post)
    check_same(token_ids, tmp_path, [*hard_texts(500), "new  [SEP]é  [SEP] e"], tokenizer, TextSpec(9, 3))


ONLY_TEXT = [{"Sequence": {"id": "A", "type_id": 0}}]
EMPTY = {"type": "TemplateProcessing", "single": ONLY_TEXT, "pair": ONLY_TEXT, "special_tokens": {}}


@pytest.mark.parametrize("post", [None, EMPTY], ids=["none", "empty"])
def test_a_text_without_any_token_is_one_padding_token(token_ids: Path, tmp_path: Path, post: Any) -> None:
    data = json.loads(PUBLISHED) | {"post_processor": post}
    check_same(token_ids, tmp_path, ["", " ", "\0", "a parrot"], json.dumps(data), TextSpec(2, 7))


@pytest.mark.parametrize("max_tokens", [3, 4, 12])
def test_texts_are_cut_at_the_models_length(token_ids: Path, tmp_path: Path, max_tokens: int) -> None:
    texts = [*hard_texts(200), "unbelievably " * 3, "[MASK]" * 13, "a" * 101, "word " * 200_000, "e\u0301" * 500_000]
    check_same(token_ids, tmp_path, texts, spec=TextSpec(max_tokens, 0))


def test_the_default_prompt_is_part_of_the_text(token_ids: Path, tmp_path: Path) -> None:
    spec = TextSpec(16, 0, {"query": "Query: e"}, "query")
    check_same(token_ids, tmp_path, ["\u0301", "x", ""], spec=spec)


def test_bytes_that_are_not_utf8_are_read_as_in_python(token_ids: Path, tmp_path: Path) -> None:
    vocabulary = json.loads(PUBLISHED)["model"]["vocab"] | {"\ufffd": 50_000, "##\ufffd": 50_001}
    tokenizer = altered(model={"vocab": vocabulary}, normalizer={"clean_text": False})
    (tmp_path / "vocabulary.bin").write_bytes(vocabulary_file(tokenizer, SPEC, 384))
    chance = random.Random(8)
    edges = [0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE]
    edges += [0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF]
    texts = [bytes(chance.choices(edges, k=chance.randint(1, 9))) for _ in range(20_000)]
    check_same_bytes(token_ids, tmp_path / "vocabulary.bin", texts, tokenizer, SPEC)


ADDED = json.loads(PUBLISHED)["added_tokens"]
PAIR = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"normalizer": {"type": "Lowercase"}}, "normalizer is Lowercase"),
    ({"normalizer": None}, "normalizer is none"),
    ({"pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer is Whitespace"),
    ({"model": {"type": "BPE"}}, "model is BPE"),
    ({"post_processor": {"type": "ByteLevel"}}, "post_processor is ByteLevel"),
    ({"post_processor": {"single": PAIR}}, "post_processor does more"),
    ({"model": {"unk_token": "<unk>"}}, "unknown token '<unk>'"),
    ({"model": {"continuing_subword_prefix": ""}}, "continuing_subword_prefix"),
    ({"added_tokens": [ADDED[0] | {"normalized": True}]}, r"'\[PAD\]' .*normalized: true"),
    ({"added_tokens": [ADDED[0] | {"single_word": True}]}, r"'\[PAD\]' .*single_word: true"),
    ({"added_tokens": [ADDED[0] | {"content": "a b"}]}, "'a b' holds white space"),
    ({"added_tokens": [ADDED[0] | {"content": ""}]}, "without characters"),
]


@pytest.mark.parametrize(("parts", "named"), REFUSED, ids=[named for _, named in REFUSED])
def test_a_tokenizer_that_cpp_cannot_reproduce_is_refused_by_the_name_of_its_part(
    parts: dict[str, Any], named: str
) -> None:
    with pytest.raises(SpecError, match=named):
        vocabulary_file(altered(**parts), SPEC, 384)


def test_a_length_that_special_tokens_fill_is_refused() -> None:
    with pytest.raises(SpecError, match="2 tokens"):
        vocabulary_file(PUBLISHED, TextSpec(2, 0), 384)


def test_random_bytes_trigger_neither_sanitizer(once: Once, tmp_path: Path) -> None:
    program = compiled(once, "fuzz", *SANITIZERS, HEADERS)
    (tmp_path / "vocabulary.bin").write_bytes(vocabulary_file(PUBLISHED, SPEC, 384))
    done = subprocess.run([program, tmp_path / "vocabulary.bin", FUZZ_TEXTS, "0"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
