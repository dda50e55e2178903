"""int8 variants: built beside fp32, calibrated on texts, judged before they are published."""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from m2d_export import Bundle, Encoder, pipeline
from m2d_export.bundle.bundle import Manifest
from m2d_export.errors import DataError, ExportError, ParityError, RuntimeUnavailable, SpecError
from m2d_export.gate import parity as gate
from m2d_export.graphs.passes.int8_graph import heads_split_last, products_of_one_input_joined
from m2d_export.runtimes import open_runtime
from m2d_export.spec import Precision
from m2d_export.text.batches import Tokenizer, batches
from m2d_export.text.packaged import calibration_texts, held_out_texts
from m2d_export.vectors import cosine
from tests.conftest import WORDS, save_checkpoint

pytest.importorskip("nncf", reason="NNCF is not installed (extra: int8)")
TEXTS = [f"the {word} is {WORDS[place - 1]}" for place, word in enumerate(WORDS)]


def graph(bundle: Bundle, layer: int, precision: str) -> onnx.ModelProto:
    return onnx.load(bundle.root / bundle.entry(layer, precision).path, load_external_data=False)


def test_every_exit_has_both_precisions_and_figures_of_its_own(quantized: Bundle) -> None:
    entries = {(entry.layer, entry.precision): entry.parity for entry in quantized.manifest.variants}
    assert set(entries) == {(layer, precision) for layer in (1, 2, 3) for precision in ("fp32", "int8")}
    for (_, precision), parity in entries.items():
        assert ("agreement" in parity) == ("probes_cosine_min" in parity) == (precision == "int8")
        bounds = gate.BOUNDS[Precision(precision)]
        assert parity["cosine_min"] >= bounds.cosine_min
        assert parity["invariance"] <= bounds.invariance
        assert parity["invariance_cosine"] >= 0.999  # issue 5
        assert parity.get("agreement", 100) >= bounds.agreement
    assert quantized.manifest.calibration == f"{len(WORDS)} texts of texts.txt"


def test_products_are_quantized_and_ranges_are_constants(quantized: Bundle) -> None:
    for layer in quantized.grid.layers:
        model = graph(quantized, layer, "int8")
        constants = {value.name for value in model.graph.initializer}
        kinds = Counter(node.op_type for node in model.graph.node)
        heads = layer in quantized.manifest.heads
        assert kinds["QuantizeLinear"] == 4 * layer + heads  # for products with weights; those of attention are float
        assert not [kind for kind in kinds if kind.startswith("Dynamic")]
        for node in model.graph.node:
            if node.op_type == "QuantizeLinear":
                assert set(node.input[1:]) <= constants
            if node.op_type == "Gather":  # or a table would be scaled as a whole in every call
                assert node.input[0] not in {output for other in model.graph.node for output in other.output}


@pytest.mark.parametrize("runtime", ["", "onnxrt"], ids=["for all", "its own"])
def test_onnx_runtime_multiplies_every_weight_in_int8(quantized: Bundle, tmp_path: Path, runtime: str) -> None:
    """Query, key and value were done in float, their weights scaled in every call: they shared one scaled input."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "as_run.onnx"), 3
    path = quantized.variant(3, "int8", runtime).path
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    model = onnx.load(tmp_path / "as_run.onnx", load_external_data=False)
    shapes = {value.name: list(value.dims) for value in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            assert len(shapes.get(node.input[0], ())) < 2, f"{node.input[0]} is scaled in every call"


def test_vectors_are_the_same_in_every_arithmetic(quantized: Bundle) -> None:
    """Without int8 dot products, x86 adds neighbouring products in 16 bits, which saturated: vectors were far off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # products in float, exact
    path = quantized.root / quantized.entry(3, "int8").path
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    spec = quantized.manifest.text
    (batch,) = batches(quantized.tokenizer.encode(TEXTS), spec)
    exact = session.run(None, {name: getattr(batch, name) for name in ("input_ids", "attention_mask")})[0]
    for runtime in ("onnxrt", "openvino"):
        pytest.importorskip({"onnxrt": "onnxruntime"}.get(runtime, runtime))
        with open_runtime(runtime, quantized.variant(3, "int8", runtime)) as opened:
            assert cosine(opened.vectors(batch), exact).min() >= 0.9999, runtime


