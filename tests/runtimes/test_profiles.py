"""Batches fitted to the profiles of an engine."""

import pytest

from m2d_export.errors import SpecError
from m2d_export.runtimes.profiles import Place, fit, rounded
from m2d_export.spec import default_shapes, parse_shapes
from tests.conftest import SHAPES


def test_a_size_is_rounded_up_by_at_most_a_quarter_to_few_sizes() -> None:
    for count in range(1, 513):
        assert count <= rounded(count, 1) < count * 1.25
        assert rounded(count, 8) % 8 == 0
        assert rounded(rounded(count, 8), 8) == rounded(count, 8)
    assert sorted({rounded(count, 8) for count in range(1, 513)}) == [
        *range(8, 65, 8),
        *(80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512),
    ]


def test_the_narrowest_profile_that_holds_a_batch_runs_it() -> None:
    profiles = default_shapes(512)
    places = {tokens: fit(3, tokens, profiles) for tokens in (1, 32, 33, 128, 129, 512)}
    assert places == {
        1: Place(0, (3, 8)),
        32: Place(0, (3, 32)),
        33: Place(1, (3, 40)),
        128: Place(1, (3, 128)),
        129: Place(2, (3, 160)),
        512: Place(2, (3, 512)),
    }


def test_a_batch_is_made_to_fit_what_its_profile_begins_and_ends_with() -> None:
    profiles = parse_shapes("4x10:4x16:6x30,1x10:1x16:1x30")
    assert fit(1, 3, profiles) == Place(1, (1, 10))
    assert fit(2, 29, profiles) == Place(0, (4, 30))
    assert fit(5, 29, profiles) == Place(0, (5, 30))
    assert fit(40, 29, profiles) == Place(0, (6, 30))  # and the rest in calls of its own


def test_texts_beyond_every_profile_are_refused_with_what_there_is() -> None:
    with pytest.raises(SpecError, match=r"49 tokens are more than this engine takes \(1x1:2x8:4x16, 1x17:2x24:4x48\)"):
        fit(1, 49, SHAPES)
