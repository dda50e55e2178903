"""Vectors are cut to a dim, and then normalised."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from m2d_export.vectors import cosine, truncate

# Zero, or far enough from zero that the square is a normal float32.
NUMBERS = st.one_of(st.just(0.0), st.floats(2**-10, 2**10, width=32), st.floats(-(2**10), -(2**-10), width=32))
ROWS = arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=NUMBERS)


def test_a_vector_is_cut_before_it_is_normalised() -> None:
    vectors = np.array([[3.0, 4.0, 12.0]], dtype=np.float32)
    np.testing.assert_allclose(truncate(vectors, 2), [[0.6, 0.8]], rtol=1e-6)
    # Normalised first, it would have length 5/13.
    assert not np.allclose(truncate(vectors, 2), [[3 / 13, 4 / 13]])


def test_cutting_a_unit_vector_equals_cutting_the_vector_it_came_from() -> None:
    vectors = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    np.testing.assert_allclose(truncate(truncate(vectors, 16), 4), truncate(vectors, 4), rtol=1e-5)


@settings(derandomize=True)
@given(ROWS, st.data())
def test_every_row_has_unit_length_or_is_zero(vectors: NDArray[np.float32], data: st.DataObject) -> None:
    dim = data.draw(st.integers(1, vectors.shape[1]))
    cut = truncate(vectors, dim)
    assert cut.shape == (len(vectors), dim)
    assert cut.dtype == np.float32
    expected = np.any(vectors[:, :dim] != 0, axis=1).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(cut, axis=1), expected, rtol=1e-5)


@settings(derandomize=True)
@given(ROWS, st.data())
def test_numbers_beyond_the_dim_and_the_scale_do_not_matter(vectors: NDArray[np.float32], data: st.DataObject) -> None:
    dim = data.draw(st.integers(1, vectors.shape[1]))
    other = vectors.copy()
    other[:, dim:] += 7
    other[:, :dim] *= 4
    np.testing.assert_allclose(truncate(other, dim), truncate(vectors, dim), rtol=1e-5)


def test_a_zero_prefix_stays_zero_instead_of_nan() -> None:
    vectors = np.array([[0, 0, 5], [0, 1, 0]], dtype=np.float32)
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(truncate(vectors, 2), [[0, 0], [0, 1]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_lengths_are_kept_when_not_normalising_and_the_input_is_never_changed(dtype: type) -> None:
    vectors: NDArray[Any] = np.array([[3, 4, 12]], dtype=dtype)
    cut = truncate(vectors, 2, normalize=False)
    assert cut.dtype == np.float32
    np.testing.assert_array_equal(cut, [[3, 4]])
    truncate(vectors, 2)
    np.testing.assert_array_equal(vectors, [[3, 4, 12]])


def test_no_rows_stay_no_rows() -> None:
    assert truncate(np.empty((0, 8), dtype=np.float32), 3).shape == (0, 3)


def test_cosines_are_per_row_whatever_the_lengths() -> None:
    left = np.array([[1, 0], [2, 0], [1, 1], [0, 0]], dtype=np.float32)
    right = np.array([[5, 0], [-1, 0], [0, 3], [1, 0]], dtype=np.float32)
    cosines = cosine(left, right)
    assert cosines.dtype == np.float64
    np.testing.assert_allclose(cosines, [1, -1, np.sqrt(0.5), 0], atol=1e-12)


@settings(derandomize=True)
@given(ROWS)
def test_a_cosine_lies_between_minus_one_and_one(vectors: NDArray[np.float32]) -> None:
    cosines = cosine(vectors, vectors[::-1])
    assert np.all(np.abs(cosines) <= 1 + 1e-12)
    np.testing.assert_allclose(cosines, cosines[::-1], atol=1e-12)