def test_no_two_neighbouring_weights_can_saturate(quantized: Bundle) -> None:
    model = onnx.load(quantized.root / quantized.entry(3, "int8").path)
    values = {value.name: onnx.numpy_helper.to_array(value) for value in model.graph.initializer}
    scaled = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    products = [
        scaled[node.input[1]] for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in scaled
    ]
    weights = [values[name].astype(int) for name in products if name in values]
    assert len(weights) == 4 * 3  # query, key and value are one
    for matrix in weights:
        sums = matrix[::2] + matrix[1::2]
        assert 100 < np.abs(sums).max() <= 128


def test_int8_weights_share_a_file_and_are_smaller(quantized: Bundle) -> None:
    weights = {entry.precision: entry.weights for entry in quantized.manifest.variants}
    sizes = {precision: quantized.manifest.files[path].size for precision, path in weights.items()}
    assert len(set(weights.values())) == 2
    stored = {
        precision: sum(
            onnx.helper.tensor_dtype_to_np_dtype(value.data_type).itemsize * int(np.prod(value.dims))
            for value in graph(quantized, 3, precision).graph.initializer
            if value.data_location == onnx.TensorProto.EXTERNAL
        )
        for precision in sizes
    }
    assert stored["int8"] < 0.5 * stored["fp32"]


@pytest.mark.parametrize("budget", [512, 8], ids=["one batch", "streams"])
@pytest.mark.parametrize("runtime", ["onnxrt", "openvino"])
def test_a_text_has_one_vector_whatever_its_neighbours(quantized: Bundle, runtime: str, budget: int) -> None:
    texts = [*TEXTS, "interest rates rose " * 12]
    with Encoder(quantized, 3, precision="int8", runtime=runtime, threads=2) as encoder:
        encoder.token_budget = budget
        made = len(list(batches(quantized.tokenizer.encode(texts), quantized.manifest.text, budget)))
        assert (made >= 16) is (budget == 8)
        together = encoder.encode(texts)
        alone = np.concatenate([encoder.encode([text]) for text in texts])
    assert ((together * alone).sum(axis=1) > 0.999).all()


def test_the_packaged_texts_for_calibration_are_not_those_it_is_judged_on() -> None:
    assert len(calibration_texts()) > 100
    assert len(held_out_texts()) > 100
    assert not set(calibration_texts()) & set(held_out_texts())


def test_a_calibration_file_is_sampled_evenly(checkpoint: Path, tmp_path: Path) -> None:
    texts = tmp_path / "many.txt"
    texts.write_text("".join(f"text number {place}\n" for place in range(1000)))
    plan = pipeline.plan(str(checkpoint), tmp_path / "out.m2d", precisions=["int8"], calibration=texts)
    assert plan.calibration is not None
    assert 200 <= len(plan.calibration.texts) <= 300
    assert plan.calibration.texts[-1] > "text number 9"


@pytest.mark.parametrize(
    ("precisions", "content", "error", "said"),
    [
        (["int8"], "", DataError, "0 distinct texts in .*: calibration needs at least 20"),
        (["int8"], None, DataError, "texts.txt"),
        (["int8"], b"\xff\xfe" * 40, DataError, "UTF-8"),
        (["fp32"], "a\n", SpecError, "--calibration goes with --precision int8"),
        (
            ["fp32", "fp8"],
            "a\n",
            SpecError,
            "'fp8' is not a valid Precision: variants can be built in fp32, fp16, bf16, int8",
        ),
    ],
    ids=["empty", "missing", "not text", "nothing to calibrate", "no such precision"],
)
def test_what_cannot_be_quantized_is_said_before_any_work(
    checkpoint: Path,
    tmp_path: Path,
    precisions: list[str],
    content: str | bytes | None,
    error: type[Exception],
    said: str,
) -> None:
    file = tmp_path / "texts.txt"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(error, match=said):
        pipeline.plan(str(checkpoint), tmp_path / "out.m2d", precisions=precisions, calibration=file)
    assert not (tmp_path / "out.m2d").exists()


