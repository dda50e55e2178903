"""The size of a batch, chosen by what it costs here."""

import time
from collections.abc import Iterator

import numpy as np
import pytest

from m2d_export import Bundle, Encoder
from m2d_export.errors import InputError
from m2d_export.runtimes.fake import FakeRuntime
from m2d_export.runtimes.tuning import budget_seconds, budgets_of
from m2d_export.text.batches import Batch
from m2d_export.vectors import FloatArray

TEXTS = ["the cat is here", "a dog", "one two three four five six seven eight"] * 100
BUDGETS = (128, 256, 512, 1024, 2048)  # of a processor
CALL = 0.005  # seconds, far over what the fake runtime itself takes


class Crammed(FakeRuntime):
    """What has room for one small batch at a time: each further token costs more."""

    def vectors(self, batch: Batch) -> FloatArray:
        time.sleep(CALL * (batch.input_ids.size / BUDGETS[0]) ** 2)
        return super().vectors(batch)


@pytest.fixture
def encoder(bundle: Bundle) -> Iterator[Encoder]:
    with Encoder(bundle, 2, 32) as opened:
        yield opened


def test_batches_hold_many_tokens_where_calls_are_dear_and_few_where_tokens_are(encoder: Encoder) -> None:
    encoder.runtime = FakeRuntime(seconds=CALL)
    assert encoder.tune(TEXTS) == encoder.token_budget > BUDGETS[1]
    encoder.runtime = Crammed()
    assert encoder.tune(TEXTS) == encoder.token_budget == BUDGETS[0]


@pytest.mark.parametrize("runtime", ["onnxrt", "openvino"])
def test_vectors_are_the_same_whatever_was_chosen(bundle: Bundle, runtime: str) -> None:
    pytest.importorskip({"onnxrt": "onnxruntime"}.get(runtime, runtime))
    with Encoder(bundle, 2, 32, runtime=runtime) as opened:
        expected = opened.encode(TEXTS)
        for budget in BUDGETS:
            opened.token_budget = budget
            np.testing.assert_allclose(opened.encode(TEXTS), expected, atol=1e-5)


def test_every_budget_is_timed_in_every_round_and_the_first_does_not_count(bundle: Bundle) -> None:
    tokenizer = bundle.tokenizer
    seconds = budget_seconds(FakeRuntime(), tokenizer.encode(TEXTS), tokenizer.spec, rounds=3)
    assert {budget: len(measured) for budget, measured in seconds.items()} == dict.fromkeys(BUDGETS, 3)


def test_what_suits_another_device_is_tried_around_what_suits_it() -> None:
    class Wide(FakeRuntime):
        token_budget = 16384

    assert budgets_of(FakeRuntime()) == BUDGETS
    assert budgets_of(Wide()) == (4096, 8192, 16384, 32768, 65536)


def test_nothing_to_time_is_said(encoder: Encoder) -> None:
    with pytest.raises(InputError, match="no text to time"):
        encoder.tune([])
    with pytest.raises(InputError, match="texts is one str"):
        encoder.tune("a cat")
