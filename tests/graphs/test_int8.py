"""int8: built next to fp32, calibrated on texts, judged before it is published."""

import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from m2d_export import Bundle, Encoder, build
from m2d_export.bundle.manifest import read_manifest
from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.errors import (
    DataError,
    ExportError,
    IntegrityError,
    ParityError,
    RuntimeUnavailable,
    SpecError,
)
from m2d_export.gate import int8 as gate
from m2d_export.graphs.int8 import calibration_samples, int8_graphs
from m2d_export.graphs.passes.prevent_saturation import MAX_PAIR_SUM
from m2d_export.plan import plan
from m2d_export.precisions import PRECISIONS
from m2d_export.runtimes.table import open_runtime
from m2d_export.spec import INPUTS, Precision
from m2d_export.text.batches import batches
from m2d_export.text.files import calibration_texts, held_out_texts
from m2d_export.text.tokenizer import Tokenizer
from m2d_export.vectors import cosine
from tests.support.checkpoints import WORDS, save_checkpoint
from tests.support.graph_files import parsed

TEXTS = [f"the {word} is {WORDS[place - 1]}" for place, word in enumerate(WORDS)]


def calibrated(folder: Path) -> dict[str, Any]:
    """Options of a build in int8, calibrated on a few texts."""
    texts = folder / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    return {"precisions": ["int8"], "calibration": texts}


def graph(bundle: Bundle, layer: int, precision: str, runtime: str = "default") -> onnx.ModelProto:
    path = bundle.root / bundle.entry(layer, precision).graphs[runtime]
    return onnx.load(path, load_external_data=False)


def bounded(monkeypatch: pytest.MonkeyPatch, **bounds: float) -> None:
    """Change bounds of int8."""
    row = PRECISIONS[Precision.INT8]
    monkeypatch.setitem(PRECISIONS, Precision.INT8, replace(row, bounds=replace(row.bounds, **bounds)))


def test_every_exit_has_both_precisions_and_metrics_of_its_own(quantized: Bundle) -> None:
    entries = {(entry.layer, entry.precision): entry.parity for entry in quantized.manifest.variants}
    assert set(entries) == {(layer, precision) for layer in (1, 2, 3) for precision in ("fp32", "int8")}
    for (_, precision), parity in entries.items():
        assert ("agreement" in parity) == ("probes_cosine_min" in parity) == (precision == "int8")
        bounds = PRECISIONS[Precision(precision)].bounds
        assert parity["cosine_min"] >= bounds.cosine_min
        assert parity["invariance"] <= bounds.invariance
        assert parity["invariance_cosine"] >= 0.999
        assert parity.get("agreement", 100) >= bounds.agreement


def test_matmuls_with_weights_are_quantized_and_ranges_are_constants(quantized: Bundle) -> None:
    for layer in quantized.grid.layers:
        model = graph(quantized, layer, "int8")
        constants = {value.name for value in model.graph.initializer}
        kinds = Counter(node.op_type for node in model.graph.node)
        assert kinds["QuantizeLinear"] == 4 * layer  # the matmuls of attention have no weights and stay float
        assert not [kind for kind in kinds if kind.startswith("Dynamic")]
        for node in model.graph.node:
            if node.op_type == "QuantizeLinear":
                assert set(node.input[1:]) <= constants
            if node.op_type == "Gather":  # any other table would be dequantized as a whole in every call
                assert node.input[0] not in {output for other in model.graph.node for output in other.output}


@pytest.mark.parametrize("runtime", ["default", "onnxrt"])
def test_onnx_runtime_multiplies_every_weight_in_int8(quantized: Bundle, tmp_path: Path, runtime: str) -> None:
    """MatMuls that share a quantized input run in float, and their weights are dequantized in every call."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "as_run.onnx"), 3
    path = quantized.variant(3, "int8", runtime).path
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    model = onnx.load(tmp_path / "as_run.onnx", load_external_data=False)
    shapes = {value.name: list(value.dims) for value in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            assert len(shapes.get(node.input[0], ())) < 2, f"{node.input[0]} is dequantized in every call"


def test_vectors_are_the_same_in_every_arithmetic(quantized: Bundle) -> None:
    """Without int8 dot products, x86 adds neighbouring products in 16 bits, which can saturate."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # matmuls in float: exact
    path = quantized.variant(3, "int8").path
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (batch,) = batches(quantized.tokenizer.encode(TEXTS), quantized.manifest.text)
    exact = session.run(None, batch.inputs())[0]
    for runtime in ("onnxrt", "openvino"):
        pytest.importorskip({"onnxrt": "onnxruntime"}.get(runtime, runtime))
        with open_runtime(runtime, quantized.variant(3, "int8", runtime)) as opened:
            assert cosine(opened.vectors(batch), exact).min() >= 0.9999, runtime


