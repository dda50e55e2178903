"""Deployed graphs: one cell as one ONNX file that pools, cuts and scales."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from m2d_export import Bundle, Cell, Encoder, build
from m2d_export.deploy.graph import check_deployed, deployed_graph, save_graph, write_deployed
from m2d_export.errors import IntegrityError, ParityError, SpecError
from m2d_export.spec import INPUTS, OUTPUT
from m2d_export.text.batches import pad
from m2d_export.vectors import FloatArray, cosine

pytestmark = pytest.mark.slow

TEXTS = ["A man is playing a guitar.", "no", "", "The cat sat on the mat. " * 20]


def run(graph: Path, bundle: Bundle, texts: list[str] = TEXTS, prompt: str = "") -> FloatArray:
    """The vectors that ONNX Runtime gives for a graph, without this package; all texts are one batch."""
    tokens = bundle.tokenizer.encode(texts, prompt)
    batch = pad(tokens, bundle.manifest.text, range(len(tokens)))
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    values = {value.name: getattr(batch, value.name) for value in session.get_inputs()}
    (vectors,) = session.run([OUTPUT], values)
    return vectors


@pytest.mark.parametrize("cell", [Cell(1, 32), Cell(2, 64), Cell(3, 7), Cell(3, 1)], ids=str)
def test_a_deployed_graph_gives_the_encoders_vectors(bundle: Bundle, tmp_path: Path, cell: Cell) -> None:
    path = tmp_path / "model.onnx"
    write_deployed(bundle, cell, path)
    vectors = run(path, bundle)
    with Encoder(bundle, cell.layer, cell.dim) as encoder:
        np.testing.assert_allclose(vectors, encoder.encode(TEXTS), atol=1e-6)
    assert vectors.shape == (len(TEXTS), cell.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_exit_0_is_deployed_as_one_graph(tabled: Bundle, tmp_path: Path, precision: str) -> None:
    path = tmp_path / "model.onnx"
    write_deployed(tabled, Cell(0, 20), path, precision)
    with Encoder(tabled, 0, 20, precision=precision) as encoder:
        np.testing.assert_allclose(run(path, tabled), encoder.encode(TEXTS), atol=1e-6)
    assert not {"If", "Softmax", "MatMul"} & {node.op_type for node in onnx.load(path).graph.node}


def test_int8_is_deployed_as_int8(quantized: Bundle, tmp_path: Path) -> None:
    for precision in ("fp32", "int8"):
        write_deployed(quantized, Cell(3, 32), tmp_path / f"{precision}.onnx", precision)
    with Encoder(quantized, 3, 32, precision="int8") as encoder:
        assert cosine(run(tmp_path / "int8.onnx", quantized), encoder.encode(TEXTS)).min() > 0.999
    assert (tmp_path / "int8.onnx").stat().st_size < (tmp_path / "fp32.onnx").stat().st_size / 2
    model = onnx.load(tmp_path / "int8.onnx")
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in model.graph.node}


def test_fp16_is_deployed_as_fp16(halves: Bundle, tmp_path: Path) -> None:
    write_deployed(halves, Cell(3, 32), tmp_path / "fp16.onnx", "fp16")
    with Encoder(halves, 3, 32, precision="fp16") as encoder:
        np.testing.assert_allclose(run(tmp_path / "fp16.onnx", halves), encoder.encode(TEXTS), atol=1e-3)
    weights = onnx.load(tmp_path / "fp16.onnx").graph.initializer
    assert onnx.TensorProto.FLOAT16 in {weight.data_type for weight in weights}


def test_bf16_is_refused(halves: Bundle, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="bf16"):
        write_deployed(halves, Cell(3, 32), tmp_path / "bf16.onnx", "bf16")


def test_a_deployed_graph_is_one_file_with_standard_operators_and_metadata(bundle: Bundle, tmp_path: Path) -> None:
    write_deployed(bundle, Cell(2, 32), tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert tuple(value.name for value in model.graph.input) == INPUTS[:2]
    assert {value.type.tensor_type.elem_type for value in model.graph.input} == {onnx.TensorProto.INT64}
    (output,) = model.graph.output
    axes = [axis.dim_param or axis.dim_value for axis in output.type.tensor_type.shape.dim]
    assert (output.name, output.type.tensor_type.elem_type) == (OUTPUT, onnx.TensorProto.FLOAT)
    assert axes == ["batch", 32]
    assert {node.domain for node in model.graph.node} == {""}
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "m2d.bundle": bundle.id,
        "m2d.cell": "2x32",
        "m2d.precision": "fp32",
        "m2d.normalize": "true",
    }


def test_weights_that_protobuf_cannot_hold_go_to_a_second_file(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2d_export.deploy.graph.INLINE_LIMIT", 1000)
    write_deployed(bundle, Cell(2, 32), tmp_path / "model.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx_data"]
    moved = tmp_path.rename(tmp_path.with_name("elsewhere"))
    with Encoder(bundle, 2, 32) as encoder:
        np.testing.assert_allclose(run(moved / "model.onnx", bundle), encoder.encode(TEXTS), atol=1e-6)


def test_a_zero_vector_stays_zero(bundle: Bundle, tmp_path: Path) -> None:
    model = deployed_graph(bundle, Cell(1, 32))
    head = next(node for node in reversed(list(model.graph)) if node.op_type in ("Gemm", "MatMul", "Add"))
    for value in head.inputs:
        if value.const_value is not None:  # a head of zeros
            value.const_value = type(value.const_value)(np.zeros_like(value.const_value.numpy()), name=value.name)
    save_graph(model, tmp_path / "zero.onnx")
    vectors = run(tmp_path / "zero.onnx", bundle)
    np.testing.assert_array_equal(vectors, np.zeros((len(TEXTS), 32)))


@pytest.mark.parametrize(("normalize", "unit_length"), [(None, False), (True, True)])
def test_vectors_are_scaled_as_the_checkpoint_does_or_as_asked_for(
    prompted: Bundle, tmp_path: Path, normalize: bool | None, unit_length: bool
) -> None:
    write_deployed(prompted, Cell(3, 32), tmp_path / "model.onnx", normalize=normalize)
    vectors = run(tmp_path / "model.onnx", prompted)
    with Encoder(prompted, 3, 32, normalize=normalize) as encoder:
        np.testing.assert_allclose(vectors, encoder.encode(TEXTS, prompt=""), rtol=1e-5, atol=1e-5)
    assert bool(np.allclose(np.linalg.norm(vectors, axis=1), 1)) is unit_length


def test_a_prompt_that_is_not_pooled_keeps_its_mask(prompted: Bundle, tmp_path: Path) -> None:
    write_deployed(prompted, Cell(3, 32), tmp_path / "model.onnx", normalize=True)
    with Encoder(prompted, 3, 32, normalize=True) as encoder:
        expected = encoder.encode(TEXTS)
    np.testing.assert_allclose(run(tmp_path / "model.onnx", prompted, prompt="a cat is "), expected, atol=1e-6)


def test_a_graph_of_another_cell_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    save_graph(deployed_graph(bundle, Cell(2, 32)), tmp_path / "model.onnx")
    with pytest.raises(ParityError, match="3x32"):
        check_deployed(bundle, Cell(3, 32), tmp_path / "model.onnx")
    with pytest.raises(ParityError, match="shape"):
        check_deployed(bundle, Cell(2, 64), tmp_path / "model.onnx")


def test_a_graph_that_does_not_scale_its_vectors_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    save_graph(deployed_graph(bundle, Cell(2, 32), normalize=False), tmp_path / "model.onnx")
    with pytest.raises(ParityError, match="difference"):
        check_deployed(bundle, Cell(2, 32), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("cell", "precision", "named"),
    [(Cell(4, 32), "fp32", "layer 4"), (Cell(1, 65), "fp32", "65"), (Cell(1, 32), "int8", "int8")],
)
def test_a_cell_or_precision_that_is_not_there_is_refused(
    bundle: Bundle, cell: Cell, precision: str, named: str
) -> None:
    with pytest.raises(SpecError, match=named):
        deployed_graph(bundle, cell, precision)


def test_a_damaged_file_is_refused(copied_bundle: Path) -> None:
    (copied_bundle / "graphs" / "weights.fp32.bin").write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"weights\.fp32\.bin"):
        deployed_graph(Bundle.open(copied_bundle), Cell(1, 32))


@pytest.fixture
def long_texts(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle with a graph for long texts; here, a text of more than ten tokens is long."""
    monkeypatch.setattr("m2d_export.graph_files.SAMPLE_TOKENS", 8)
    monkeypatch.setattr("m2d_export.deploy.graph.LONG_ATTENTION", 100)
    return build(checkpoint, tmp_path / "long.m2d", layers=[1])


