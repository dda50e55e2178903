"""Texts to token ids to batches: what is cut, what is refused, what is padded."""

import json
import random
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from m2d_export.errors import InputError, ManifestError
from m2d_export.runtimes.fake import FakeRuntime
from m2d_export.spec import TextSpec
from m2d_export.text.batches import LEAST_FILL, TOKEN_BUDGET, Batch, TokenIds, Tokenizer, batches, head, pad
from m2d_export.vectors import truncate
from tests.conftest import tiny_tokenizer

PAD, CLS, SEP = 1, 3, 4  # of the tiny WordPiece
SPACES = [f"a{' ' * count}b{chr(10) * count}c" for count in range(1, 24)]  # so that runs of them become tokens


def trained(rust: RustTokenizer, trainer: trainers.Trainer) -> str:
    """A tokenizer trained on the spot, as the text of its ``tokenizer.json``."""
    rust.train_from_iterator(["the cat sat on the mat", "naïve, isn't it?", *SPACES] * 4, trainer)
    places = [(token, rust.token_to_id(token)) for token in ("<s>", "</s>")]
    rust.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=places)
    return rust.to_str()


def word_piece() -> str:
    """BERT's kind: drops control characters, splits at white space, unknown words become one token."""
    return str(tiny_tokenizer().backend_tokenizer.to_str())


def byte_bpe() -> str:
    """RoBERTa's and ModernBERT's kind: white space belongs to tokens, runs of it are tokens of their own."""
    rust = RustTokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trained(rust, trainers.BpeTrainer(vocab_size=420, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet))


def unigram() -> str:
    """XLM-RoBERTa's kind: white space is replaced, then text is split before each replacement."""
    rust = RustTokenizer(models.Unigram())
    rust.normalizer = normalizers.NFKC()
    rust.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    return trained(rust, trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>"))


KINDS = {"WordPiece": word_piece, "byte BPE": byte_bpe, "Unigram": unigram}


@cache
def json_of(kind: str) -> str:
    """The ``tokenizer.json`` of a kind."""
    return KINDS[kind]()


@cache
def tokenizer_of(kind: str, max_tokens: int = 8, include_prompt: bool = True) -> Tokenizer:
    """The tokenizer under test."""
    return Tokenizer(json_of(kind), TextSpec(max_tokens, PAD, include_prompt=include_prompt))


@cache
def plain(kind: str, max_tokens: int) -> RustTokenizer:
    """The tokenizer itself, which reads all of a text."""
    rust = RustTokenizer.from_str(json_of(kind))
    rust.no_padding()
    rust.enable_truncation(max_tokens)
    return rust


@pytest.mark.parametrize("max_tokens", [3, 8, 30])
def test_texts_are_cut_to_the_checkpoints_maximum_and_not_padded(max_tokens: int) -> None:
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
@example("a\x0bb" * 200, "WordPiece")  # white space to Python, nothing at all to BERT
@example("a b c d " + "x\x85" * 100 + " y", "WordPiece")
def test_reading_only_the_head_of_a_long_text_gives_the_ids_of_the_whole(text: str, kind: str) -> None:
    assert list(tokenizer_of(kind).encode([text])[0].ids) == plain(kind, 8).encode(text).ids


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_gives_the_same_ids_on_many_random_texts_too(kind: str) -> None:
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
        ("two\n words", 7, "two\n words"),  # no cut inside white space, and none before it
        ("oneword", 3, "oneword"),
        ("   words", 4, "   words"),
    ],
)
def test_a_head_ends_with_a_word_before_a_space_or_is_the_whole_text(text: str, limit: int, expected: str) -> None:
    assert head(text, limit) == expected


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
    # The processor's time, which a busy machine does not stretch.
    started = time.process_time()
    tokens = tokenizer.encode([text])[0]
    assert time.process_time() - started < 5
    assert list(tokens.ids) == plain("WordPiece", 48).encode(text).ids


