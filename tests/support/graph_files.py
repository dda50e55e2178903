"""Graphs of tests: read from a bundle or from text, run in ONNX Runtime, and their nodes counted."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from m2d_export.bundle.disk import Bundle
from tests.support.checkpoints import LAYERS

HEADER = '<ir_version: 10, opset_import: ["": 18]>\n'


def in_memory(bundle: Bundle) -> ir.Model:
    """The fp32 graph of the deepest exit, with its weights."""
    model = ir.load(bundle.variant(LAYERS).path)
    ir.external_data.load_to_model(model)
    return model


def parsed(text: str, **constants: np.ndarray) -> ir.Model:
    """The graph written in ONNX's text format, with further initializers."""
    model = onnx.parser.parse_model(HEADER + text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    return ir.serde.deserialize_model(model)


def data_of(model: ir.Model) -> bytes:
    """The whole graph in bytes, to compare or to run."""
    return ir.serde.serialize_model(model).SerializeToString(deterministic=True)


def run(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of a graph as it stands, without optimization; ``feeds`` may have more inputs than it takes."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(data_of(model), options, providers=["CPUExecutionProvider"])
    return session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()})


def kinds(model: ir.Model) -> Counter[str]:
    """How many nodes of each operator a graph has."""
    return Counter(node.op_type for node in model.graph)


def vectors(model: ir.Model) -> list[np.ndarray]:
    """Vectors of three padded texts of different lengths, and of a single token."""
    ids = np.random.default_rng(0).integers(5, 20, (3, 9))
    mask = np.ones_like(ids)
    mask[1, 4:] = mask[2, 1:] = 0
    batches = [{"input_ids": ids, "attention_mask": mask}, {"input_ids": ids[:1, :1], "attention_mask": mask[:1, :1]}]
    return [run(model, feeds)[0] for feeds in batches]