def test_long_texts_run_in_blocks_in_the_same_file(long_texts: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_deployed(long_texts, Cell(1, 32), path)
    with Encoder(long_texts, 1, 32) as encoder:
        np.testing.assert_allclose(run(path, long_texts), encoder.encode(TEXTS), atol=1e-6)
        np.testing.assert_allclose(run(path, long_texts, ["no"]), encoder.encode(["no"]), atol=1e-6)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    branches = {item.name: item.g.node for node in model.graph.node for item in node.attribute if node.op_type == "If"}
    blocks = {name: sum(node.op_type == "Softmax" for node in nodes) for name, nodes in branches.items()}
    assert blocks == {"then_branch": 16, "else_branch": 1}
    model.graph.output.append(onnx.helper.make_tensor_value_info("is_long", onnx.TensorProto.BOOL, [1]))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for shape, is_long in (((1, 10), False), ((1, 11), True), ((4, 5), False), ((5, 5), True)):
        ones = np.ones(shape, np.int64)
        assert session.run(["is_long"], dict.fromkeys(INPUTS[:2], ones)) == [[is_long]]


def test_vectors_of_long_texts_are_compared_too(long_texts: Bundle, tmp_path: Path) -> None:
    model = deployed_graph(long_texts, Cell(1, 32))
    (chosen,) = (node for node in model.graph if node.op_type == "If")
    nodes = chosen.attributes["then_branch"].as_graph()
    joined = next(node for node in nodes if node.op_type == "Concat" and len(node.inputs) == 16)
    first, last = joined.inputs[1], joined.inputs[15]
    joined.replace_input_with(1, last)
    joined.replace_input_with(15, first)
    save_graph(model, tmp_path / "model.onnx")
    with pytest.raises(ParityError, match=r"model\.onnx"):
        check_deployed(long_texts, Cell(1, 32), tmp_path / "model.onnx")
