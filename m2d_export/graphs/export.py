"""Export a checkpoint once, cut the graph at each exit, and save the graphs of a precision with one file of weights."""

import hashlib
import logging
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.errors import ExportError, first_line
from m2d_export.graphs.passes.fold_prologue import fold_prologue
from m2d_export.graphs.passes.reorder_gelu import reorder_gelu
from m2d_export.spec import DEFAULT, OUTPUT, Precision, TextSpec

OPSET = 18  # the fastest opset on CPUs, and old servers load it (docs/design.md, decision 5)
ALIGNMENT = 4096  # ONNX Runtime maps weights into memory by pages of this size
INLINE_BYTES = 256  # smaller tensors stay in the graph, because shape inference reads them
SAMPLE_SHAPE = (2, 16)  # torch.export treats sizes 0 and 1 as constants


def export_exits(exits: ExitEncoder, width: int, text: TextSpec) -> ir.Model:
    """Export all exits into one graph. Each of its outputs ``exit_<layer>`` is (batch, width) float32.

    Raises ExportError if torch cannot export the encoder, or if the graph is not as expected.
    """
    shape = (SAMPLE_SHAPE[0], min(SAMPLE_SHAPE[1], text.max_tokens))
    samples = tuple(torch.ones(shape, dtype=torch.int64) for _ in text.input_names)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    outputs = [f"exit_{layer}" for layer in exits.layers]
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # torch warns about operators of torchvision, but no text encoder uses them
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                exits,
                samples,
                dynamo=True,
                opset_version=OPSET,
                input_names=text.input_names,
                output_names=outputs,
                dynamic_shapes=(axes,) * len(samples),
                verbose=False,
            )
    except Exception as error:  # torch.onnx raises errors of many types
        reason = first_line(error.__cause__ or error)
        raise ExportError(f"torch cannot export {type(exits.encoder).__name__} to ONNX: {reason}") from error
    finally:
        logger.setLevel(level)
    assert program is not None  # noqa: S101 - it is None only with dynamo=False
    model = program.model
    # Metadata holds stack traces with the names of folders on this machine.
    ClearMetadataAndDocStringPass()(model)
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    fold_prologue(model)
    reorder_gelu(model)
    _check(model, text.input_names, outputs, width)
    return model


def float32_graphs(
    model: ir.Model, precision: Precision, samples: Sequence[Any] | None = None, progress: Any = None
) -> dict[str, ir.Model]:
    """Return ``model`` itself as the graph for every runtime; the other arguments are not used."""
    assert precision is Precision.FP32  # noqa: S101 - only the row of fp32 in PRECISIONS names this function
    return {DEFAULT: model}


def cut_graph(model: ir.Model, layer: int, width: int) -> ir.Model:
    """The graph of one exit. Its only output is ``sentence_embedding`` (batch, width).

    Nodes and weights that this output does not need are removed. ``model`` is not changed. Both graphs share their
    tensors. Raises ExportError if the graph is not as expected.
    """
    cut = model.clone()
    output = next(output for output in cut.graph.outputs if output.name == f"exit_{layer}")
    output.name = OUTPUT
    cut.graph.outputs.clear()
    cut.graph.outputs.append(output)
    RemoveUnusedNodesPass()(cut)
    RemoveUnusedOpsetsPass()(cut)
    cut.graph.name = f"layer_{layer:02d}"
    _check(cut, [str(value.name) for value in model.graph.inputs], [OUTPUT], width)
    return cut


def _check(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str], width: int) -> None:
    """Raise ExportError if inputs, outputs, axes or operators are not as expected, or if two values share a name."""
    if problem := _problem(model.graph, list(inputs), list(outputs), width):
        raise ExportError(
            f"{problem}. Install the versions of torch and transformers that m2d-export[build] needs, or report a bug"
        )


def _problem(graph: ir.Graph, inputs: list[str], outputs: list[str], width: int) -> str | None:
    found = [value.name for value in graph.inputs], [value.name for value in graph.outputs]
    if found != (inputs, outputs):
        return f"the graph has inputs and outputs {found}, expected {inputs}, {outputs}"
    for value in graph.inputs:
        if value.dtype != ir.DataType.INT64 or _axes(value) != ["batch", "tokens"]:
            return f"input {value.name} is {value.dtype} {_axes(value)}, expected INT64 [batch, tokens]"
    for value in graph.outputs:
        if value.dtype != ir.DataType.FLOAT or _axes(value) != ["batch", width]:
            return f"output {value.name} is {value.dtype} {_axes(value)}, expected FLOAT [batch, {width}]"
    domains = {node.domain for node in graph.all_nodes()} - {""}
    if domains:
        return f"the graph uses operators outside standard ONNX: {sorted(domains)}"
    computed = (value.name for node in graph.all_nodes() for value in node.outputs)
    names = Counter([*found[0], *graph.initializers, *computed])
    repeated = [name for name, count in names.items() if name and count > 1]
    return f"several values have the same name, and TensorRT refuses this: {repeated[:3]}" if repeated else None


def _axes(value: ir.Value) -> list[str | int | None]:
    return [axis if isinstance(axis, int) else axis.value for axis in value.shape or ()]


def save_graphs(graphs: Mapping[Path, ir.Model], weights: Path) -> None:
    """Write each graph to its path, and all weights to the new file ``weights``. Equal tensors are written once.

    All paths must be in one folder, because ONNX Runtime refuses weights in another folder (docs/design.md, decision
    4). After this, the graphs in memory read their weights from the file.
    """
    written: dict[bytes, tuple[int, int]] = {}
    with weights.open("xb") as file:
        for graph in graphs.values():
            for value in graph.graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < INLINE_BYTES:
                    continue
                data = tensor.tobytes()
                digest = hashlib.sha256(data).digest()
                if digest not in written:
                    file.write(b"\0" * (-file.tell() % ALIGNMENT))
                    written[digest] = file.tell(), len(data)
                    file.write(data)
                shape, name = ir.Shape(tensor.shape.numpy()), str(value.name)
                value.const_value = ir.ExternalTensor(
                    weights.name, *written[digest], tensor.dtype, shape=shape, name=name, base_dir=weights.parent
                )
    for path, graph in graphs.items():
        ir.save(graph, path)
