"""Graphs of a bundle with their weights, and what ONNX Runtime makes of them."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from m2d_export.bundle.bundle import Bundle
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
