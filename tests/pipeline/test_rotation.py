"""A checkpoint whose last Dense rotates its vectors: the bundle has the matrix, and its index is that of the base."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from m2d_export import Bundle, Encoder, build
from m2d_export.bench.deep_index import DeepIndex, rotation_of
from m2d_export.bench.encoded import TextSet
from m2d_export.bundle.manifest import ROTATION
from m2d_export.errors import ExportError
from m2d_export.vectors import cosine
from tests.support.checkpoints import WIDTH, save_checkpoint

TEXTS = ("a cat is on the mat", "interest rates rose", "the man was playing a guitar")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("base")
    return build(save_checkpoint(folder / "tiny"), folder / "base.m2d", layers=(1, 3))


def rotated_checkpoint(folder: Path, space: str, rotation: str | None = None) -> Path:
    """The checkpoint of ``base`` with a rotation after its pooling; ``rotation`` is the sha256 that m2d.json states."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense

    matrix = np.linalg.qr(np.random.default_rng(3).normal(size=(WIDTH, WIDTH)))[0].astype(np.float32)
    dense = Dense(WIDTH, WIDTH, bias=False, activation_function=torch.nn.Identity())
    with torch.no_grad():
        dense.linear.weight.copy_(torch.from_numpy(matrix))
    made = save_checkpoint(folder / "tiny", tail=(dense,))
    stated = rotation or hashlib.sha256(np.ascontiguousarray(matrix).tobytes()).hexdigest()
    (made / "m2d.json").write_text(json.dumps({"format": 1, "space": space, "rotation": stated}))
    return made


@pytest.mark.slow
def test_queries_of_a_rotated_bundle_search_in_the_index_of_its_base(base: Bundle, tmp_path: Path) -> None:
    made = build(rotated_checkpoint(tmp_path, base.manifest.space), tmp_path / "rotated.m2d", layers=(1, 3))
    assert ROTATION in made.manifest.files
    assert made.problems() == []
    assert rotation_of(made).shape == (WIDTH, WIDTH)
    with Encoder(made, 3, normalize=False) as turned, Encoder(base, 3, normalize=False) as plain:
        queries, expected = turned.encode(TEXTS), plain.encode(TEXTS)
    assert cosine(queries, expected).max() < 0.9  # the two spaces do differ
    index = DeepIndex(base, made)
    np.testing.assert_allclose(index.queries(queries), expected, atol=1e-4)
    np.testing.assert_allclose(index.vectors(TextSet(TEXTS)), expected, atol=1e-6)
    back = DeepIndex(made, base)
    np.testing.assert_allclose(back.vectors(TextSet(TEXTS)), expected, atol=1e-4)
    assert back.dims([WIDTH, 8]) == [WIDTH]
    assert DeepIndex(made, made).dims([WIDTH, 8]) == [WIDTH, 8]


def test_a_rotation_that_is_not_the_last_dense_is_refused(base: Bundle, tmp_path: Path) -> None:
    wrong = rotated_checkpoint(tmp_path, base.manifest.space, rotation="a" * 64)
    with pytest.raises(ExportError, match="rotation"):
        build(wrong, tmp_path / "rotated.m2d", layers=(1,))
    assert not (tmp_path / "rotated.m2d").exists()
