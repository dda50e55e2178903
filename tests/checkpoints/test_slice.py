"""``slice``: an exit as an ordinary sentence-transformers folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from m2d_export import Bundle, Encoder
from m2d_export.checkpoints.slice import slice_checkpoint
from m2d_export.errors import CheckpointError, OutputError, SpecError

TEXTS = ["A man is playing a guitar.", "no", "The cat sat on the mat."]


@pytest.mark.parametrize(("layer", "dim"), [(1, 32), (2, None), (3, 64)])
def test_a_slice_loads_in_sentence_transformers_and_gives_the_cells_vectors(
    checkpoint: Path, bundle: Bundle, tmp_path: Path, layer: int, dim: int | None
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = slice_checkpoint(str(checkpoint), layer, tmp_path / "slice", dim=dim)
    model = SentenceTransformer(str(folder), device="cpu")
    assert model[0].auto_model.config.num_hidden_layers == layer
    # sentence-transformers truncates after Normalize, so it must be asked to normalise again.
    vectors = model.encode(TEXTS, normalize_embeddings=True)
    with Encoder(bundle, layer, dim) as encoder:
        np.testing.assert_allclose(vectors, encoder.encode(TEXTS), atol=2e-6)
    assert list(tmp_path.iterdir()) == [folder]


def test_an_exit_that_no_plain_folder_can_express_is_refused(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint("modernbert")
    with pytest.raises(CheckpointError, match=r"ModernBertModel .*exit 2"):
        slice_checkpoint(str(checkpoint), 2, tmp_path / "slice")
    assert not (tmp_path / "slice").exists()
    assert slice_checkpoint(str(checkpoint), 3, tmp_path / "whole").is_dir()


def test_wrong_cells_and_existing_outputs_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="1, 2, 3"):
        slice_checkpoint(str(checkpoint), 4, tmp_path / "slice")
    with pytest.raises(SpecError, match="1 to 64"):
        slice_checkpoint(str(checkpoint), 1, tmp_path / "slice", dim=65)
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="taken"):
        slice_checkpoint(str(checkpoint), 1, tmp_path / "taken")
    assert not (tmp_path / "slice").exists()
