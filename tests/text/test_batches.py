"""Token ids to padded batches."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2d_export.spec import TextSpec
from m2d_export.text.batches import MIN_FILL, TOKEN_BUDGET, Batch, batches, pad
from m2d_export.text.tokenizer import TokenIds
from m2d_export.vectors import truncate
from tests.support.fake_runtime import FakeRuntime
from tests.text.kinds import PAD, tokenizer_of


def of_lengths(lengths: list[int]) -> list[TokenIds]:
    """One text for each length; all ids of a text are its index + 10."""
    return [TokenIds([row + 10] * length) for row, length in enumerate(lengths)]


def check_batch(batch: Batch, tokens: list[TokenIds]) -> None:
    """Every row of a batch holds the ids of its text, then padding."""
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
        assert batch.attention_mask.sum() >= MIN_FILL * batch.attention_mask.size
        check_batch(batch, tokens)


def test_a_text_over_the_budget_gets_its_own_batch_and_the_others_fill_theirs() -> None:
    made = [list(batch.rows) for batch in batches(of_lengths([3, 9, 3, 4, 3]), TextSpec(64, PAD), token_budget=8)]
    assert made == [[1], [3, 0], [2, 4]]


def test_texts_of_very_different_lengths_are_not_in_one_batch() -> None:
    made = [list(batch.rows) for batch in batches(of_lengths([30, 5, 28, 6, 60, 24]), TextSpec(64, PAD))]
    assert made == [[4], [0, 2, 5], [3, 1]]


def test_batches_of_real_texts_stay_within_the_default_budget() -> None:
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
    """The attention mask and the pooling mask of each text, all in one batch."""
    tokenizer = tokenizer_of("WordPiece", 8, include_prompt)
    batch = pad(tokenizer.encode(texts, prompt), tokenizer.spec, range(len(texts)))
    for row in range(len(texts)):
        pooling = None if batch.pooling_mask is None else batch.pooling_mask[row].tolist()
        yield batch.attention_mask[row].tolist(), pooling


def test_a_checkpoint_that_pools_its_prompt_has_no_pooling_mask() -> None:
    assert list(masks(True, "the cat ", ["dog"])) == [([1, 1, 1, 1, 1], None)]


@pytest.mark.parametrize(
    ("prompt", "excluded"),
    [("the cat ", 3), ("the ", 2), ("", 0)],  # [CLS] counts as part of the prompt, as in sentence-transformers
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
