"""Graphs are read against a list before a library sees them."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf.message import DecodeError, Message
from onnx import AttributeProto, ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper

from m2d_export import Bundle, Encoder
from m2d_export.bundle.graph_check import check_graph
from m2d_export.bundle.operators import OPERATORS
from m2d_export.errors import IntegrityError
from m2d_export.spec import INPUTS
from tests.support.bundles import WEIGHTS, resealed

GRAPH, NAME = "graphs/layer-01.fp32.onnx", "weights.fp32.bin"


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: object, **options: object) -> None:
        pytest.fail("a library was given a graph that must not be loaded")

    monkeypatch.setattr(onnxruntime, "InferenceSession", load)
    monkeypatch.setattr("m2d_export.runtimes.openvino._core", load)


def outside(tensor: TensorProto, **changes: str | None) -> None:
    """Change where a tensor lies; None removes an entry."""
    place = {entry.key: entry.value for entry in tensor.external_data} or {
        "location": NAME,
        "offset": "0",
        "length": "4",
    }
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (place | changes).items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)


def first_outside(model: ModelProto) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.external_data)


def hidden_tensor() -> TensorProto:
    tensor = TensorProto(name="hidden", data_type=TensorProto.FLOAT, dims=[1])
    outside(tensor, location="hidden.bin")
    return tensor


def place(**changes: str | None) -> Callable[[ModelProto], None]:
    return lambda model: outside(first_outside(model), **changes)


def in_a_sparse_tensor(model: ModelProto) -> None:
    values, indices = hidden_tensor(), numpy_helper.from_array(np.array([0]), "indices")
    model.graph.sparse_initializer.append(SparseTensorProto(values=values, indices=indices, dims=[4]))


def in_an_attribute(model: ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Constant", [], ["hidden"], value=hidden_tensor()))


def in_a_list_of_tensors(model: ModelProto) -> None:
    tensors = AttributeProto(name="value", type=AttributeProto.TENSORS, tensors=[hidden_tensor()])
    model.graph.node[0].attribute.append(tensors)


def in_a_subgraph(model: ModelProto) -> None:
    graph = helper.make_graph([], "branch", [], [], initializer=[hidden_tensor()])
    model.graph.node.append(helper.make_node("If", ["attention_mask"], ["x"], then_branch=graph, else_branch=graph))


def in_a_function(model: ModelProto) -> None:
    body = [helper.make_node("Constant", [], ["y"], value=hidden_tensor())]
    model.functions.append(helper.make_function("evil", "f", [], ["y"], body, model.opset_import))


def in_training(model: ModelProto) -> None:
    model.training_info.add().algorithm.CopyFrom(helper.make_graph([], "t", [], [], initializer=[hidden_tensor()]))


def outside_without_saying_so(model: ModelProto) -> None:
    first_outside(model).ClearField("data_location")


def inside_and_outside(model: ModelProto) -> None:
    first_outside(model).raw_data = b"0000"


def twice(model: ModelProto) -> None:
    first_outside(model).external_data.add(key="location", value="hidden.bin")


def other_shape(model: ModelProto) -> None:
    first_outside(model).dims[0] += 1


def other_operator(domain: str, name: str) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        model.graph.node[0].domain, model.graph.node[0].op_type = domain, name

    return change


def other_opset(domain: str, version: int) -> Callable[[ModelProto], None]:
    return lambda model: model.opset_import.append(helper.make_opsetid(domain, version))


def other_input(model: ModelProto) -> None:
    model.graph.input[0].name = "__class__"


def no_producer(model: ModelProto) -> None:
    model.graph.node[0].input[0] = "nothing"


def two_producers(model: ModelProto) -> None:
    model.graph.node[0].output[0] = model.graph.node[1].output[0]


def huge_number(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 40]), "huge"))


def huge_axis(model: ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Gather").attribute.append(
        helper.make_attribute("axis", 9)
    )


def other_width(model: ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value += 1


ATTACKS: dict[str, Callable[[ModelProto], None]] = {
    "hidden file": place(location="hidden.bin"),
    "NUL": place(location=f"{NAME}\0x"),
    "parent": place(location="../hidden.bin"),
    "absolute": place(location="/etc/passwd"),
    "here": place(location=f"./{NAME}"),
    "other case": place(location=NAME.upper()),
    "no location": place(location=None),
    "no length": place(length=None),
    "negative offset": place(offset="-1"),
    "hexadecimal": place(offset="0x0"),
    "blank": place(offset=" 0"),
    "other digits": place(offset="\u0660"),
    "offset beyond": place(offset=str(1 << 40)),
    "length beyond": place(length=str(1 << 40)),
    "shorter": place(length="4"),
    "other key": place(checksum="0"),
    "twice": twice,
    "sparse": in_a_sparse_tensor,
    "attribute": in_an_attribute,
    "tensors": in_a_list_of_tensors,
    "subgraph": in_a_subgraph,
    "function": in_a_function,
    "training": in_training,
    "not said": outside_without_saying_so,
    "inside too": inside_and_outside,
    "shape": other_shape,
    "domain": other_operator("com.evil", "Add"),
    "control flow": other_operator("", "Loop"),
    "contributed": other_operator("com.microsoft", "Gelu"),
    "newer opset": other_opset("", 99),
    "foreign opset": other_opset("com.evil", 1),
    "input": other_input,
    "dangling": no_producer,
    "producers": two_producers,
    "number": huge_number,
    "axis": huge_axis,
    "width": other_width,
}
FILES = {
    "OpenVINO's own": b'<?xml version="1.0"?><net name="x" version="11"><layers/></net>',
    "empty": b"",
    "text": b"not a graph",
    "archive": b"PK\x03\x04" + b"\0" * 99,
    "pickle": b"\x80\x04\x95" + b"\0" * 99,
}


def refused(bundle: Path, data: bytes) -> None:
    """Every runtime refuses the graph, other exits run, and ``problems`` names the file."""
    (bundle / "graphs" / "hidden.bin").write_bytes(bytes(1 << 20))
    opened = Bundle.open(resealed(bundle, GRAPH, data))
    for runtime in ("onnxrt", "openvino"):
        with pytest.raises(IntegrityError, match=r"layer-01\.fp32\.onnx must not be loaded"):
            Encoder(opened, 1, runtime=runtime)
    opened.variant(2)
    assert [problem.split()[0] for problem in opened.problems()] == [GRAPH, "graphs/hidden.bin"]


@pytest.mark.usefixtures("no_library")
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_graph_with_anything_but_listed_operators_and_its_own_weights_is_never_loaded(
    copied_bundle: Path, attack: Callable[[ModelProto], None]
) -> None:
    model = onnx.load(copied_bundle / GRAPH, load_external_data=False)
    attack(model)
    refused(copied_bundle, model.SerializeToString())


@pytest.mark.usefixtures("no_library")
@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_what_is_no_onnx_graph_is_never_loaded_as_one(copied_bundle: Path, content: bytes) -> None:
    refused(copied_bundle, content)


@pytest.mark.usefixtures("no_library")
def test_a_graph_may_not_be_larger_than_any_real_one(copied_bundle: Path) -> None:
    refused(copied_bundle, bytes((64 << 20) + 1))


def messages(message: Message, kind: type[Message]) -> list[Message]:
    """Every message of a type within a message."""
    found = [message] if isinstance(message, kind) else []
    for field, value in message.ListFields():
        if field.message_type:
            for item in value if isinstance(value, list) or hasattr(value, "__len__") else [value]:
                found += messages(item, kind)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_what_passes_the_check_is_what_onnx_reads(bundle: Bundle, seed: int) -> None:
    original, generator, passed = (bundle.root / GRAPH).read_bytes(), random.Random(seed), 0
    size = (bundle.root / WEIGHTS).stat().st_size
    for _ in range(400):
        data = bytearray(original)
        for _ in range(generator.choice((1, 1, 2))):
            start = generator.randrange(len(data))
            data[start : start + generator.choice((0, 1, 1, 1, 4))] = generator.choice(
                (
                    b"",
                    generator.randbytes(1),
                    generator.randbytes(1),
                    generator.randbytes(2),
                    bytes(original[start:][:40]),
                )
            )
        try:
            check_graph(bytes(data), NAME, size, INPUTS[:2], bundle.grid.width)
        except ValueError:
            continue
        passed += 1
        try:
            model = ModelProto.FromString(bytes(data))
        except DecodeError:  # a name that is no UTF-8: a library refuses it
            continue
        assert not [*messages(model, onnx.GraphProto)[1:], *model.functions, *messages(model, SparseTensorProto)]
        assert {(node.domain, node.op_type) for node in messages(model, onnx.NodeProto)} <= {
            ("", name) for name in OPERATORS
        }
        for tensor in messages(model, TensorProto):
            item = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            if tensor.external_data:
                entries = {entry.key: entry.value for entry in tensor.external_data}
                assert entries["location"] == NAME
                assert int(entries["length"]) == int(np.prod(tensor.dims)) * item
                assert int(entries["offset"]) + int(entries["length"]) <= size
            else:
                numpy_helper.to_array(tensor)
    assert 0 < passed < 400