def test_no_two_neighbouring_weights_can_saturate(quantized: Bundle) -> None:
    model = onnx.load(quantized.variant(3, "int8").path)
    values = {value.name: onnx.numpy_helper.to_array(value) for value in model.graph.initializer}
    stored = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    matmuls = [
        stored[node.input[1]] for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in stored
    ]
    weights = [values[name].astype(int) for name in matmuls if name in values]
    assert len(weights) == 4 * 3  # query, key and value are one matmul
    for matrix in weights:
        sums = matrix[::2] + matrix[1::2]
        assert 100 < np.abs(sums).max() <= MAX_PAIR_SUM


def test_int8_weights_share_a_file_and_are_smaller(quantized: Bundle) -> None:
    assert len({entry.weights for entry in quantized.manifest.variants}) == 2
    stored = {
        precision: sum(
            onnx.helper.tensor_dtype_to_np_dtype(value.data_type).itemsize * int(np.prod(value.dims))
            for value in graph(quantized, 3, precision).graph.initializer
            if value.data_location == onnx.TensorProto.EXTERNAL
        )
        for precision in ("fp32", "int8")
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
        single = np.concatenate([encoder.encode([text]) for text in texts])
    assert ((together * single).sum(axis=1) > 0.999).all()


def test_onnx_runtime_opens_its_own_graph_and_other_runtimes_the_default_one(
    quantized: Bundle, copied_quantized: Path
) -> None:
    graphs = quantized.entry(2, "int8").graphs
    assert set(graphs) == {"default", "onnxrt"}
    assert set(quantized.entry(2, "fp32").graphs) == {"default"}
    with pytest.raises(SpecError, match="onnxruntime"):
        quantized.variant(2, "int8", "onnxruntime")
    for runtime, key in (("default", "default"), ("openvino", "default"), ("onnxrt", "onnxrt")):
        assert quantized.variant(2, "int8", runtime).path == quantized.root / graphs[key]
    opsets = {key: ir.load(quantized.root / path).opset_imports[""] for key, path in graphs.items()}
    assert opsets == {"default": 18, "onnxrt": 23}
    (copied_quantized / graphs["onnxrt"]).write_bytes(b"something else")
    damaged = Bundle.open(copied_quantized)
    damaged.variant(2, "int8", "openvino")
    with pytest.raises(IntegrityError, match=graphs["onnxrt"]):
        damaged.variant(2, "int8", "onnxrt")


@pytest.mark.slow
def test_each_graph_of_int8_must_pass_the_gate(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = []

    def worse_the_second_time(variant: Any, reference: Any) -> Any:
        judged.append(variant.path.name)
        parity, _ = check_int8(variant, reference)
        parity = replace(parity, cosine_min=0.5) if len(judged) == 2 else parity
        return parity, parity.failures(PRECISIONS[Precision.INT8].bounds)

    check_int8 = gate.check_int8
    monkeypatch.setattr(gate, "check_int8", worse_the_second_time)
    with pytest.raises(ParityError, match=r"layer 1, int8 for onnxrt: cosine .* 0\.5"):
        build(str(checkpoint), tmp_path / "out.m2d", layers=[1], precisions=["int8"])
    assert len(judged) == len(set(judged)) == 2
    assert not (tmp_path / "out.m2d").exists()


def test_the_packaged_texts_for_calibration_are_not_those_that_judge_it() -> None:
    assert len(calibration_texts()) > 100
    assert len(held_out_texts()) > 100
    assert not set(calibration_texts()) & set(held_out_texts())


def test_a_calibration_file_is_sampled_evenly(checkpoint: Path, tmp_path: Path) -> None:
    texts = tmp_path / "many.txt"
    texts.write_text("".join(f"text number {place}\n" for place in range(1000)))
    planned = plan(str(checkpoint), tmp_path / "out.m2d", precisions=["int8"], calibration=texts)
    assert planned.calibration is not None
    assert 200 <= len(planned.calibration.texts) <= 300
    assert planned.calibration.texts[-1] > "text number 9"


@pytest.mark.parametrize(
    ("precisions", "content", "error", "named"),
    [
        (["int8"], "", DataError, "at least 20"),
        (["int8"], None, DataError, "texts.txt"),
        (["int8"], b"\xff\xfe" * 40, DataError, "UTF-8"),
        (["fp32"], "a\n", SpecError, "calibration"),
        (["fp32", "half"], "a\n", SpecError, f"half.*{', '.join(Precision)}"),
    ],
    ids=["empty", "missing", "not text", "nothing to calibrate", "no such precision"],
)
def test_a_calibration_that_cannot_be_used_is_refused_before_any_work(
    checkpoint: Path,
    tmp_path: Path,
    precisions: list[str],
    content: str | bytes | None,
    error: type[Exception],
    named: str,
) -> None:
    file = tmp_path / "texts.txt"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(error, match=named):
        plan(str(checkpoint), tmp_path / "out.m2d", precisions=precisions, calibration=file)
    assert not (tmp_path / "out.m2d").exists()


def test_without_scipy_the_extra_is_named_before_any_work(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(RuntimeUnavailable, match=r"m2d-export\[bench\]"):
        plan(str(checkpoint), tmp_path / "out.m2d", precisions=["int8"])


def test_a_graph_that_cannot_be_run_for_calibration_is_one_line() -> None:
    model = parsed("""
        g (float[n, 2] x) => (float[n, 2] y)
        <float[3, 2] w = {1, 2, 3, 4, 5, 6}, float[2] b = {7, 8}>
        {
          a = Erf(x)
          c = MatMul(a, w)
          y = Add(c, b)
        }
    """)
    with pytest.raises(ExportError, match=r"^[^\n]+$"):
        int8_graphs(model, Precision.INT8, [{"x": np.ones((1, 2), np.float32)}])


@pytest.mark.slow
def test_an_int8_graph_that_fails_its_gate_is_not_published_and_every_failure_is_named(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded(monkeypatch, cosine_min=1.1, cosine_mean=1.2, agreement=101.0, invariance=-1.0, invariance_cosine=1.3)
    with pytest.raises(ParityError) as caught:
        build(str(checkpoint), tmp_path / "out.m2d", layers=[1], **calibrated(tmp_path))
    failures = [failure for failure in str(caught.value).split("; ") if "onnxrt" not in failure]
    named = (r"cosine .*1\.1$", r"mean cosine .*1\.2$", "agreement .*101$", "differ by .*-1e", r"have cosine .*1\.3$")
    assert len(failures) == len(named)
    for failure, pattern in zip(failures, named, strict=True):
        assert re.search(f"layer 1, int8: .*{pattern}", failure), failure
    assert not (tmp_path / "out.m2d").exists()


@pytest.fixture(scope="module")
def int8_only(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle in int8 only, of a checkpoint that leaves its prompt out of the pooling."""
    folder = tmp_path_factory.mktemp("int8-only")
    prompts = {"include_prompt": False, "prompts": {"query": "query: "}, "default_prompt_name": "query"}
    checkpoint = save_checkpoint(folder / "prompted", "bert", **prompts)
    return build(str(checkpoint), folder / "out.m2d", layers=[2], **calibrated(folder))


@pytest.mark.slow
def test_a_bundle_of_int8_only_names_int8_if_fp32_is_asked_for(int8_only: Bundle) -> None:
    with pytest.raises(SpecError, match="layer 2 in int8, not in fp32"):
        Encoder(int8_only, 2)
    with Encoder(int8_only, 2, precision="int8") as encoder:
        assert encoder.encode(TEXTS[:2]).shape == (2, 64)


@pytest.mark.slow
def test_a_graph_with_a_pooling_mask_is_quantized_too(int8_only: Bundle) -> None:
    assert [value.name for value in graph(int8_only, 2, "int8").graph.input] == list(INPUTS)


def test_the_manifest_names_the_calibration_only_if_there_is_int8(quantized: Bundle, bundle: Bundle) -> None:
    for built in (quantized, bundle):
        assert read_manifest(built.manifest.to_json()) == built.manifest
    assert bundle.manifest.calibration is None
    assert quantized.manifest.calibration == f"{len(WORDS)} texts of texts.txt"


def test_calibration_samples_are_single_texts_and_paragraphs_without_padding(checkpoint: Path) -> None:
    loaded = load_checkpoint(str(checkpoint))
    samples = calibration_samples(TEXTS[:9], Tokenizer(loaded.tokenizer_json, loaded.text))
    assert len(samples) == 9 + 2
    assert {array.shape[0] for inputs in samples for array in inputs.values()} == {1}
    assert all(inputs["attention_mask"].all() for inputs in samples)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["roberta", "mpnet", "electra", "albert", "modernbert", "deberta-v2"])
def test_other_encoders_are_quantized_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    # The bounds were fitted on trained weights, and these are random.
    bounded(monkeypatch, cosine_min=0.8, cosine_mean=0.9, agreement=50.0)
    folder = save_checkpoint(tmp_path / "checkpoint", kind)
    bundle = build(str(folder), tmp_path / "out.m2d", layers=[2], **calibrated(tmp_path))
    for runtime in ("onnxrt", "openvino"):
        with Encoder(bundle, 2, precision="int8", runtime=runtime) as encoder:
            assert np.isfinite(encoder.encode(TEXTS)).all()
