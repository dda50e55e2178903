"""``--max-tokens``: a bundle that cuts texts earlier than its checkpoint, for less memory."""

from pathlib import Path

import numpy as np
import pytest

from m2d_export import Encoder, build
from m2d_export.errors import SpecError
from tests.support.checkpoints import MAX_TOKENS


@pytest.mark.slow
def test_texts_are_cut_at_max_tokens(checkpoint: Path, tmp_path: Path) -> None:
    bundle = build(checkpoint, tmp_path / "short.m2d", layers=[1], max_tokens=9)
    assert bundle.manifest.text.max_tokens == 9
    with Encoder(bundle) as encoder:
        np.testing.assert_array_equal(encoder.encode(["the cat " * 30]), encoder.encode(["the cat " * 3 + "the"]))


@pytest.mark.parametrize("max_tokens", [-1, 0, 2, MAX_TOKENS + 1, 1 << 40, True, 8.5])
def test_max_tokens_that_the_checkpoint_cannot_have_is_refused(
    checkpoint: Path, tmp_path: Path, max_tokens: int
) -> None:
    with pytest.raises(SpecError, match=f"expected 3 to {MAX_TOKENS}"):
        build(checkpoint, tmp_path / "none.m2d", max_tokens=max_tokens)
    assert list(tmp_path.iterdir()) == []
