"""Fused query, key and value are transposed before they are split."""

import numpy as np

from m2d_export import Bundle
from m2d_export.graphs.passes.fuse_qkv import fuse_qkv
from m2d_export.graphs.passes.split_heads_last import split_heads_last
from tests.support.checkpoints import LAYERS
from tests.support.graph_files import in_memory, kinds, vectors


def test_heads_are_split_after_one_transposition_and_give_the_same_vectors(bundle: Bundle) -> None:
    model = in_memory(bundle)
    expected, before = vectors(model), kinds(model)
    assert not split_heads_last(model)  # nothing is fused yet
    assert fuse_qkv(model)
    assert split_heads_last(model)
    splits = [node for node in model.graph if node.op_type == "Split"]
    assert [node.attributes.get_int("axis", -1) for node in splits] == [0] * LAYERS
    assert kinds(model)["Transpose"] == before["Transpose"] - LAYERS  # one for three, and one more for the keys
    for found, vector in zip(vectors(model), expected, strict=True):
        np.testing.assert_allclose(found, vector, atol=1e-5)
    assert not split_heads_last(model)
