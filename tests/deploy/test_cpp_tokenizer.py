"""The tokenizer of the C++ header gives the ids of `tokenizers`, for any text, or is refused."""

import csv
import io
import json
import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2d_export.deploy.cpp.vocabulary import vocabulary_file
from m2d_export.errors import SpecError
from m2d_export.spec import TextSpec
from m2d_export.text.batches import Tokenizer
from tests.support.hard_texts import every_code_point, hard_texts

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "m2d_export" / "cpp" / "templates"
PROGRAMS = Path(__file__).parent / "cpp"
PUBLISHED = (ROOT / "models" / "minilm-l6-sts-2d" / "tokenizer.json").read_text(encoding="utf-8")
STRICT = ("-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")
SPEC = TextSpec(max_tokens=128, pad_id=0)

Compile = Callable[..., Path]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compile one of the programs beside these tests."""
    compiler = shutil.which("c++")
    if not compiler:
        pytest.skip("there is no C++ compiler (c++) here")
    folder = tmp_path_factory.mktemp("programs")

    def compile_(name: str, *options: str) -> Path:
        command = [compiler, *STRICT, *options, f"-I{TEMPLATES}", PROGRAMS / f"{name}.cpp", "-o", folder / name]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return folder / name

    return compile_


@pytest.fixture(scope="module")
def token_ids(compiled: Compile) -> Path:
    return compiled("token_ids", "-O2")


def altered(**parts: Any) -> str:
    """The published tokenizer with some of its parts, or of its parts' settings, replaced."""
    data = json.loads(PUBLISHED)
    for name, value in parts.items():
        data[name] = data[name] | value if isinstance(data[name], dict) and isinstance(value, dict) else value
    return json.dumps(data)


def ids_in_cpp(program: Path, vocabulary: Path, texts: Sequence[bytes]) -> list[list[int]]:
    message = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    done = subprocess.run([program, vocabulary], input=message, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    numbers = np.frombuffer(done.stdout, dtype=np.int32).tolist()
    ids, place = [], 0
    while place < len(numbers):
        ids.append(numbers[place + 1 : place + 1 + numbers[place]])
        place += 1 + numbers[place]
    return ids


def check_same(program: Path, folder: Path, texts: Sequence[str], tokenizer: str = PUBLISHED, spec: TextSpec = SPEC):
    """Check that both give the same ids, and name the first text of which they do not."""
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


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_hundred_thousand_hard_texts_have_the_same_ids(token_ids: Path, tmp_path: Path, seed: int) -> None:
    check_same(token_ids, tmp_path, list(hard_texts(25_000, seed + 1)))


@pytest.mark.slow
def test_every_code_point_has_the_same_ids_alone_and_inside_a_word(token_ids: Path, tmp_path: Path) -> None:
    texts = every_code_point()
    while part := list(islice(texts, 200_000)):  # a part at a time, to hold less
        check_same(token_ids, tmp_path, part)


@pytest.mark.slow
def test_all_sentences_of_stsb_have_the_same_ids(token_ids: Path, tmp_path: Path, stsb: Path) -> None:
    check_same(token_ids, tmp_path, sentences(*sorted(stsb.glob("*.csv"))))


def sentences(*files: Path) -> list[str]:
    """The distinct sentences of STS-B's files."""
    rows = chain.from_iterable(csv.reader(io.StringIO(file.read_text(encoding="utf-8"), newline="")) for file in files)
    return list(dict.fromkeys(text for row in rows for text in row[:2]))


SETTINGS = [
    {"lowercase": False},
    {"strip_accents": False},
    {"lowercase": False, "strip_accents": True},
    {"clean_text": False, "handle_chinese_chars": False},
]


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_setting_of_the_normalizer_is_heeded(token_ids: Path, tmp_path: Path, settings: dict[str, bool]) -> None:
    texts = [*hard_texts(20_000, 5), *islice(every_code_point(), 0, None, 11)]
    check_same(token_ids, tmp_path, texts, altered(normalizer=settings))


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
def test_texts_are_cut_off_where_the_model_ends(token_ids: Path, tmp_path: Path, max_tokens: int) -> None:
    texts = [*hard_texts(200), "unbelievably " * 3, "[MASK]" * 13, "a" * 101, "word " * 200_000, "e\u0301" * 500_000]
    check_same(token_ids, tmp_path, texts, spec=TextSpec(max_tokens, 0))


def test_the_default_prompt_is_part_of_the_text(token_ids: Path, tmp_path: Path) -> None:
    spec = TextSpec(16, 0, {"query": "Query: e"}, "query")
    check_same(token_ids, tmp_path, ["\u0301", "x", ""], spec=spec)


def test_bytes_that_are_no_utf8_are_read_as_python_reads_them(token_ids: Path, tmp_path: Path) -> None:
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
REFUSED = [
    ({"normalizer": {"type": "Lowercase"}}, "its normalizer is Lowercase, not BertNormalizer"),
    ({"normalizer": None}, "its normalizer is none"),
    ({"pre_tokenizer": {"type": "Whitespace"}}, "its pre_tokenizer is Whitespace, not BertPreTokenizer"),
    ({"model": {"type": "BPE"}}, "its model is BPE, not WordPiece"),
    ({"post_processor": {"type": "ByteLevel"}}, "its post_processor is ByteLevel"),
    ({"post_processor": {"single": PAIR}}, "its post_processor does more"),
    ({"model": {"unk_token": "<unk>"}}, "its unknown token '<unk>' is not in the vocabulary"),
    ({"model": {"continuing_subword_prefix": ""}}, "continuing_subword_prefix is empty"),
    ({"added_tokens": [ADDED[0] | {"normalized": True}]}, r"added token '\[PAD\]' is looked for in normalized text"),
    ({"added_tokens": [ADDED[0] | {"single_word": True}]}, r"added token '\[PAD\]' is a word only between others"),
    ({"added_tokens": [ADDED[0] | {"content": "a b"}]}, "added token 'a b' holds white space"),
    ({"added_tokens": [ADDED[0] | {"content": ""}]}, "no characters"),
]


@pytest.mark.parametrize(("parts", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_what_cannot_be_reproduced_is_refused_by_name(parts: dict[str, Any], reason: str) -> None:
    with pytest.raises(SpecError, match=rf"cannot be reproduced in C\+\+: .*{reason}"):
        vocabulary_file(altered(**parts), SPEC, 384)


def test_a_length_that_special_tokens_fill_is_refused() -> None:
    with pytest.raises(SpecError, match="texts of 2 tokens leave no room"):
        vocabulary_file(PUBLISHED, TextSpec(2, 0), 384)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_random_bytes_upset_neither_sanitizer(compiled: Compile, tmp_path: Path, seed: int) -> None:
    program = compiled("fuzz", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    (tmp_path / "vocabulary.bin").write_bytes(vocabulary_file(PUBLISHED, SPEC, 384))
    command = [program, tmp_path / "vocabulary.bin", "500000", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
