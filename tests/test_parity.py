"""The parity gate lets nothing wrong through, whatever is wrong."""

from dataclasses import replace

import numpy as np
import pytest

from m2d_export.batching import Batch, TokenIds, Tokenizer
from m2d_export.bundle import Bundle
from m2d_export.parity import PROBES, Parity, compare
from m2d_export.runtimes.fake import FakeRuntime
from m2d_export.spec import Precision
from m2d_export.vectors import FloatArray

SOUND = Parity(24, True, 1.0, 1.0, 0.0, 0.0, 0.5)


class Leaky(FakeRuntime):
    """A text's vector depends on its neighbours, as with dynamic int8."""

    def vectors(self, batch: Batch) -> FloatArray:
        vectors = super().vectors(batch)
        return vectors + 0.001 * np.abs(vectors).max()


class PaddingBlind(FakeRuntime):
    """Padding is pooled too."""

    def vectors(self, batch: Batch) -> FloatArray:
        return super().vectors(replace(batch, attention_mask=np.ones_like(batch.attention_mask)))


class Constant(FakeRuntime):
    def vectors(self, batch: Batch) -> FloatArray:
        return np.ones_like(super().vectors(batch))


class Broken(FakeRuntime):
    """NaN for the longest texts of a batch alone."""

    def vectors(self, batch: Batch) -> FloatArray:
        vectors = super().vectors(batch)
        vectors[batch.attention_mask.all(axis=1) & (len(vectors) > 1)] = np.nan
        return vectors


def judged(runtime: FakeRuntime, tokenizer: Tokenizer, tokens: list[TokenIds]) -> list[str]:
    """What the gate says of ``runtime``, the sound fake being the reference."""
    from m2d_export.batching import pad

    reference = FakeRuntime()
    vectors = np.concatenate([reference.vectors(pad([item], tokenizer.spec, [0])) for item in tokens])
    return compare(runtime, vectors, tokenizer, tokens, [32, 16]).failures(Precision.FP32)


@pytest.mark.parametrize(
    ("runtime", "complaint"),
    [
        (FakeRuntime(), None),
        (Leaky(), "a text alone and in a batch differ"),
        (PaddingBlind(), "a text alone and in a batch differ"),
        (Constant(), "output is constant"),
        (Broken(), "NaN"),
    ],
)
def test_the_gate_names_what_is_wrong(bundle: Bundle, runtime: FakeRuntime, complaint: str | None) -> None:
    failures = judged(runtime, bundle.tokenizer, bundle.tokenizer.encode(PROBES))
    if complaint is None:
        assert failures == []
    else:
        assert any(complaint in failure for failure in failures), failures


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({}, False),
        ({"cosine_min": 0.99998}, True),
        ({"invariance": 1.1e-5}, True),
        ({"distinction": 0.0}, True),
        ({"finite": False, "cosine_min": float("nan")}, True),
    ],
)
def test_bounds_of_fp32(change: dict[str, float], failing: bool) -> None:
    assert bool(replace(SOUND, **change).failures(Precision.FP32)) == failing
