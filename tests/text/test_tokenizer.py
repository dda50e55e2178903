"""Texts to token ids: truncated, refused by index, and read only as far as needed."""

import json
import random
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import processors

from m2d_export.bench.memory import peak_bytes
from m2d_export.errors import InputError, ManifestError, SpecError
from m2d_export.spec import TextSpec
from m2d_export.text.batches import batches
from m2d_export.text.tokenizer import Tokenizer
from m2d_export.vectors import truncate
from tests.support.fake_runtime import FakeRuntime
from tests.text.kinds import CLS, KINDS, PAD, SEP, json_of, plain, tokenizer_of


@pytest.mark.parametrize("max_tokens", [3, 8, 30])
def test_texts_are_truncated_to_the_checkpoints_maximum_and_not_padded(max_tokens: int) -> None:
    baked_in = json.loads(json_of("WordPiece"))
    assert (baked_in["truncation"]["max_length"], baked_in["padding"]["strategy"]) == (10, {"Fixed": 10})
    tokenizer = tokenizer_of("WordPiece", max_tokens)
    long, short = tokenizer.encode(["a cat " * 50, "cat"])
    assert len(long.ids) == max_tokens
    assert (long.ids[0], long.ids[-1]) == (CLS, SEP)
    assert len(short.ids) == 3


PIECES = [
    *(" ", "  ", " " * 9, " " * 70, "\t", "\n", "\r\n", "\n" * 40, "\x0b", "\x1c", "\x85", "\xa0", "\u2028", "\u3000"),
    *("a", "the", "cat", "isn't", ".", "...", "?!", "[SEP]", "</s>", "x" * 33, "y" * 150, "4" * 20),
    *("é", "e\u0301", "\u0301", "´", "ﬁ", "\u200b", "\ufeff", "\0", "猫", "กขค", "👩‍👧", "अनुच्छेद"),
]


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=60).map("".join), st.sampled_from(sorted(KINDS)))
@example("a " * 5 + "a" + " " * 300 + "b", "byte BPE")  # ends in the middle of a run that is a token
@example("a\x0bb" * 200, "WordPiece")  # Python calls it white space, BERT drops it
@example("a b c d " + "x\x85" * 100 + " y", "WordPiece")
def test_a_prefix_of_a_long_text_gives_the_ids_of_the_whole_text(text: str, kind: str) -> None:
    assert list(tokenizer_of(kind).encode([text])[0].ids) == plain(kind, 8).encode(text).ids


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_gives_the_same_ids_for_many_random_texts(kind: str) -> None:
    choose = random.Random(0)
    texts = ["".join(choose.choices(PIECES, k=choose.randint(10, 80))) for _ in range(800)]
    for text, tokens in zip(texts, tokenizer_of(kind).encode(texts), strict=True):
        assert list(tokens.ids) == plain(kind, 8).encode(text).ids, repr(text)


RUNS = [piece * 900 for piece in (" ", "\0", "\n", "x", "é", "ж", "猫", "กข", "\u0301", "\u0323\u0301", " \t")]
PHRASES = ["New York", "new york city", "xNew York"]  # tokens of their own


@pytest.mark.parametrize("max_tokens", [4, 30])
@pytest.mark.parametrize("kind", ["WordPiece", "Unigram", "byte BPE"])
def test_a_long_text_has_the_ids_of_the_whole_text_wherever_it_is_cut(kind: str, max_tokens: int) -> None:
    rust = RustTokenizer.from_str(json_of(kind))
    rust.add_tokens(PHRASES)
    rust.no_padding()
    rust.enable_truncation(max_tokens)
    tokenizer = Tokenizer(rust.to_str(), TextSpec(max_tokens, PAD))
    choose = random.Random(max_tokens)
    pieces = [*PIECES, *PHRASES, *([] if kind == "byte BPE" else RUNS)]  # BPE takes seconds for a word of megabytes
    texts = []
    for _ in range(60):
        few = choose.choices(pieces, k=choose.choice([1, 2, 3, 8]))
        texts.append("".join(choose.choices(few, k=choose.randint(20, 200))))
    assert sum(len(text) > 2000 for text in texts) >= 5
    for text, tokens in zip(texts, tokenizer.encode(texts), strict=True):
        assert list(tokens.ids) == (rust.encode(text).ids or [PAD]), repr(text[:200])


@pytest.mark.parametrize("place", range(24))
def test_a_token_of_several_words_is_not_cut(place: int) -> None:
    rust = RustTokenizer.from_str(json_of("WordPiece"))
    rust.add_tokens(["New York City"])
    rust.no_padding()
    rust.enable_truncation(8)
    text = "x" * 121 + " " * place + "New York City " * 999
    assert list(Tokenizer(rust.to_str(), TextSpec(8, PAD)).encode([text])[0].ids) == rust.encode(text).ids


MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("the cat " * (MEGABYTE // 8), id="words"),
        pytest.param(" " * MEGABYTE, id="spaces"),
        pytest.param("x" + " " * MEGABYTE, id="a word, then spaces"),
        pytest.param("x" * MEGABYTE, id="one word"),
        pytest.param("\0" * MEGABYTE, id="NUL"),
        pytest.param("\u0301\u0323" * (MEGABYTE // 2), id="marks"),
        pytest.param("กขค" * (MEGABYTE // 3), id="no spaces in the script"),
        pytest.param("東京" * (MEGABYTE // 2), id="each character is a word"),
        pytest.param(("x" * 5000 + " ") * (MEGABYTE // 5000), id="long words"),
    ],
)
def test_a_megabyte_costs_no_more_than_what_decides_its_tokens(text: str) -> None:
    tokenizer = tokenizer_of("WordPiece", 48)
    before, started = peak_bytes(), time.process_time()  # a busy machine does not stretch it
    tokens = tokenizer.encode([text])[0]
    assert time.process_time() - started < 0.5  # the whole text takes about a second
    assert peak_bytes() - before < 30e6  # the whole text takes 80 to 570 MB
    assert list(tokens.ids) == plain("WordPiece", 48).encode(text[: MEGABYTE // 4]).ids


@pytest.mark.parametrize("item", [None, b"bytes", bytearray(b"x"), 3, float("nan"), ["a", "b"], ("a", "b"), {"a": 1}])
def test_an_item_that_is_not_a_string_is_refused_with_its_index_and_type(item: Any) -> None:
    tokenizer = tokenizer_of("WordPiece")
    with pytest.raises(InputError, match=f"item 12 is {type(item).__name__}") as caught:
        tokenizer.encode(["fine", "fine", item, item], first_index=10)
    assert caught.value.index == 12


@pytest.mark.parametrize("text", ["\ud800", "ok \udfff", "\ud83d and \ude00 apart", "\ud83d\ude00"])
def test_a_lone_surrogate_is_refused_with_the_index_of_its_text(text: str) -> None:
    tokenizer = tokenizer_of("WordPiece")
    with pytest.raises(InputError, match=r"item 1 .*surrogate") as caught:
        tokenizer.encode(["fine", text])
    assert caught.value.index == 1


@pytest.mark.parametrize("prompt", ["\udcff: ", 5, b"query: "])
def test_an_invalid_prompt_is_refused_and_called_the_prompt(prompt: Any) -> None:
    tokenizer = tokenizer_of("WordPiece")
    with pytest.raises(InputError, match="the prompt") as caught:
        tokenizer.encode(["fine"], prompt)
    assert caught.value.index is None


def test_a_subclass_of_str_is_a_string() -> None:
    tokenizer = tokenizer_of("WordPiece")
    assert tokenizer.encode([np.str_("cat")]) == tokenizer.encode(["cat"])


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\0", "\0\0", "\u200b", "\ufeff"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_text_has_a_finite_vector(text: str, kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    (batch,) = batches(tokenizer.encode([text]), tokenizer.spec)
    assert batch.attention_mask.sum() >= 1
    assert np.isfinite(truncate(FakeRuntime().vectors(batch), 8)).all()


def test_a_tokenizer_without_special_tokens_gives_one_attended_token_for_an_empty_text() -> None:
    rust = RustTokenizer.from_str(json_of("WordPiece"))
    rust.post_processor = processors.Sequence([])
    tokens = Tokenizer(rust.to_str(), TextSpec(8, PAD)).encode(["", "cat"])
    assert list(tokens[0].ids) == [PAD]
    (batch,) = batches(tokens, TextSpec(8, PAD))
    assert batch.attention_mask.tolist() == [[1], [1]]


@pytest.mark.parametrize("text", ["", "{}", "no json", '{"model": null}'])
def test_a_tokenizer_file_that_cannot_be_read_is_a_manifest_error(text: str) -> None:
    with pytest.raises(ManifestError, match=r"tokenizer\.json"):
        Tokenizer(text, TextSpec(8, PAD))


@pytest.mark.parametrize("name", ["RAYON_NUM_THREADS", "RAYON_RS_NUM_CPUS"])
def test_threads_that_take_minutes_to_start_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("many", "", "0", "-1", "2", "9" * 5000):
        monkeypatch.setenv(name, value)
        assert Tokenizer(json_of("WordPiece"), TextSpec(8, PAD))
    monkeypatch.setenv(name, "1000000")
    with pytest.raises(SpecError, match=f"{name} is 1000000, expected at most 1024"):
        Tokenizer(json_of("WordPiece"), TextSpec(8, PAD))
