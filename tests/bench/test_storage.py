"""Stored vectors, and the scores that remain, equal those of sentence-transformers."""

import numpy as np
import pytest
from numpy.typing import NDArray

from m2d_export.bench.similarity import spearman
from m2d_export.bench.storage import Storage, hamming, quantized, stored_spearman
from m2d_export.errors import SpecError
from m2d_export.vectors import cosine, truncate
from tests.bench.test_similarity import LEFT, RIGHT, pair_vectors

# Odd dims too: signs are packed eight a byte.
DIMS = (48, 13, 1)


def unit_vectors(dim: int) -> tuple[NDArray, NDArray]:
    vectors, grades = pair_vectors()
    return truncate(vectors, dim), grades


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(("storage", "name"), [("int8", "int8"), ("binary", "binary"), ("fp32", "float32")])
def test_stored_numbers_equal_those_of_sentence_transformers(dim: int, storage: str, name: str) -> None:
    from sentence_transformers import quantize_embeddings

    vectors, _ = unit_vectors(dim)
    vectors[:, 0] = vectors[0, 0]  # a dim whose range is empty
    vectors[3, -1] = 0  # zero has no sign
    expected, found = quantize_embeddings(vectors, name), quantized(vectors, Storage(storage))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("storage", list(Storage))
@pytest.mark.parametrize("dim", DIMS)
def test_bytes_per_vector_are_the_bytes_of_the_array(dim: int, storage: Storage) -> None:
    stored = quantized(unit_vectors(dim)[0], storage)
    assert storage.bytes_per_vector(dim) == stored.nbytes // len(stored)


def test_the_int8_score_equals_that_of_sentence_transformers() -> None:
    from sentence_transformers import quantize_embeddings
    from sentence_transformers.util import pairwise_cos_sim

    vectors, grades = unit_vectors(24)
    stored = quantize_embeddings(vectors, "int8").astype(np.float32)  # as the evaluator widens it
    expected = spearman(pairwise_cos_sim(stored[LEFT], stored[RIGHT]).numpy(), grades)
    assert stored_spearman(vectors, LEFT, RIGHT, grades, Storage.INT8) == pytest.approx(expected, abs=1e-2)


def test_hamming_counts_signs_that_differ() -> None:
    left, right = np.array([[1, -1, 1] * 5]), np.array([[1, 1, -1] * 5])
    packed = [quantized(side.astype(np.float32), Storage.BINARY) for side in (left, right)]
    assert hamming(*packed).tolist() == [10]


@pytest.mark.parametrize("dim", [48, 13])
def test_the_binary_score_equals_that_of_the_signs(dim: int) -> None:
    vectors, grades = unit_vectors(dim)
    signs = np.where(vectors > 0, 1.0, -1.0)
    # The dot product of signs is dim - 2 x Hamming distance, so both give the same ranks.
    expected = spearman((signs[LEFT] * signs[RIGHT]).sum(axis=1), grades)
    assert stored_spearman(vectors, LEFT, RIGHT, grades, Storage.BINARY) == pytest.approx(expected, abs=1e-9)


def test_fewer_bits_keep_less_of_the_score() -> None:
    vectors, grades = unit_vectors(48)
    whole = spearman(cosine(vectors[LEFT], vectors[RIGHT]), grades)
    kept = {storage: stored_spearman(vectors, LEFT, RIGHT, grades, storage) for storage in Storage}
    assert kept[Storage.FP32] == whole
    assert kept[Storage.FP16] == pytest.approx(whole, abs=0.1)
    assert kept[Storage.INT8] == pytest.approx(whole, abs=2)
    assert kept[Storage.BINARY] < kept[Storage.INT8]


def test_an_undefined_score_is_none() -> None:
    vectors, grades = unit_vectors(48)
    assert stored_spearman(np.abs(vectors), LEFT, RIGHT, grades, Storage.BINARY) is None


def test_int8_ranges_need_more_than_one_vector() -> None:
    with pytest.raises(SpecError, match=r"at least 2 .*got 1"):
        quantized(np.ones((1, 4), dtype=np.float32), Storage.INT8)
