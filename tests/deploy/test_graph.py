"""Deployed graphs: one cell as one ONNX file that pools, cuts and scales inside."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from m2d_export import Bundle, Cell, Encoder, pipeline
from m2d_export.deploy.graph import check_deployed, deployed_graph, save_graph, write_deployed
from m2d_export.errors import IntegrityError, ParityError, SpecError
from m2d_export.text.batches import pad
from m2d_export.vectors import FloatArray, cosine

TEXTS = ["A man is playing a guitar.", "no", "", "The cat sat on the mat. " * 20]


def run(graph: Path, bundle: Bundle, texts: list[str] = TEXTS, prompt: str = "") -> FloatArray:
    """What ONNX Runtime alone makes of a graph, all texts in one batch."""
    tokens = bundle.tokenizer.encode(texts, prompt)
    batch = pad(tokens, bundle.manifest.text, range(len(tokens)))
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    values = {value.name: getattr(batch, value.name) for value in session.get_inputs()}
    (vectors,) = session.run(["sentence_embedding"], values)
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
    with pytest.raises(SpecError, match="does not run bf16"):
        write_deployed(halves, Cell(3, 32), tmp_path / "bf16.onnx", "bf16")


def test_a_deployed_graph_is_one_plain_file_that_says_what_it_is(bundle: Bundle, tmp_path: Path) -> None:
    write_deployed(bundle, Cell(2, 32), tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["input_ids", "attention_mask"]
    assert {value.type.tensor_type.elem_type for value in model.graph.input} == {onnx.TensorProto.INT64}
    (output,) = model.graph.output
    axes = [axis.dim_param or axis.dim_value for axis in output.type.tensor_type.shape.dim]
    assert (output.name, output.type.tensor_type.elem_type, axes) == (
        "sentence_embedding",
        onnx.TensorProto.FLOAT,
        ["batch", 32],
    )
    assert {node.domain for node in model.graph.node} == {""}
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "m2d.bundle": bundle.id,
        "m2d.cell": "2x32",
        "m2d.precision": "fp32",
        "m2d.normalize": "true",
    }


def test_weights_that_protobuf_cannot_hold_lie_beside_the_graph(
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


def test_lengths_are_kept_where_the_checkpoint_keeps_them_unless_told_otherwise(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(normalize=False)
    bundle = pipeline.build(pipeline.plan(str(checkpoint), tmp_path / "long.m2d"))
    for normalize, unit in ((None, False), (True, True)):
        path = tmp_path / f"{normalize}.onnx"
        write_deployed(bundle, Cell(3, 32), path, normalize=normalize)
        vectors = run(path, bundle)
        with Encoder(bundle, 3, 32, normalize=normalize) as encoder:
            np.testing.assert_allclose(vectors, encoder.encode(TEXTS), rtol=1e-5, atol=1e-5)
        assert bool(np.allclose(np.linalg.norm(vectors, axis=1), 1)) is unit


def test_a_prompt_that_is_not_pooled_keeps_its_mask(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = make_checkpoint(include_prompt=False, prompts={"query": "a cat is "}, default_prompt_name="query")
    bundle = pipeline.build(pipeline.plan(str(checkpoint), tmp_path / "prompted.m2d"))
    write_deployed(bundle, Cell(3, 32), tmp_path / "model.onnx")
    with Encoder(bundle, 3, 32) as encoder:
        np.testing.assert_allclose(
            run(tmp_path / "model.onnx", bundle, prompt="a cat is "), encoder.encode(TEXTS), atol=1e-6
        )


def test_a_graph_of_another_cell_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    save_graph(deployed_graph(bundle, Cell(2, 32)), tmp_path / "model.onnx")
    with pytest.raises(ParityError, match=r"not give .* of the bundle's graph in cell 3x32, fp32: cosine 0\."):
        check_deployed(bundle, Cell(3, 32), tmp_path / "model.onnx")
    with pytest.raises(ParityError, match="shape"):
        check_deployed(bundle, Cell(2, 64), tmp_path / "model.onnx")


def test_a_graph_of_the_whole_that_was_cut_after_scaling_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    save_graph(deployed_graph(bundle, Cell(2, 32), normalize=False), tmp_path / "model.onnx")
    with pytest.raises(ParityError, match="difference"):
        check_deployed(bundle, Cell(2, 32), tmp_path / "model.onnx")


def test_cells_and_precisions_that_are_not_there_and_damaged_files_are_refused(
    bundle: Bundle, copied_bundle: Path
) -> None:
    with pytest.raises(SpecError, match="no exit at layer 4"):
        deployed_graph(bundle, Cell(4, 32))
    with pytest.raises(SpecError, match="dim 65 is out of range"):
        deployed_graph(bundle, Cell(1, 65))
    with pytest.raises(SpecError, match="no int8 variant"):
        deployed_graph(bundle, Cell(1, 32), "int8")
    (copied_bundle / "graphs" / "weights.fp32.bin").write_bytes(b"")
    with pytest.raises(IntegrityError, match="has 0 bytes"):
        deployed_graph(Bundle.open(copied_bundle), Cell(1, 32))