def test_a_megabyte_of_words_costs_no_more_than_its_head() -> None:
    tokenizer = tokenizer_of("WordPiece", 48)
    started = time.process_time()
    tokenizer.encode(["the cat " * (MEGABYTE // 8)])
    assert time.process_time() - started < 0.25  # reading all of it takes about a second


@pytest.mark.parametrize("item", [None, b"bytes", bytearray(b"x"), 3, float("nan"), ["a", "b"], ("a", "b"), {"a": 1}])
def test_an_item_that_is_no_string_is_refused_with_its_place_and_type(item: Any) -> None:
    tokenizer = tokenizer_of("WordPiece")
    with pytest.raises(InputError, match=f"item 12 is {type(item).__name__}, not str") as caught:
        tokenizer.encode(["fine", "fine", item, item], first_index=10)
    assert caught.value.index == 12


@pytest.mark.parametrize("text", ["\ud800", "ok \udfff", "\ud83d and \ude00 apart", "\ud83d\ude00"])
def test_a_lone_surrogate_is_refused_with_the_place_of_its_text(text: str) -> None:
    tokenizer = tokenizer_of("WordPiece")
    with pytest.raises(InputError, match="item 1 holds a lone surrogate") as caught:
        tokenizer.encode(["fine", text])
    assert caught.value.index == 1


@pytest.mark.parametrize("prompt", ["\udcff: ", 5, b"query: "])
def test_a_prompt_that_is_no_text_is_refused_as_the_prompt(prompt: Any) -> None:
    tokenizer = tokenizer_of("WordPiece")
    with pytest.raises(InputError, match=r"the prompt (is|holds)") as caught:
        tokenizer.encode(["fine"], prompt)
    assert caught.value.index is None


def test_a_subclass_of_str_is_a_string() -> None:
    tokenizer = tokenizer_of("WordPiece")
    assert tokenizer.encode([np.str_("cat")]) == tokenizer.encode(["cat"])


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\0", "\0\0", "\u200b", "\ufeff"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_of_nothing_has_a_finite_vector(text: str, kind: str) -> None:
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
    with pytest.raises(ManifestError, match=r"tokenizer\.json cannot be read"):
        Tokenizer(text, TextSpec(8, PAD))


def of_lengths(lengths: list[int]) -> list[TokenIds]:
    """One text for each length, all its ids equal to its place + 10."""
    return [TokenIds([row + 10] * length) for row, length in enumerate(lengths)]


def check_batch(batch: Batch, tokens: list[TokenIds]) -> None:
    """Every row of a batch holds its text's ids, then padding."""
    for place, row in enumerate(batch.rows):
        length = len(tokens[row].ids)
        assert batch.input_ids[place].tolist() == [row + 10] * length + [PAD] * (batch.input_ids.shape[1] - length)
        assert batch.attention_mask[place].tolist() == [1] * length + [0] * (batch.input_ids.shape[1] - length)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 200))
def test_batches_cover_every_text_once_longest_first_within_the_budget(lengths: list[int], budget: int) -> None:
    tokens = of_lengths(lengths)
    made = list(batches(tokens, TextSpec(64, PAD), budget))
    assert sorted(row for batch in made for row in batch.rows) == list(range(len(lengths)))
    in_order = [lengths[row] for batch in made for row in batch.rows]
    assert in_order == sorted(lengths, reverse=True)
    for batch in made:
        assert batch.input_ids.dtype == batch.attention_mask.dtype == np.int64
        assert batch.input_ids.size <= budget or len(batch.rows) == 1
        assert batch.attention_mask.sum() >= LEAST_FILL * batch.attention_mask.size
        check_batch(batch, tokens)


def test_a_text_over_the_budget_goes_alone_and_the_others_are_not_split_finer_than_needed() -> None:
    made = [list(batch.rows) for batch in batches(of_lengths([3, 9, 3, 4, 3]), TextSpec(64, PAD), token_budget=8)]
    assert made == [[1], [3, 0], [2, 4]]


def test_a_text_is_not_padded_to_one_of_another_length() -> None:
    """Few texts of unlike lengths were one batch, mostly padding, at twice the time."""
    made = [list(batch.rows) for batch in batches(of_lengths([30, 5, 28, 6, 60, 24]), TextSpec(64, PAD))]
    assert made == [[4], [0, 2, 5], [3, 1]]


def test_the_default_budget_is_kept_with_real_texts() -> None:
    tokenizer = tokenizer_of("WordPiece", 48)
    tokens = tokenizer.encode(["cat " * count for count in range(1, 200)])
    made = list(batches(tokens, tokenizer.spec))
    assert len(made) > 1
    assert all(batch.input_ids.size <= TOKEN_BUDGET for batch in made)


def test_no_texts_make_no_batches() -> None:
    assert list(batches([], TextSpec(8, PAD))) == []


def test_padding_to_a_length_pads_beyond_the_longest() -> None:
    batch = pad([TokenIds([5, 6]), TokenIds([7])], TextSpec(8, PAD), (0, 1), length=4)
    assert batch.input_ids.tolist() == [[5, 6, PAD, PAD], [7, PAD, PAD, PAD]]
    assert batch.attention_mask.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0]]


def masks(include_prompt: bool, prompt: str, texts: list[str]) -> Iterator[tuple[list[int], list[int] | None]]:
    """The attention and the pooling mask of each text, in one batch."""
    tokenizer = tokenizer_of("WordPiece", 8, include_prompt)
    batch = pad(tokenizer.encode(texts, prompt), tokenizer.spec, range(len(texts)))
    for row in range(len(texts)):
        pooling = None if batch.pooling_mask is None else batch.pooling_mask[row].tolist()
        yield batch.attention_mask[row].tolist(), pooling


def test_a_checkpoint_that_pools_its_prompt_has_no_pooling_mask() -> None:
    assert list(masks(True, "the cat ", ["dog"])) == [([1, 1, 1, 1, 1], None)]


@pytest.mark.parametrize(
    ("prompt", "excluded"),
    [("the cat ", 3), ("the ", 2), ("", 0)],  # [CLS] counts as the prompt's, as sentence-transformers has it
)
def test_a_prompts_tokens_are_attended_but_not_pooled(prompt: str, excluded: int) -> None:
    for attention, pooling in masks(False, prompt, ["dog", "dog on the mat", ""]):
        assert pooling is not None
        assert pooling == [0] * excluded + attention[excluded:]
        assert sum(pooling) == sum(attention) - excluded > 0


def test_a_prompt_that_fills_the_whole_text_leaves_nothing_to_pool_and_a_finite_vector() -> None:
    tokenizer = tokenizer_of("WordPiece", 4, False)
    (batch,) = batches(tokenizer.encode(["dog"], "the cat is on the mat "), tokenizer.spec)
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1]]
    assert np.isfinite(truncate(FakeRuntime().vectors(batch), 8)).all()
