"""The parity gate lets nothing wrong through, whatever is wrong."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from m2d_export.bundle.disk import Bundle
from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.errors import ParityError
from m2d_export.gate.parity import Parity, compare
from m2d_export.gate.reference import PROBES, checked_reference
from m2d_export.precisions import PRECISIONS
from m2d_export.spec import Precision
from m2d_export.text.batches import Batch
from m2d_export.text.tokenizer import TokenIds, Tokenizer
from m2d_export.vectors import FloatArray
from tests.support.fake_runtime import FakeRuntime

BOUNDS = PRECISIONS[Precision.FP32].bounds
SOUND = Parity(24, True, 1.0, 1.0, 0.0, 0.0, 1.0, 0.5)


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
    from m2d_export.text.batches import pad

    reference = FakeRuntime()
    vectors = np.concatenate([reference.vectors(pad([item], tokenizer.spec, [0])) for item in tokens])
    return compare(runtime, vectors, tokenizer, tokens, [32, 16]).failures(BOUNDS)


@pytest.mark.parametrize(
    ("runtime", "complaint"),
    [
        (FakeRuntime(), None),
        (Leaky(), "by itself and in a batch"),
        (PaddingBlind(), "by itself and in a batch"),
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
        ({"cosine_min": float("nan")}, True),
        ({"invariance": float("nan")}, True),
    ],
)
def test_bounds_of_fp32(change: dict[str, float], failing: bool) -> None:
    assert bool(replace(SOUND, **change).failures(BOUNDS)) == failing


def test_a_reference_of_nan_passes_nothing(bundle: Bundle) -> None:
    tokens = bundle.tokenizer.encode(PROBES)
    reference = np.full((len(tokens), 32), np.nan, dtype=np.float32)
    assert compare(FakeRuntime(), reference, bundle.tokenizer, tokens, [32]).failures(BOUNDS)


def test_a_reference_that_is_not_sentence_transformers_own_is_refused(
    make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_checkpoint(str(make_checkpoint(prompts={"query": "the cat: "})))
    exits = ExitEncoder(loaded, [loaded.depth]).eval()
    checked_reference(loaded, exits, [loaded.width])
    with torch.no_grad():
        loaded.original[0].auto_model.embeddings.token_type_embeddings.weight[0] += 1
    encode = loaded.original.encode
    others = encode(list(PROBES))
    with torch.no_grad():
        loaded.original[0].auto_model.embeddings.token_type_embeddings.weight[0] -= 1
    monkeypatch.setattr(loaded.original, "encode", lambda texts, **options: others[: len(texts)])
    with pytest.raises(ParityError, match="sentence-transformers"):
        checked_reference(loaded, exits, [loaded.width])


def test_texts_behind_a_prompt_are_probed_where_it_is_not_pooled(make_checkpoint: Callable[..., Path]) -> None:
    loaded = load_checkpoint(str(make_checkpoint(include_prompt=False)))
    tokens = checked_reference(loaded, ExitEncoder(loaded, [1]).eval(), [loaded.width]).probes
    assert len(tokens) == 2 * len(PROBES)
    assert any(item.prompt_length for item in tokens)
