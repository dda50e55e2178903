"""One cell as one graph: pooled, cut to its dim and scaled inside, weights within, for whatever runs ONNX."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2d_export.bundle.disk import Bundle
from m2d_export.errors import ParityError
from m2d_export.host.extras import require
from m2d_export.runtimes import RuntimeOptions, open_runtime
from m2d_export.runtimes.onnxrt import OnnxRuntime
from m2d_export.spec import Cell, Precision, Variant
from m2d_export.text.batches import pad
from m2d_export.text.packaged import held_out_texts
from m2d_export.vectors import EPSILON, cosine, truncate

if TYPE_CHECKING:
    import onnx_ir as ir

OUTPUT = "sentence_embedding"
UNCUT = "full_embedding"
INLINE_LIMIT = 2_000_000_000  # bytes; protobuf ends at 2 GiB
# To the bundle's graph: fused otherwise, fp16 and int8 round to another step now and then.
MIN_COSINE = {Precision.FP32: 0.99999, Precision.FP16: 0.99999, Precision.INT8: 0.999}
MAX_DIFFERENCE = {Precision.FP32: 1e-5, Precision.FP16: 1e-3, Precision.INT8: 1e-3}
SAMPLE = ("", "no", *held_out_texts()[:6], "A long report goes on and on about many things. " * 9)


def deployed_graph(
    bundle: Bundle, cell: Cell, precision: str = Precision.FP32, normalize: bool | None = None
) -> "ir.Model":
    """The graph of ``cell``, output ``sentence_embedding`` (batch, dim) float32, its weights in memory.

    Inputs are those of the bundle's graph, (batch, tokens) int64. Vectors have unit length where the checkpoint
    normalises its own, unless ``normalize`` says otherwise, as in ``Encoder``; a zero vector stays zero. Raises
    SpecError, IntegrityError, RuntimeUnavailable without the extra ``deploy``.
    """
    require("onnx_ir", "deploy")
    import onnx_ir as ir

    grid = bundle.grid
    cell = Cell(grid.check_layer(cell.layer), grid.check_dim(cell.dim))
    scaled = bundle.manifest.normalize if normalize is None else normalize
    model = ir.load(bundle.variant(cell.layer, precision).path)
    ir.external_data.load_to_model(model)
    graph = model.graph
    (value,) = graph.outputs
    value.name = UNCUT if cell.dim < grid.width or scaled else OUTPUT
    if cell.dim < grid.width:
        bounds = [
            _constant(model, f"cut_{name}", [number]) for name, number in (("from", 0), ("to", cell.dim), ("axis", 1))
        ]
        value = _node(model, "Slice", [value, *bounds], "cut_embedding" if scaled else OUTPUT)
    if scaled:
        axis = _constant(model, "length_axis", [1])
        least = _constant(model, "least_length", np.float32(EPSILON))
        length = _node(model, "ReduceL2", [value, axis], "length", keepdims=1)
        value = _node(model, "Div", [value, _node(model, "Max", [length, least], "safe_length")], OUTPUT)
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


def _constant(model: "ir.Model", name: str, value: Any) -> "ir.Value":
    import onnx_ir as ir

    array = np.asarray(value, dtype=np.int64 if isinstance(value, list) else None)
    made = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    model.graph.register_initializer(made)
    return made


def _node(model: "ir.Model", operator: str, inputs: list["ir.Value"], output: str, **attributes: int) -> "ir.Value":
    import onnx_ir as ir

    node = ir.node(operator, inputs, attributes, outputs=[ir.Value(name=output)], name=f"deployed_{operator}")
    model.graph.append(node)
    return node.outputs[0]


def write_deployed(
    bundle: Bundle, cell: Cell, path: Path, precision: str = Precision.FP32, normalize: bool | None = None
) -> None:
    """Write the graph of ``cell`` to ``path`` and compare it with the bundle's.

    One file, or where protobuf could not hold that, its weights beside it, named as the graph with ``_data`` behind.
    Raises ParityError where it does not give the same vectors, and what ``deployed_graph`` raises.
    """
    save_graph(deployed_graph(bundle, cell, precision, normalize), path)
    check_deployed(bundle, cell, path, precision, normalize)


def save_graph(model: "ir.Model", path: Path) -> None:
    """Write a graph with its weights inside, or where protobuf cannot hold them, beside it."""
    import onnx_ir as ir

    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    ir.save(model, path, external_data=f"{path.name}_data" if weights > INLINE_LIMIT else None)


def check_deployed(
    bundle: Bundle, cell: Cell, path: Path, precision: str = Precision.FP32, normalize: bool | None = None
) -> None:
    """Raise ParityError unless the graph at ``path`` gives the vectors of the bundle's, cut and scaled as asked for.

    That is the graph which every runtime takes: what is deployed loads in old ones, too.
    """
    tokens, spec = bundle.tokenizer.encode(SAMPLE, bundle.manifest.text.prompt()), bundle.manifest.text
    scaled = bundle.manifest.normalize if normalize is None else normalize
    batch = pad(tokens, spec, range(len(tokens)))
    with open_runtime("onnxrt", bundle.variant(cell.layer, precision)) as runtime:
        expected = truncate(runtime.vectors(batch), cell.dim, scaled)
    variant = Variant(cell.layer, Precision(precision), path, cell.dim, bundle.manifest.origin)
    with OnnxRuntime(variant, RuntimeOptions("onnxrt")) as runtime:
        given = runtime.vectors(batch)
    if given.shape != expected.shape:
        raise ParityError(f"{path.name} gives vectors of shape {given.shape}, expected {expected.shape}")
    least, farthest = float(cosine(given, expected).min()), float(np.abs(given - expected).max())
    allowed = MAX_DIFFERENCE[Precision(precision)] * max(1.0, float(np.abs(expected).max()))
    if not (least >= MIN_COSINE[Precision(precision)] and farthest <= allowed):  # so that NaN fails too
        raise ParityError(
            f"{path.name} does not give the vectors of the bundle's graph in cell {cell}, {precision}: "
            f"cosine {least:.7f}, difference {farthest:.1e}"
        )
