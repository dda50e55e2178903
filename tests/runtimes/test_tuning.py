"""The token budget of a batch, chosen by measuring."""

import time
from collections.abc import Iterator

import numpy as np
import pytest

from m2d_export import Bundle, Encoder
from m2d_export.errors import InputError
from m2d_export.runtimes.tuning import budget_seconds, budgets_of
from m2d_export.text.batches import Batch
from m2d_export.vectors import FloatArray
from tests.support.fake_runtime import FakeRuntime

TEXTS = ["the cat is here", "a dog", "one two three four five six seven eight"] * 100
BUDGETS = (128, 256, 512, 1024, 2048)  # the tried budgets of a CPU runtime
CALL = 0.005  # seconds, much longer than a call of the fake runtime


class QuadraticRuntime(FakeRuntime):
    """The time of a call grows with the square of its tokens, so the smallest batches are the fastest."""

    def _vectors(self, batch: Batch) -> FloatArray:
        time.sleep(CALL * (batch.input_ids.size / BUDGETS[0]) ** 2)
        return super()._vectors(batch)


@pytest.fixture
def encoder(bundle: Bundle) -> Iterator[Encoder]:
    with Encoder(bundle, 2, 32) as opened:
        yield opened


def test_batches_are_large_where_calls_are_expensive_and_small_where_tokens_are(encoder: Encoder) -> None:
    encoder.runtime = FakeRuntime(seconds=CALL)
    few = TEXTS[:60]  # the fake runtimes sleep in each call
    assert encoder.tune(few) == encoder.token_budget > BUDGETS[1]
    encoder.runtime = QuadraticRuntime()
    assert encoder.tune(few) == encoder.token_budget == BUDGETS[0]


@pytest.mark.parametrize("runtime", ["onnxrt", "openvino"])
def test_vectors_do_not_depend_on_the_budget(bundle: Bundle, runtime: str) -> None:
    pytest.importorskip({"onnxrt": "onnxruntime"}.get(runtime, runtime))
    with Encoder(bundle, 2, 32, runtime=runtime) as opened:
        expected = opened.encode(TEXTS)
        for budget in BUDGETS:
            opened.token_budget = budget
            np.testing.assert_allclose(opened.encode(TEXTS), expected, atol=1e-5)


def test_every_budget_is_timed_in_every_round_except_the_warm_up(bundle: Bundle) -> None:
    tokenizer = bundle.tokenizer
    seconds = budget_seconds(FakeRuntime(), tokenizer.encode(TEXTS), tokenizer.spec, rounds=3)
    assert {budget: len(measured) for budget, measured in seconds.items()} == dict.fromkeys(BUDGETS, 3)


def test_the_tried_budgets_surround_the_default_of_the_runtime() -> None:
    class Wide(FakeRuntime):
        token_budget = 16384

    assert budgets_of(FakeRuntime()) == BUDGETS
    assert budgets_of(Wide()) == (4096, 8192, 16384, 32768, 65536)


def test_tuning_without_texts_is_refused(encoder: Encoder) -> None:
    with pytest.raises(InputError, match="no text"):
        encoder.tune([])
    with pytest.raises(InputError, match="str"):
        encoder.tune("a cat")
