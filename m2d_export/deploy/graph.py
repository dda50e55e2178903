"""Write a cell as one ONNX graph that pools, cuts and scales, and check this graph."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from m2d_export.bundle.disk import Bundle
from m2d_export.errors import ParityError
from m2d_export.host.extras import require
from m2d_export.precisions import PRECISIONS
from m2d_export.runtimes.onnxrt import LONG_ATTENTION
from m2d_export.runtimes.table import open_runtime
from m2d_export.spec import INPUTS, LONG, OUTPUT, Cell, Precision, Variant
from m2d_export.text.batches import pad
from m2d_export.text.files import held_out_texts
from m2d_export.vectors import EPSILON, cosine, truncate

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

RUNTIME = "onnxrt"  # the runtime that compares a deployed graph with the bundle's graph
FULL = "full_embedding"
INLINE_LIMIT = 2_000_000_000  # bytes of weights; a protobuf message must be smaller than 2 GiB
CHOSEN = "chosen_by_length"
SAMPLE = ("", "no", *held_out_texts()[:6], "A long report goes on and on about many things. " * 9)


def deployed_graph(
    bundle: Bundle,
    cell: Cell,
    precision: str = Precision.FP32,
    normalize: bool | None = None,
    runtime: str = RUNTIME,
) -> "ir.Model":
    """Make the graph of ``cell``, with the weights in memory.

    It has the same inputs as the bundle's graph, (batch, tokens) int64. The output is ``sentence_embedding``, (batch,
    dim) float32. If ``normalize`` is true, the graph scales vectors to unit length. If it is None, the checkpoint
    decides. A zero vector stays zero. If the bundle has a graph for long texts in ``runtime``, the result holds both
    graphs. An ``If`` then runs one of them, by the rule of ``runtimes.onnxrt``. Raises SpecError, IntegrityError, and
    RuntimeUnavailable if the extra ``deploy`` is not installed.
    """
    require("onnx_ir", "deploy")
    import onnx_ir as ir

    from m2d_export.graphs.passes.common import constant

    grid = bundle.grid
    cell = Cell(grid.check_layer(cell.layer), grid.check_dim(cell.dim))
    scaled = bundle.manifest.normalize if normalize is None else normalize
    model = _loaded(bundle, cell.layer, precision, runtime)
    graph = model.graph
    (value,) = graph.outputs
    value.name = FULL if cell.dim < grid.width or scaled else OUTPUT
    if cell.dim < grid.width:
        bounds = {"cut_from": 0, "cut_to": cell.dim, "cut_axis": 1}
        cut = [constant(graph, np.array([number]), name) for name, number in bounds.items()]
        value = _node(model, "Slice", [value, *cut], "cut_embedding" if scaled else OUTPUT)
    if scaled:
        axis = constant(graph, np.array([1]), "length_axis")
        smallest = constant(graph, np.array(EPSILON, np.float32), "smallest_length")
        length = _node(model, "ReduceL2", [value, axis], "length", keepdims=1)
        value = _node(model, "Div", [value, _node(model, "Max", [length, smallest], "safe_length")], OUTPUT)
    value.dtype = ir.DataType.FLOAT
    value.shape = ir.Shape(["batch", cell.dim])
    graph.outputs[0] = value
    graph.name = f"cell_{cell}"
    model.metadata_props.update(
        {
            "m2d.bundle": bundle.id,
            "m2d.cell": str(cell),
            "m2d.precision": str(precision),
            "m2d.normalize": "true" if scaled else "false",
        }
    )
    return model


def _loaded(bundle: Bundle, layer: int, precision: str, runtime: str) -> "ir.Model":
    """Read the graph and the weights of an exit. The bundle checks the sha256 of both."""
    import onnx
    import onnx_ir as ir

    entry = bundle.entry(layer, precision)
    proto = onnx.ModelProto.FromString(bundle.read(entry.graph()))
    if (long := entry.graphs.get(f"{runtime}{LONG}")) is not None:
        _choose_by_length(proto, onnx.ModelProto.FromString(bundle.read(long)))
    model = ir.serde.deserialize_model(proto)
    weights = np.frombuffer(bundle.read(entry.weights), np.uint8)
    for value in model.graph.initializers.values():
        outside = value.const_value
        if isinstance(outside, ir.ExternalTensor):
            start = outside.offset or 0
            numbers = weights[start : start + outside.nbytes].view(outside.dtype.numpy())
            value.const_value = ir.Tensor(numbers.reshape(outside.shape.numpy()), outside.dtype, name=outside.name)
    return model


def _choose_by_length(model: "onnx.ModelProto", long: "onnx.ModelProto") -> None:
    """Add the nodes of ``long`` to ``model``: an ``If`` runs them for batches with large attention.

    Attention is large if texts x tokens x tokens is more than ``LONG_ATTENTION``. If both graphs have weights or
    constants of the same name, these are equal, because ``long`` was made from a copy of ``model``.
    """
    from onnx import helper

    branches = {
        "else_branch": _branch(model.graph, "short_texts"),
        "then_branch": _branch(long.graph, "long_texts"),
    }
    graph = model.graph
    own = {value.name for value in graph.initializer}
    graph.initializer.extend(value for value in long.graph.initializer if value.name not in own)
    limit = helper.make_tensor("long_attention", graph.input[0].type.tensor_type.elem_type, [1], [LONG_ATTENTION])
    graph.initializer.append(limit)
    (output,) = graph.output
    output.name = CHOSEN
    del graph.node[:]
    graph.node.extend(
        [
            helper.make_node("Shape", [INPUTS[0]], ["batch_shape"]),
            helper.make_node("ReduceProd", ["batch_shape"], ["batch_tokens"]),
            helper.make_node("Shape", [INPUTS[0]], ["text_tokens"], start=1, end=2),
            helper.make_node("Mul", ["batch_tokens", "text_tokens"], ["batch_attention"]),
            helper.make_node("Greater", ["batch_attention", limit.name], ["is_long"]),
            helper.make_node("If", ["is_long"], [CHOSEN], **branches),
        ]
    )


def _branch(graph: "onnx.GraphProto", name: str) -> "onnx.GraphProto":
    """Make a branch of an ``If`` from the nodes of ``graph``. The branch and its output are called ``name``."""
    import onnx

    (output,) = graph.output
    branch = onnx.GraphProto(name=name, node=graph.node, output=[output], value_info=graph.value_info)
    for node in branch.node:
        node.output[:] = [name if value == output.name else value for value in node.output]
    branch.output[0].name = name
    return branch


def _node(model: "ir.Model", operator: str, inputs: list["ir.Value"], output: str, **attributes: int) -> "ir.Value":
    import onnx_ir as ir

    node = ir.node(operator, inputs, attributes, outputs=[ir.Value(name=output)], name=f"deployed_{operator}")
    model.graph.append(node)
    return node.outputs[0]


def write_deployed(
    bundle: Bundle,
    cell: Cell,
    path: Path,
    precision: str = Precision.FP32,
    normalize: bool | None = None,
    runtime: str = RUNTIME,
) -> None:
    """Write the graph of ``cell`` to ``path`` and compare it with the bundle's graph.

    Raises the errors of ``deployed_graph``, and ParityError if the vectors of the two graphs differ.
    """
    save_graph(deployed_graph(bundle, cell, precision, normalize, runtime), path)
    check_deployed(bundle, cell, path, precision, normalize)


def save_graph(model: "ir.Model", path: Path) -> None:
    """Write a graph and its weights to one file. Weights over 2 GB go to a second file, ``path`` + ``_data``."""
    import onnx_ir as ir

    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    ir.save(model, path, external_data=f"{path.name}_data" if weights > INLINE_LIMIT else None)


def check_deployed(
    bundle: Bundle, cell: Cell, path: Path, precision: str = Precision.FP32, normalize: bool | None = None
) -> None:
    """Raise ParityError if the vectors of the graph at ``path`` and of the bundle's graph differ.

    The vectors of the bundle's graph are cut and scaled first. The bundle's default graph is used, because old versions
    of all runtimes can load it.
    """
    text, bounds = bundle.manifest.text, PRECISIONS[Precision(precision)].bounds
    tokens = bundle.tokenizer.encode(SAMPLE, text.prompt())
    scaled = bundle.manifest.normalize if normalize is None else normalize
    batches = [pad(tokens, text, range(len(tokens)))]
    if text.max_tokens**2 > LONG_ATTENTION:
        ids, longer = list(tokens[-1].ids), math.isqrt(LONG_ATTENTION) + 1
        repeated = (ids * (longer // len(ids) + 1))[:longer]
        batches.append(pad([replace(tokens[-1], ids=repeated)], text, [len(tokens)]))
    with open_runtime(RUNTIME, bundle.variant(cell.layer, precision)) as opened:
        expected = truncate(np.concatenate([opened.vectors(batch) for batch in batches]), cell.dim, scaled)
    deployed = Variant(cell.layer, Precision(precision), path, cell.dim, bundle.manifest.origin)
    with open_runtime(RUNTIME, deployed) as opened:
        given = np.concatenate([opened.vectors(batch) for batch in batches])
    if given.shape != expected.shape:
        raise ParityError(f"the vectors of {path.name} have shape {given.shape}, expected {expected.shape}")
    lowest, difference = float(cosine(given, expected).min()), float(np.abs(given - expected).max())
    largest = bounds.deployed_difference * max(1.0, float(np.abs(expected).max()))
    if not (lowest >= bounds.deployed_cosine and difference <= largest):  # NaN fails too
        raise ParityError(
            f"the vectors of {path.name} differ from the vectors of the bundle's graph (cell {cell}, {precision}): the "
            f"smallest cosine is {lowest:.7f} (minimum {bounds.deployed_cosine}), the largest difference is "
            f"{difference:.1e} (maximum {largest:.1e}). Choose another precision, or report a bug"
        )
