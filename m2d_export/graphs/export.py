"""Checkpoint exits to ONNX: exported once, cut per exit, all weights of a precision in one file beside the graphs."""

import hashlib
import logging
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.errors import ExportError, first_line
from m2d_export.graphs.passes.fold_prologue import prologue_reduced

OPSET = 18  # with eager attention: fuses best on the CPU and loads in old servers (docs/design.md, decision 5)
OUTPUT = "sentence_embedding"  # "embedding" would collide with the name of an operator's value
ALIGNMENT = 4096  # ONNX Runtime maps weights by page
INLINE_BYTES = 256  # shapes and scalars stay in the graph, where shape inference can read them
SAMPLE_SHAPE = (2, 16)  # torch.export treats sizes 0 and 1 as constants


def input_names(exits: ExitEncoder) -> tuple[str, ...]:
    """The graph's inputs; the third one exists only where the prompt's tokens are read but not pooled."""
    names = ("input_ids", "attention_mask")
    return names if exits.pooling.include_prompt else (*names, "pooling_mask")


def model_from_exits(exits: ExitEncoder, width: int, max_tokens: int) -> ir.Model:
    """Export every exit into one graph, output ``exit_<layer>`` (batch, width) float32 each.

    Raises ExportError where torch cannot export the encoder, or exports something else than asked for.
    """
    names = input_names(exits)
    shape = (SAMPLE_SHAPE[0], min(SAMPLE_SHAPE[1], max_tokens))
    samples = tuple(torch.ones(shape, dtype=torch.int64) for _ in names)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it reports on operators of torchvision, which no text encoder has
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                exits,
                samples,
                dynamo=True,
                opset_version=OPSET,
                input_names=names,
                output_names=[f"exit_{layer}" for layer in exits.layers],
                dynamic_shapes=(axes,) * len(names),
                verbose=False,
            )
    except Exception as error:  # torch.onnx raises whatever its passes raise
        reason = first_line(error.__cause__ or error)
        raise ExportError(f"torch cannot export {type(exits.encoder).__name__} to ONNX: {reason}") from error
    finally:
        logger.setLevel(level)
    assert program is not None  # noqa: S101 - None only for dynamo=False
    model = program.model
    # Metadata holds stack traces, which would name this machine's folders.
    ClearMetadataAndDocStringPass()(model)
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    _halve_last(prologue_reduced(model))
    check(model, names, [f"exit_{layer}" for layer in exits.layers], width)
    return model


def _halve_last(model: ir.Model) -> None:
    """Turn ``x * (0.5 * (1 + erf(x / c)))`` into ``(x * (1 + erf(x / c))) * 0.5``, where ONNX Runtime finds a GELU.

    The same number, since halving is exact.
    """
    for erf in [node for node in model.graph if node.op_type == "Erf"]:
        path = [erf]
        while len(path) < 4 and len(users := path[-1].outputs[0].consumers()) == 1:
            path += users
        scaled = erf.inputs[0].producer() if erf.inputs[0] is not None else None
        if scaled is None or [node.op_type for node in path] != ["Erf", "Add", "Mul", "Mul"]:
            continue
        _, add, inner, outer = path
        whole, product = add.outputs[0], inner.outputs[0]
        halves = [value for value in inner.inputs if value is not whole and _is_half(value)]
        factors = [value for value in outer.inputs if value is not product and value in scaled.inputs]
        if halves and factors and not {whole, product} & set(model.graph.outputs):
            for node, values in ((inner, (factors[0], whole)), (outer, (product, halves[0]))):
                for place, value in enumerate(values):
                    node.replace_input_with(place, value)


def _is_half(value: ir.Value | None) -> bool:
    constant = None if value is None else value.const_value
    return constant is not None and constant.size == 1 and float(constant.numpy()) == 0.5


def graph_from_model(model: ir.Model, layer: int, inputs: Sequence[str], width: int) -> ir.Model:
    """One exit's graph: the output of ``layer``, renamed, and only the nodes and weights that it needs.

    ``model`` stays as it was; tensors are shared with it.
    """
    cut = model.clone()
    kept = next(output for output in cut.graph.outputs if output.name == f"exit_{layer}")
    kept.name = OUTPUT
    cut.graph.outputs.clear()
    cut.graph.outputs.append(kept)
    RemoveUnusedNodesPass()(cut)
    RemoveUnusedOpsetsPass()(cut)
    cut.graph.name = f"layer_{layer:02d}"
    check(cut, inputs, [OUTPUT], width)
    return cut


def check(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str], width: int) -> None:
    """Raise ExportError unless the graph has these inputs and outputs, named axes, known domains, unique names."""
    graph = model.graph
    found = [value.name for value in graph.inputs], [value.name for value in graph.outputs]
    if found != (list(inputs), list(outputs)):
        raise ExportError(f"the graph has inputs and outputs {found}, expected {list(inputs)}, {list(outputs)}")
    for value in graph.inputs:
        if value.dtype != ir.DataType.INT64 or _axes(value) != ["batch", "tokens"]:
            raise ExportError(f"input {value.name} is {value.dtype} {_axes(value)}, expected INT64 [batch, tokens]")
    for value in graph.outputs:
        if value.dtype != ir.DataType.FLOAT or _axes(value) != ["batch", width]:
            raise ExportError(f"output {value.name} is {value.dtype} {_axes(value)}, expected FLOAT [batch, {width}]")
    domains = {node.domain for node in graph.all_nodes()} - {""}
    if domains:
        raise ExportError(f"the graph uses operators outside standard ONNX: {sorted(domains)}")
    made = (value.name for node in graph.all_nodes() for value in node.outputs)
    repeated = [name for name, count in Counter([*found[0], *graph.initializers, *made]).items() if name and count > 1]
    if repeated:
        raise ExportError(f"values share names, which TensorRT refuses: {repeated[:3]}")


def _axes(value: ir.Value) -> list[str | int | None]:
    return [axis if isinstance(axis, int) else axis.value for axis in value.shape or ()]


def save_graphs(graphs: Mapping[Path, ir.Model], weights: Path) -> None:
    """Write each graph to its path, and all their weights, each distinct tensor once, to ``weights`` beside them.

    Sibling files, because ONNX Runtime refuses external data anywhere else (decision 4).
    """
    placed: dict[bytes, tuple[int, int]] = {}
    with weights.open("xb") as file:
        for graph in graphs.values():
            for value in graph.graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < INLINE_BYTES:
                    continue
                data = tensor.tobytes()
                digest = hashlib.sha256(data).digest()
                if digest not in placed:
                    file.write(b"\0" * (-file.tell() % ALIGNMENT))
                    placed[digest] = file.tell(), len(data)
                    file.write(data)
                shape, name = ir.Shape(tensor.shape.numpy()), str(value.name)
                value.const_value = ir.ExternalTensor(
                    weights.name, *placed[digest], tensor.dtype, shape=shape, name=name, base_dir=weights.parent
                )
    for path, graph in graphs.items():
        ir.save(graph, path)
