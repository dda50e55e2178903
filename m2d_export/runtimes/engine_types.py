"""Check the types that an engine computes in. TensorRT's engine inspector reports them."""

import json
import logging
from collections.abc import Sequence

from m2d_export.errors import RuntimeUnavailable
from m2d_export.precisions import PRECISIONS, WITH_ENGINES

log = logging.getLogger(__name__)


def check_types(information: str, precision: str, name: str) -> None:
    """Raise RuntimeUnavailable if a tensor between an engine's layers is neither ``precision`` nor fp32.

    ``information`` is the engine inspector's JSON. If this JSON does not mention ``precision``, there is only a
    warning: an encoder that is fused into one node has no tensors between layers.
    """
    found = set(filter(None, map(_precision, _inner_types(information))))
    if found - {precision, "fp32"}:
        raise RuntimeUnavailable(
            f"{name} should compute in {precision}, but computes in {', '.join(sorted(found))}: build it again"
        )
    if precision not in found:
        log.warning("%s does not report whether it computes in %s, so this was not checked", name, precision)


def _inner_types(information: str) -> Sequence[str]:
    """The types of all tensors inside an engine, in the library's words. Its inputs and outputs are not inside."""
    try:
        parsed = json.loads(information)
        layers = [layer for layer in parsed.get("Layers", []) if isinstance(layer, dict)]
        outside = set(parsed.get("Bindings", []))
        tensors = [tensor for layer in layers for side in ("Inputs", "Outputs") for tensor in layer.get(side, [])]
        return [tensor["Format/Datatype"] for tensor in tensors if tensor["Name"] not in outside]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []  # not the format of TensorRT 10: nothing can be compared


def _precision(words: str) -> str | None:
    """Find the precision in a description, such as "Row major linear FP16 format". None for integers."""
    for precision in reversed(WITH_ENGINES):  # bf16 first: "bfloat16" contains "float16" and "float"
        row = PRECISIONS[precision]
        if any(name.lower() in words.lower() for name in (precision, row.tensorrt, row.torch)):
            return precision
    return None