def test_without_nncf_the_extra_is_named(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(RuntimeUnavailable, match=r"nncf is not installed.*'m2d-export\[int8\]'"):
        pipeline.plan(str(checkpoint), tmp_path / "out.m2d", precisions=["int8"])


def test_a_graph_that_nncf_cannot_quantize_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import nncf
    import onnx_ir as ir

    from m2d_export.graphs.int8 import int8_models

    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("no\nsuch thing")

    monkeypatch.setattr(nncf, "quantize", refuse)
    empty = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 18}), ir_version=10)
    with pytest.raises(ExportError, match=r"^NNCF cannot quantize this graph: no$"):
        int8_models(empty, [])


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"cosine_min": 1.1}, "layer 1, int8: cosine to the reference is .*, needs 1.1"),
        ({"cosine_mean": 1.1}, "on average, needs 1.1"),
        ({"agreement": 101.0}, "agreement with the reference is .*, needs 101"),
        ({"invariance": -1.0}, "a text alone and in a batch differ"),
        ({"invariance_cosine": 1.1}, "a text alone and in a batch have cosine .*, needs 1.1"),
    ],
)
def test_an_int8_variant_that_fails_its_gate_is_not_published(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bounds: dict[str, float], said: str
) -> None:
    from dataclasses import replace

    monkeypatch.setitem(gate.BOUNDS, Precision.INT8, replace(gate.BOUNDS[Precision.INT8], **bounds))
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    plan = pipeline.plan(str(checkpoint), tmp_path / "out.m2d", layers=[1], precisions=["int8"], calibration=texts)
    with pytest.raises(ParityError, match=said):
        pipeline.build(plan)
    assert not (tmp_path / "out.m2d").exists()


def test_a_bundle_of_int8_alone_says_so_when_fp32_is_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    options = {"layers": [1], "precisions": ["int8"], "calibration": texts}
    bundle = pipeline.build(pipeline.plan(str(checkpoint), tmp_path / "out.m2d", **options))
    with pytest.raises(SpecError, match=r"no fp32 variant of layer 1 .* it was built with int8"):
        Encoder(bundle, 1)
    with Encoder(bundle, 1, precision="int8") as encoder:
        assert encoder.encode(TEXTS[:2]).shape == (2, 64)


def test_prompts_that_are_not_pooled_are_quantized_too(tmp_path: Path) -> None:
    prompts = {"include_prompt": False, "prompts": {"query": "query: "}, "default_prompt_name": "query"}
    folder = save_checkpoint(tmp_path / "prompted", "bert", **prompts)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    options = {"layers": [2], "precisions": ["int8"], "calibration": texts}
    bundle = pipeline.build(pipeline.plan(str(folder), tmp_path / "out.m2d", **options))
    assert [value.name for value in graph(bundle, 2, "int8").graph.input][-1] == "pooling_mask"


def test_calibration_is_said_where_there_is_int8_and_may_be_left_out(quantized: Bundle, bundle: Bundle) -> None:
    written = json.loads(quantized.manifest.to_json())
    assert Manifest.from_json(json.dumps(written)) == quantized.manifest
    del written["calibration"]
    assert Manifest.from_json(json.dumps(written)).calibration is None
    assert "calibration" not in json.loads(bundle.manifest.to_json())


