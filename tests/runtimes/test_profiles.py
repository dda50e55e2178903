"""Batches fitted to the profiles of an engine."""

import pytest

from m2d_export.errors import SpecError
from m2d_export.runtimes.profiles import Slot, fit, rounded
from m2d_export.spec import default_shapes, parse_shapes
from tests.support.checkpoints import SHAPES


def test_a_size_is_rounded_up_by_at_most_a_quarter_to_few_sizes() -> None:
    for count in range(1, 513):
        assert count <= rounded(count, 1) < count * 1.25
        assert rounded(count, 8) % 8 == 0
        assert rounded(rounded(count, 8), 8) == rounded(count, 8)
    assert sorted({rounded(count, 8) for count in range(1, 513)}) == [
        *range(8, 65, 8),
        *(80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512),
    ]


def test_the_smallest_profile_that_is_long_enough_runs_a_batch() -> None:
    profiles = default_shapes(512)
    slots = {tokens: fit(3, tokens, profiles) for tokens in (1, 32, 33, 128, 129, 512)}
    assert slots == {
        1: Slot(0, (3, 8)),
        32: Slot(0, (3, 32)),
        33: Slot(1, (3, 40)),
        128: Slot(1, (3, 128)),
        129: Slot(2, (3, 160)),
        512: Slot(2, (3, 512)),
    }


def test_a_batch_is_padded_to_the_minimum_and_cut_to_the_maximum_of_its_profile() -> None:
    profiles = parse_shapes("4x10:4x16:6x30,1x10:1x16:1x30")
    assert fit(1, 3, profiles) == Slot(1, (1, 10))
    assert fit(2, 29, profiles) == Slot(0, (4, 30))
    assert fit(5, 29, profiles) == Slot(0, (5, 30))
    assert fit(40, 29, profiles) == Slot(0, (6, 30))  # the other 34 texts need further calls


def test_a_text_that_is_too_long_for_every_profile_is_refused_with_the_profiles() -> None:
    with pytest.raises(SpecError, match=r"49 tokens.*1x1:2x8:4x16, 1x17:2x24:4x48"):
        fit(1, 49, SHAPES)
