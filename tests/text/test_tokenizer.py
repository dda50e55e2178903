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

from m2d_export.errors import InputError, ManifestError
from m2d_export.spec import TextSpec
from m2d_export.text.batches import batches
from m2d_export.text.tokenizer import Tokenizer, text_prefix
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


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("two words", 9, "two words"),
        ("two words", 8, "two"),
        ("two words", 4, "two"),
        ("two   words", 5, "two"),
        ("two\n words", 7, "two\n words"),  # never cut within a run of white space
        ("oneword", 3, "oneword"),
        ("   words", 4, "   words"),
    ],
)
def test_a_prefix_ends_with_a_word_before_a_space_or_is_the_whole_text(text: str, limit: int, expected: str) -> None:
    assert text_prefix(text, limit) == expected


MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("the cat " * (MEGABYTE // 8), id="words"),
        pytest.param(" " * MEGABYTE, id="spaces"),
        pytest.param("x" + " " * MEGABYTE, id="a word, then spaces"),
        pytest.param("x" * MEGABYTE, id="one word"),
        pytest.param("\0" * MEGABYTE, id="NUL"),
    ],
)
def test_a_megabyte_takes_bounded_time(text: str) -> None:
    tokenizer = tokenizer_of("WordPiece", 48)
    started = time.process_time()  # a busy machine does not stretch it
    tokens = tokenizer.encode([text])[0]
    assert time.process_time() - started < 5
    assert list(tokens.ids) == plain("WordPiece", 48).encode(text).ids


def test_a_megabyte_of_words_costs_no_more_than_its_prefix() -> None:
    tokenizer = tokenizer_of("WordPiece", 48)
    started = time.process_time()
    tokenizer.encode(["the cat " * (MEGABYTE // 8)])
    assert time.process_time() - started < 0.25  # the whole text takes about a second


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
