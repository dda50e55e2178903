"""Attention as one operator (that it gives the same vectors for every architecture: tests/graphs/test_export.py)."""

import onnx_ir as ir
import pytest

from m2d_export import Bundle
from m2d_export.graphs.passes.fuse_attention import fuse_attention
from tests.support.graph_files import data_of, in_memory


@pytest.mark.parametrize(
    ("kind", "change"),
    [("Softmax", {"axis": 1}), ("Transpose", {"perm": [2, 0, 1, 3]})],
    ids=["softmax over heads", "another order of axes"],
)
def test_if_one_attention_differs_none_is_fused_and_the_graph_stays_as_it_was(
    bundle: Bundle, kind: str, change: dict[str, int | list[int]]
) -> None:
    model = in_memory(bundle)
    assert fuse_attention(model.clone())
    node = next(node for node in model.graph if node.op_type == kind)
    for name, value in change.items():
        node.attributes.add(ir.convenience.convert_attribute(name, value))
    before = data_of(model)
    assert not fuse_attention(model)
    assert data_of(model) == before
