"""Check what the graph of a bundle holds. The check reads the bytes of the graph before any library does.

bundle/operators.py lists the operators with their attributes. All else that a graph could have is refused: subgraphs,
functions, sparse tensors, other domains, and data in any other file than the weights of the bundle.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from math import prod

import numpy as np

from m2d_export.bundle.operators import ATTRIBUTES, AXES, AXES_INPUT, OPERATORS, OPSETS, TYPES
from m2d_export.bundle.protobuf import BYTES, FIXED32, VARINT, Field, Span, packed_varints, read_message, signed
from m2d_export.spec import OUTPUT

# The fields that each message may have: their numbers and names in onnx.proto. Other fields are refused.
MODEL = {
    1: Field("ir_version", VARINT),
    2: Field("producer_name", BYTES),
    3: Field("producer_version", BYTES),
    7: Field("graph", BYTES),
    8: Field("opset_import", BYTES, many=True),
}
OPSET = {1: Field("domain", BYTES), 2: Field("version", VARINT)}
GRAPH = {
    1: Field("node", BYTES, many=True),
    2: Field("name", BYTES),
    5: Field("initializer", BYTES, many=True),
    11: Field("input", BYTES, many=True),
    12: Field("output", BYTES, many=True),
    13: Field("value_info", BYTES, many=True),
}
NODE = {
    1: Field("input", BYTES, many=True),
    2: Field("output", BYTES, many=True),
    3: Field("name", BYTES),
    4: Field("op_type", BYTES),
    5: Field("attribute", BYTES, many=True),
    7: Field("domain", BYTES),
}
ATTRIBUTE = {
    1: Field("name", BYTES),
    2: Field("f", FIXED32),
    3: Field("i", VARINT),
    4: Field("s", BYTES),
    5: Field("t", BYTES),
    8: Field("ints", VARINT, many=True),
    20: Field("type", VARINT),
}
TENSOR = {
    1: Field("dims", VARINT, many=True),
    2: Field("data_type", VARINT),
    4: Field("float_data", BYTES),
    5: Field("int32_data", BYTES),
    7: Field("int64_data", BYTES),
    8: Field("name", BYTES),
    9: Field("raw_data", BYTES),
    13: Field("external_data", BYTES, many=True),
    14: Field("data_location", VARINT),
}
ENTRY = {1: Field("key", BYTES), 2: Field("value", BYTES)}
VALUE = {1: Field("name", BYTES), 2: Field("type", BYTES), 4: Field("metadata_props", BYTES, many=True)}
TYPE = {1: Field("tensor_type", BYTES)}
TENSOR_TYPE = {1: Field("elem_type", VARINT), 2: Field("shape", BYTES)}
SHAPE = {1: Field("dim", BYTES, many=True)}
DIMENSION = {1: Field("dim_value", VARINT), 2: Field("dim_param", BYTES)}

FLOAT, INT64 = 1, 7
ITEM_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 16: 2}  # by data_type: float32 to bfloat16
LARGEST = 1 << 31  # every size of an axis must be smaller
WHOLE_NUMBERS = {6: "<i4", 7: "<i8"}  # int32 and int64 by data_type, as NumPy calls them
UNLIMITED = (2**63 - 1, -(2**63))  # what a Slice has as its end if it has no end
IN_INT32 = (2, 3, 6, 9, 10, 16)  # the data types that int32_data may hold
LOCATION = ("location", "offset", "length")
WHOLE = re.compile(rb"0|[1-9][0-9]{0,18}")

# The numbers of a tensor, if they are whole numbers and lie in the graph; None otherwise.
Numbers = Sequence[int] | None
Known = dict[str, Numbers]  # name -> numbers of every value that the next node can read


def check_graph(data: bytes, weights: str, weights_size: int, inputs: Sequence[str], width: int) -> None:
    """Raise ValueError unless ``data`` is an ONNX model that a bundle may have.

    ``weights`` is the name of its weights file, which has ``weights_size`` bytes. ``inputs`` are the names of its
    inputs. Its one output has ``width`` numbers for each text.
    """
    model = read_message(data, (0, len(data)), MODEL, "the model")
    imported = [read_message(data, span, OPSET, "an opset") for span in model["opset_import"]]
    opsets = [(_text(data, opset.get("domain")), opset.get("version")) for opset in imported]
    if len(opsets) != 1 or opsets[0][0] or opsets[0][1] not in OPSETS:
        raise ValueError(f"its opsets are {opsets}, expected one of {', '.join(map(str, OPSETS))} of ONNX itself")
    graph = read_message(data, model.get("graph", (0, 0)), GRAPH, "the graph")
    known: Known = {_value(data, span, INT64, 2, None): None for span in graph["input"]}
    if known.keys() != set(inputs) or len(graph["input"]) != len(inputs):
        raise ValueError(f"its inputs are {', '.join(known)}, expected {', '.join(inputs)}")
    for span in graph["initializer"]:
        _define(known, *_tensor(data, span, weights, weights_size))
    for span in graph["node"]:
        _node(data, span, known)
    outputs = [_value(data, span, FLOAT, 2, width) for span in graph["output"]]
    if outputs != [OUTPUT] or OUTPUT not in known:
        raise ValueError(f"its outputs are {', '.join(outputs)}, expected {OUTPUT}")


def _text(data: bytes, span: Span | None) -> str:
    if span is None:
        return ""
    text = data[span[0] : span[1]].decode("utf-8", "backslashreplace")
    if not text.isprintable():
        raise ValueError(f"it has the name {text[:80]!r}, which is not printable")
    return text


def _define(known: Known, name: str, numbers: Numbers) -> None:
    if not name or name in known:
        raise ValueError(f"the name {name[:80]!r} is empty, or given twice")
    known[name] = numbers


def _value(data: bytes, span: Span, kind: int, rank: int, last: int | None) -> str:
    """The name of an input or output, which must have the type ``kind`` and ``rank`` axes.

    ``last`` is the size of its last axis; None stands for an axis without a fixed size. Raises ValueError.
    """
    value = read_message(data, span, VALUE, "a value")
    name, tensor = _text(data, value.get("name")), read_message(data, value.get("type", (0, 0)), TYPE, "a type")
    found = read_message(data, tensor.get("tensor_type", (0, 0)), TENSOR_TYPE, "a type of tensor")
    shape = read_message(data, found.get("shape", (0, 0)), SHAPE, "a shape")
    dims = [read_message(data, span, DIMENSION, "a dimension").get("dim_value") for span in shape["dim"]]
    if found.get("elem_type") != kind or len(dims) != rank or dims[-1] != last:
        raise ValueError(f"{name[:80]!r} has type {found.get('elem_type')} and shape {dims}, expected {kind}, {last}")
    return name


def _node(data: bytes, span: Span, known: Known) -> None:
    node = read_message(data, span, NODE, "a node")
    operator, domain = _text(data, node.get("op_type")), _text(data, node.get("domain"))
    if domain or operator not in OPERATORS:
        raise ValueError(f"it has the operator {f'{domain}.' if domain else ''}{operator[:80]}, which is not allowed")
    for place, span in enumerate(node["input"]):
        name = _text(data, span)
        if name and name not in known:
            raise ValueError(f"a {operator} reads {name[:80]!r}, which is not defined before it")
        if name and place == AXES_INPUT.get(operator):
            _check_axes(known[name], operator)
    for place in node["output"]:
        if place[0] < place[1]:  # an output that is left out has an empty name
            _define(known, _text(data, place), None)
    given = [_attribute(data, place, operator) for place in node["attribute"]]
    if len(set(given)) < len(given):
        raise ValueError(f"a {operator} has an attribute twice")


def _attribute(data: bytes, span: Span, operator: str) -> str:
    attribute = read_message(data, span, ATTRIBUTE, f"an attribute of {operator}")
    name = _text(data, attribute.pop("name", None))
    if name not in OPERATORS[operator].split():
        raise ValueError(f"a {operator} has the attribute {name[:80]!r}, which is not allowed")
    kind = ATTRIBUTES[name]
    values = {field for field, value in attribute.items() if field != "type" and value != []}
    if attribute.get("type") != TYPES[kind] or values - {kind}:
        raise ValueError(f"the attribute {name} of {operator} has type {attribute.get('type')}, expected {TYPES[kind]}")
    numbers = [signed(number) for number in (attribute.get("i", 0), *attribute["ints"])]
    _check_numbers(numbers)
    if name in ("axis", "axes", "perm"):
        _check_axes(numbers, operator)
    if kind == "t":
        _tensor(data, attribute["t"], None, 0)
    return name


def _check_axes(axes: Numbers, operator: str) -> None:
    """Raise ValueError if ``axes`` are computed when the graph runs (None), or are larger than any tensor needs."""
    if axes is None or any(axis not in AXES for axis in axes):
        raise ValueError(
            f"the axes of a {operator} are {'computed' if axes is None else axes[:8]}, which is not allowed"
        )


def _tensor(data: bytes, span: Span, weights: str | None, weights_size: int) -> tuple[str, Numbers]:
    """The name of a tensor, and its ``Numbers``. If ``weights`` is None, the tensor must lie in the graph."""
    tensor = read_message(data, span, TENSOR, "a tensor")
    name, kind, dims = _text(data, tensor.pop("name", None)), tensor.pop("data_type", None), tensor.pop("dims")
    if kind not in ITEM_BYTES or any(dim >= LARGEST for dim in dims):
        raise ValueError(f"the tensor {name[:80]!r} has type {kind} and shape {dims}, which is not allowed")
    count, outside, is_outside = prod(dims), tensor.pop("external_data"), tensor.pop("data_location", 0)
    if is_outside not in (0, 1) or bool(outside) != bool(is_outside) or len(tensor) > 1 - is_outside:
        raise ValueError(f"the numbers of the tensor {name[:80]!r} are in more than one place")
    if is_outside:
        if weights is None:
            raise ValueError(f"the tensor {name[:80]!r} lies outside the graph, which is not allowed in an attribute")
        _check_place(data, outside, weights, weights_size, count * ITEM_BYTES[kind])
        return name, None
    inside, numbers = _inside(data, tensor, kind)
    if inside != count:
        raise ValueError(f"the tensor {name[:80]!r} does not hold the numbers of its shape {dims}")
    return name, numbers


def _inside(data: bytes, tensor: Mapping[str, Span], kind: int) -> tuple[int, Numbers]:
    """How many numbers of a tensor lie in the graph (-1 if a field cannot hold this type), and its ``Numbers``."""
    for field, (start, end) in tensor.items():
        if field == "raw_data" and (end - start) % ITEM_BYTES[kind] == 0:
            if kind not in WHOLE_NUMBERS:
                return (end - start) // ITEM_BYTES[kind], None
            numbers = np.frombuffer(data[start:end], WHOLE_NUMBERS[kind]).tolist()
        elif field == "float_data" and kind == FLOAT and (end - start) % ITEM_BYTES[kind] == 0:
            return (end - start) // ITEM_BYTES[kind], None
        elif (field == "int32_data" and kind in IN_INT32) or (field == "int64_data" and kind == INT64):
            numbers = [signed(number) for number in packed_varints(data, (start, end))]
        else:
            return -1, None
        _check_numbers(numbers)
        return len(numbers), numbers
    return 0, []


def _check_numbers(numbers: Iterable[int]) -> None:
    """Raise ValueError for a whole number that is far larger than any axis; some libraries crash on it."""
    for number in numbers:
        if abs(number) >= LARGEST and number not in UNLIMITED:
            raise ValueError(f"it has the number {number}, which is larger than an axis can be")


def _check_place(data: bytes, entries: Sequence[Span], weights: str, weights_size: int, size: int) -> None:
    """Raise ValueError unless a tensor of ``size`` bytes lies in the file ``weights``."""
    found = {}
    for span in entries:
        entry = read_message(data, span, ENTRY, "external data")
        found[_text(data, entry.get("key"))] = data[slice(*entry.get("value", (0, 0)))]
    place, numbers = found.get("location", b""), [found.get(key, b"") for key in LOCATION[1:]]
    if len(entries) != len(LOCATION) or place != weights.encode() or not all(map(WHOLE.fullmatch, numbers)):
        raise ValueError(f"it reads {place[:80]!r}: only its weights {weights!r} may be read, with offset and length")
    offset, length = map(int, numbers)
    if length != size or offset + length > weights_size:
        raise ValueError(f"it reads {length} bytes from {offset} of {weights!r}, which has {weights_size} bytes")