def test_calibration_samples_are_single_texts_and_paragraphs_without_padding(checkpoint: Path, tmp_path: Path) -> None:
    from m2d_export.graphs.int8 import calibration_samples

    loaded = pipeline.plan(str(checkpoint), tmp_path / "out.m2d").checkpoint
    samples = calibration_samples(TEXTS[:9], Tokenizer(loaded.tokenizer_json, loaded.text))
    assert len(samples) == 9 + 2
    assert {array.shape[0] for inputs in samples for array in inputs.values()} == {1}
    assert all(inputs["attention_mask"].all() for inputs in samples)


def test_layers_of_one_input_are_joined_whichever_side_their_bias_stands_on() -> None:
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(4, 3)).astype(np.float32) for name in ("w1", "w2")}
    biases = {name: rng.normal(size=3).astype(np.float32) for name in ("b1", "b2")}
    info = onnx.helper.make_tensor_value_info
    source = onnx.helper.make_node("Identity", ["x"], ["input"])
    products = [onnx.helper.make_node("MatMul", ["input", f"w{place}"], [f"p{place}"]) for place in (1, 2)]
    sums = [onnx.helper.make_node("Add", terms, [out]) for terms, out in ((["b1", "p1"], "s1"), (["p2", "b2"], "s2"))]
    ends = [onnx.helper.make_node("Relu", [f"s{place}"], [f"y{place}"]) for place in (1, 2)]
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in (weights | biases).items()]
    outputs = [info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in ("y1", "y2")]
    inputs = [info("x", onnx.TensorProto.FLOAT, [2, 4])]
    made = onnx.helper.make_graph([source, *products, *sums, *ends], "two", inputs, outputs, constants)
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    joined = ir.serde.serialize_model(products_of_one_input_joined(ir.serde.deserialize_model(model)))
    assert [node.op_type for node in joined.graph.node].count("MatMul") == 1
    x = rng.normal(size=(2, 4)).astype(np.float32)
    session = onnxruntime.InferenceSession(joined.SerializeToString(), providers=["CPUExecutionProvider"])
    for place, found in enumerate(session.run(None, {"x": x}), 1):
        np.testing.assert_allclose(found, np.maximum(x @ weights[f"w{place}"] + biases[f"b{place}"], 0), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["roberta", "mpnet", "electra", "albert", "modernbert", "deberta-v2"])
def test_other_encoders_are_quantized_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    from dataclasses import replace

    # The gate was fitted on trained weights: those here are random.
    bounds = replace(gate.BOUNDS[Precision.INT8], cosine_min=0.8, cosine_mean=0.9, agreement=50.0)
    monkeypatch.setitem(gate.BOUNDS, Precision.INT8, bounds)
    folder, texts = save_checkpoint(tmp_path / "checkpoint", kind), tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    options = {"layers": [2], "precisions": ["int8"], "calibration": texts}
    bundle = pipeline.build(pipeline.plan(str(folder), tmp_path / "out.m2d", **options))
    for runtime in ("onnxrt", "openvino"):
        with Encoder(bundle, 2, precision="int8", runtime=runtime) as encoder:
            assert np.isfinite(encoder.encode(TEXTS)).all()


def test_joined_heads_are_split_after_one_transposition_and_give_the_same_vectors(bundle: Bundle) -> None:
    path = bundle.variant(2, "fp32").path
    joined = heads_split_last(products_of_one_input_joined(ir.load(path)))
    kinds = Counter(node.op_type for node in joined.graph)
    assert kinds["Split"] == 2  # one a layer
    assert [node.attributes.get_int("axis", -1) for node in joined.graph if node.op_type == "Split"] == [0, 0]
    ids = np.random.default_rng(0).integers(0, 20, (3, 7))
    mask = np.ones_like(ids)
    mask[1, 4:] = 0
    vectors = []
    for model in (ir.load(path), joined):
        for value in model.graph.initializers.values():
            value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
        data = ir.serde.serialize_model(model).SerializeToString()
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        vectors.append(session.run(None, {"input_ids": ids, "attention_mask": mask})[0])
    np.testing.assert_allclose(*vectors, atol=1e-5)
