"""Attention as one operator: the same vectors, where every attention of an encoder is written out as BERT's."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from m2d_export.attention import attention_as_one
from m2d_export.bundle import Bundle
from m2d_export.errors import IntegrityError
from tests.conftest import LAYERS


def in_memory(bundle: Bundle) -> ir.Model:
    """The fp32 graph of its deepest exit."""
    model = ir.load(bundle.variant(LAYERS).path)
    ir.external_data.load_to_model(model)
    return model


def vectors(model: ir.Model) -> list[np.ndarray]:
    """Of three texts of unlike lengths, padded, and of one token alone."""
    ids = np.random.default_rng(0).integers(5, 20, (3, 9))
    mask = np.ones_like(ids)
    mask[1, 4:] = mask[2, 1:] = 0
    data = ir.serde.serialize_model(model).SerializeToString()
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    feeds = [{"input_ids": ids, "attention_mask": mask}, {"input_ids": ids[:1, :1], "attention_mask": mask[:1, :1]}]
    return [session.run(None, feed)[0] for feed in feeds]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("Softmax", {"axis": 1}),
        ("Transpose", {"perm": [2, 0, 1, 3]}),
    ],
    ids=["softmax over heads", "another order"],
)
def test_of_attentions_that_are_not_all_like_berts_none_is_joined(
    bundle: Bundle, kind: str, change: dict[str, int | list[int]]
) -> None:
    model = in_memory(bundle)
    assert attention_as_one(model) is not None
    node = next(node for node in model.graph if node.op_type == kind)
    for name, value in change.items():
        node.attributes.add(ir.convenience.convert_attribute(name, value))
    assert attention_as_one(model) is None


def test_onnx_runtime_takes_the_graph_that_is_its_own(quantized: Bundle, copied_quantized: Path) -> None:
    entry = quantized.entry(2, "int8")
    assert entry.onnxrt is not None
    assert quantized.entry(2, "fp32").onnxrt is None
    for runtime, path in (("", entry.path), ("openvino", entry.path), ("onnxrt", entry.onnxrt)):
        assert quantized.variant(2, "int8", runtime).path == quantized.root / path
    opsets = {name: ir.load(quantized.root / name).opset_imports[""] for name in (entry.path, entry.onnxrt)}
    assert opsets == {entry.path: 18, entry.onnxrt: 23}
    (copied_quantized / entry.onnxrt).write_bytes(b"something else")
    damaged = Bundle.open(copied_quantized)
    damaged.variant(2, "int8", "openvino")
    with pytest.raises(IntegrityError, match=r"layer-02\.int8\.onnxrt\.onnx has"):
        damaged.variant(2, "int8", "onnxrt")
