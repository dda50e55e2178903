"""A table of precisions. A row says how graphs are made, which gate they must pass, and what libraries call the type.

To add a precision, add a row here, a module in graphs/ that makes its graphs, and tests.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from m2d_export.spec import Precision


@dataclass(frozen=True)
class Bounds:
    """The limits that a graph must meet before it is published. They hold for vectors of unit length.

    ``cosine_min`` and ``cosine_mean`` limit the cosines to the reference: the smallest one, and the mean of all texts.
    ``invariance`` and ``invariance_cosine`` compare two vectors of a text: one is encoded alone, and one in a padded
    batch. ``invariance`` limits the largest difference in one number. ``invariance_cosine`` limits the smallest cosine.
    ``agreement`` limits Spearman x 100 with the reference. ``deployed_cosine`` and ``deployed_difference`` compare a
    deployed cell with ``Encoder``.
    """

    cosine_min: float
    cosine_mean: float
    invariance: float
    invariance_cosine: float = 0.0
    agreement: float = 0.0
    deployed_cosine: float = 0.99999
    deployed_difference: float = 1e-5


@dataclass(frozen=True)
class PrecisionSpec:
    """The row of a precision.

    ``graphs`` and ``gate`` name functions as "module:function". ``onnx``, ``torch`` and ``tensorrt`` are the names of
    the type in these libraries. ``tensorrt`` is empty for int8: TensorRT refuses zero points, so there are no engines.
    ``largest`` is the largest finite number of a half type.
    """

    weight_bytes: int
    graphs: str
    gate: str
    bounds: Bounds
    onnx: str = "FLOAT"
    torch: str = "float32"
    tensorrt: str = ""
    largest: float | None = None


# The most exact precision is first. The bounds of int8 come from all-MiniLM-L6-v2 (docs/design.md, decision 9).
PRECISIONS: Mapping[Precision, PrecisionSpec] = {
    Precision.FP32: PrecisionSpec(
        weight_bytes=4,
        graphs="graphs.export:float32_graphs",
        gate="gate.parity:check_float32",
        bounds=Bounds(cosine_min=0.99999, cosine_mean=0.99999, invariance=1e-5),
        tensorrt="FLOAT",
    ),
    Precision.FP16: PrecisionSpec(
        weight_bytes=2,
        graphs="graphs.half:half_graphs",
        gate="gate.half:check_half",
        bounds=Bounds(cosine_min=0.9999, cosine_mean=0.99995, invariance=2e-3, deployed_difference=1e-3),
        onnx="FLOAT16",
        torch="float16",
        tensorrt="HALF",
        largest=65504.0,
    ),
    Precision.BF16: PrecisionSpec(
        weight_bytes=2,
        graphs="graphs.half:half_graphs",
        gate="gate.half:check_half",
        bounds=Bounds(cosine_min=0.998, cosine_mean=0.999, invariance=1e-2),
        onnx="BFLOAT16",
        torch="bfloat16",
        tensorrt="BF16",
        largest=3.3895314e38,
    ),
    Precision.INT8: PrecisionSpec(
        weight_bytes=1,
        graphs="graphs.int8:int8_graphs",
        gate="gate.int8:check_int8",
        # Other texts in the batch can change how a value is rounded to an integer. This changes the vector a little.
        bounds=Bounds(
            cosine_min=0.99,
            cosine_mean=0.995,
            invariance=2e-3,
            invariance_cosine=0.999,
            agreement=98.0,
            deployed_cosine=0.999,
            deployed_difference=1e-3,
        ),
    ),
}
WITH_ENGINES = tuple(precision for precision, row in PRECISIONS.items() if row.tensorrt)


def function_of(name: str) -> Callable[..., Any]:
    """Import and return the function that a row names as "module:function"."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(import_module(f"m2d_export.{module}"), function)
    return found
