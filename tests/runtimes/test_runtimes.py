"""The contract of every runtime: vectors of a batch, a provider, an end; and what they refuse."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from m2d_export import Bundle
from m2d_export.errors import M2DError, RuntimeUnavailable, SpecError
from m2d_export.runtimes import Runtime, RuntimeOptions, open_runtime
from m2d_export.runtimes.fake import FakeRuntime
from m2d_export.runtimes.onnxrt import OnnxRuntime
from m2d_export.runtimes.table import RUNTIMES
from m2d_export.spec import TextSpec
from m2d_export.text.batches import TokenIds, pad
from m2d_export.vectors import cosine
from tests.conftest import WIDTH

SPEC = TextSpec(max_tokens=48, pad_id=1)
ROWS = [TokenIds([3, 40, 41, 4]), TokenIds([3, 42, 4]), TokenIds([3, 43, 44, 45, 46, 4])]
ON_CPU = [name for name, row in RUNTIMES.items() if row.device == "cpu"]
NAMES = [*ON_CPU, "fake"]
PROVIDERS = {"onnxrt": "CPUExecutionProvider", "openvino": "CPU", "pytorch": "cpu", "fake": "fake"}


def opened(name: str, bundle: Bundle) -> Runtime:
    return FakeRuntime(WIDTH) if name == "fake" else open_runtime(name, bundle.variant(2))


@pytest.mark.parametrize("name", NAMES)
def test_a_runtime_gives_float32_vectors_and_names_itself(name: str, bundle: Bundle) -> None:
    with opened(name, bundle) as runtime:
        vectors = runtime.vectors(pad(ROWS, SPEC, range(3)))
        assert vectors.shape == (3, WIDTH)
        assert vectors.dtype == np.float32
        assert np.isfinite(vectors).all()
        assert runtime.name == name
        assert runtime.provider == PROVIDERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_neighbours_places_and_padding_do_not_change_a_vector(name: str, bundle: Bundle) -> None:
    with opened(name, bundle) as runtime:
        alone = np.concatenate([runtime.vectors(pad([row], SPEC, [0])) for row in ROWS])
        together = runtime.vectors(pad(ROWS, SPEC, range(3), length=20))
        reversed_ = runtime.vectors(pad(ROWS[::-1], SPEC, range(3)))[::-1]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(reversed_, alone, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_not_normalised(name: str, bundle: Bundle) -> None:
    with opened(name, bundle) as runtime:
        lengths = np.linalg.norm(runtime.vectors(pad(ROWS, SPEC, range(3))), axis=1)
    assert (np.abs(lengths - 1) > 0.05).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_closed_runtime_refuses_to_go_on(name: str, bundle: Bundle) -> None:
    with opened(name, bundle) as runtime:
        pass
    runtime.close()
    with pytest.raises(SpecError, match="this runtime is closed"):
        runtime.vectors(pad(ROWS, SPEC, range(3)))


@pytest.mark.parametrize("name", ["onnxrt", "openvino"])
def test_graphs_agree_with_pytorch(name: str, bundle: Bundle) -> None:
    batch = pad(ROWS, SPEC, range(3))
    with opened(name, bundle) as graph, opened("pytorch", bundle) as reference:
        np.testing.assert_allclose(graph.vectors(batch), reference.vectors(batch), atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [0, 1, 20])
def test_each_batch_comes_back_with_its_own_vectors(name: str, count: int, bundle: Bundle) -> None:
    batches = [pad([ROWS[place % 3]] * (1 + place), SPEC, [place]) for place in range(count)]
    with opened(name, bundle) as runtime:
        found = list(runtime.each(iter(batches)))
        assert sorted(batch.rows[0] for batch, _ in found) == list(range(count))
        for batch, vectors in found:
            np.testing.assert_allclose(vectors, runtime.vectors(batch), atol=1e-5)


@pytest.mark.parametrize(("name", "precision"), [("onnxrt", "fp16"), ("openvino", "fp16"), ("openvino", "bf16")])
def test_half_graphs_run_in_every_runtime_that_says_so(name: str, precision: str, halves: Bundle) -> None:
    batch = pad(ROWS, SPEC, range(3))
    with open_runtime(name, halves.variant(2, precision)) as half, open_runtime(name, halves.variant(2)) as fp32:
        found, expected = half.vectors(batch), fp32.vectors(batch)
    assert found.dtype == np.float32
    assert (cosine(found, expected) > (0.9999 if precision == "fp16" else 0.998)).all()
    assert not np.array_equal(found, expected)


def test_bf16_of_a_runtime_that_cannot_names_the_one_that_can(halves: Bundle) -> None:
    with pytest.raises(
        SpecError, match="onnxrt does not run bf16: it runs fp32, fp16, int8; openvino, trt, trt-rtx can"
    ):
        open_runtime("onnxrt", halves.variant(1, "bf16"))


@pytest.mark.parametrize("name", ["onnxrt", "openvino"])
def test_int8_graphs_run_in_every_runtime_that_says_so(name: str, quantized: Bundle) -> None:
    batch = pad(ROWS, SPEC, range(3))
    with (
        open_runtime(name, quantized.variant(2, "int8", name)) as int8,
        open_runtime(name, quantized.variant(2)) as fp32,
    ):
        expected = fp32.vectors(batch)
        found = int8.vectors(batch)
        assert (cosine(found, expected) > 0.995).all()
        assert not np.allclose(found, expected, atol=1e-6)
        alone = np.concatenate([int8.vectors(pad([row], SPEC, [0])) for row in ROWS])
    np.testing.assert_allclose(alone, found, atol=1e-3)


def test_int8_of_a_runtime_that_cannot_names_those_that_can(quantized: Bundle) -> None:
    with pytest.raises(SpecError, match="pytorch does not run int8: it runs fp32; onnxrt, openvino can"):
        open_runtime("pytorch", quantized.variant(1, "int8"))


def test_a_compute_that_a_runtime_does_not_have_is_refused(bundle: Bundle) -> None:
    with pytest.raises(SpecError, match="onnxrt does not compute in 'bf16': it computes in fp32"):
        open_runtime("onnxrt", bundle.variant(1), compute="bf16")


@pytest.mark.parametrize(("compute", "hint"), [("fp32", "f32"), ("bf16", "bf16")])
def test_openvino_computes_in_what_was_asked_for_or_not_at_all(compute: str, hint: str, bundle: Bundle) -> None:
    import openvino as ov

    can = compute == "fp32" or "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if not can:
        with pytest.raises(RuntimeUnavailable, match="this processor does not compute in bf16"):
            open_runtime("openvino", bundle.variant(1), compute=compute)
        return
    with open_runtime("openvino", bundle.variant(1), compute=compute) as runtime:
        assert runtime.vectors(pad(ROWS, SPEC, range(3))).shape == (3, WIDTH)


def test_what_openvino_took_is_read_back(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino as ov

    class Elsewhere:
        def get_property(self, name: str) -> ov.Type:
            return ov.Type.bf16

    monkeypatch.setattr(ov.Core, "compile_model", lambda *arguments: Elsewhere())
    with pytest.raises(RuntimeUnavailable, match="asked for f32, OpenVINO computes in bf16"):
        open_runtime("openvino", bundle.variant(1))


INTERRUPTED = """
import faulthandler, gc, signal, sys
from m2d_export import Bundle, Encoder
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs have it ignored
faulthandler.enable()  # as pytest and servers do: signals get a stack of their own
encoders = [Encoder(Bundle.open(sys.argv[1]), 1, runtime="openvino") for _ in range(2)]
while encoders:
    encoders.pop(0).close()
    gc.collect()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_after_two_openvino_encoders_is_ctrl_c(bundle: Bundle) -> None:
    """The cores of both, freed in the order of their making, left the thread a freed stack for its signals."""
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED, bundle.root], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "interrupted\n"), ended.stderr


def test_a_batch_that_openvino_cannot_run_is_one_error_of_ours(bundle: Bundle) -> None:
    good = pad(ROWS, SPEC, range(3))
    bad = replace(good, attention_mask=good.attention_mask[:, :2])
    with opened("openvino", bundle) as runtime:
        expected = runtime.vectors(good)
        for run in (runtime.vectors, lambda batch: list(runtime.each([good, batch] * 10))):
            with pytest.raises(RuntimeUnavailable, match="OpenVINO cannot run this batch: ") as caught:
                run(bad)
            assert "\n" not in str(caught.value)
        for _, vectors in [(good, runtime.vectors(good)), *runtime.each([good] * 20)]:  # it goes on with the next ones
            np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_openvino_streams_where_there_are_many_batches_and_takes_all_threads_for_few(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openvino as ov

    hints: list[str] = []
    compiled = ov.Core.compile_model

    def spy(core: ov.Core, model: Any, device: str, settings: dict[str, Any]) -> Any:
        hints.append(settings["PERFORMANCE_HINT"])
        return compiled(core, model, device, settings)

    monkeypatch.setattr(ov.Core, "compile_model", spy)
    batch = pad(ROWS, SPEC, range(3))
    with opened("openvino", bundle) as runtime:
        few = list(runtime.each([batch] * 3))
        assert hints == ["LATENCY"]
        many = list(runtime.each([batch] * 20))
        np.testing.assert_allclose([vectors for _, vectors in many], [few[0][1]] * 20, atol=1e-5)
        list(runtime.each([batch] * 20))
        assert hints == ["LATENCY", "THROUGHPUT"]
        monkeypatch.setattr(runtime, "_many", None)  # what few batches must not need
        list(runtime.each([batch] * 3))
        assert hints == ["LATENCY", "THROUGHPUT"]


@pytest.mark.parametrize(
    ("short", "long", "modes"), [(20, 0, [False]), (0, 20, [True]), (20, 20, [True, False]), (3, 20, [True])]
)
def test_openvino_takes_long_texts_in_streams_of_their_own_where_there_are_many(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, short: int, long: int, modes: list[bool]
) -> None:
    monkeypatch.setattr("m2d_export.runtimes.openvino.WHOLE", 6)
    batches = [pad(ROWS, SPEC, range(3), 7 if place < long else 0) for place in range(short + long)]
    import openvino as ov

    modes_told: list[str | None] = []
    compiled = ov.Core.compile_model

    def spy(core: ov.Core, model: Any, device: str, settings: dict[str, Any]) -> Any:
        modes_told.append(settings.get("SNIPPETS_MODE"))
        return compiled(core, model, device, settings)

    monkeypatch.setattr(ov.Core, "compile_model", spy)
    with opened("openvino", bundle) as runtime:
        expected = runtime.vectors(batches[0])
        found = list(runtime.each(batches))
        assert {id(batch) for batch, _ in found} == {id(batch) for batch in batches}
        for _, vectors in found:
            np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert modes_told == [None, *(None if long_ones else "DISABLE" for long_ones in modes)]


@pytest.mark.parametrize("name", ["onnxrt", "openvino"])
def test_threads_may_share_a_runtime(name: str, bundle: Bundle) -> None:
    batches = [pad([ROWS[place % 3]] * 4, SPEC, range(4)) for place in range(40)]
    with opened(name, bundle) as runtime, ThreadPoolExecutor(4) as pool:
        expected = [runtime.vectors(batch) for batch in batches]
        for found, own in zip(pool.map(runtime.vectors, batches), expected, strict=True):
            np.testing.assert_allclose(found, own, atol=1e-5)


@pytest.mark.parametrize("name", ["", "onnx", "ONNXRT", "fake", "../onnxrt"])
def test_an_unknown_runtime_is_refused_with_the_known_ones(name: str, bundle: Bundle) -> None:
    with pytest.raises(SpecError, match="there are onnxrt, openvino, pytorch"):
        open_runtime(name, bundle.variant(1))


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize("threads", [0, -1, 1.0, "2", True])
def test_a_count_of_threads_that_is_none_is_refused(name: str, threads: Any, bundle: Bundle) -> None:
    with pytest.raises(SpecError, match="threads must be a whole number from 1"):
        open_runtime(name, bundle.variant(1), threads)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("onnxrt", "onnxruntime", "cpu"), ("openvino", "openvino", "openvino"), ("pytorch", "torch", "build")],
)
def test_a_missing_package_is_named_with_its_extra(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, name: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RuntimeUnavailable, match=rf"{package} is not installed.*'m2d-export\[{extra}\]'"):
        open_runtime(name, bundle.variant(1))


def test_a_package_that_is_there_but_broken_is_told_apart(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "onnxruntime.py").write_text("import libcudart_of_another_year\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime")
    message = r"onnxruntime cannot be imported \(No module named 'libcudart_of_another_year'\)"
    with pytest.raises(RuntimeUnavailable, match=message):
        open_runtime("onnxrt", bundle.variant(1))


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x08" * 1000], ids=["empty", "text", "bytes"])
def test_a_graph_that_cannot_be_loaded_is_one_error_of_ours(bundle: Bundle, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(RuntimeUnavailable, match=r"ONNX Runtime cannot load .*bad\.onnx: ") as caught:
        OnnxRuntime(replace(bundle.variant(1), path=tmp_path / "bad.onnx"), RuntimeOptions("onnxrt"))
    assert "\n" not in str(caught.value)


def test_another_provider_than_the_one_asked_for_is_an_error(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime as ort

    class Elsewhere:
        def __init__(self, *arguments: object, **options: object) -> None: ...

        def get_providers(self) -> list[str]:
            return ["AzureExecutionProvider", "CPUExecutionProvider"]

    fallen_back = SimpleNamespace(InferenceSession=Elsewhere, SessionOptions=ort.SessionOptions)
    monkeypatch.setitem(sys.modules, "onnxruntime", fallen_back)
    with pytest.raises(RuntimeUnavailable, match=r"asked for CPUExecutionProvider, ONNX Runtime took \['Azure"):
        OnnxRuntime(bundle.variant(1), RuntimeOptions("onnxrt"))


def test_every_error_of_a_runtime_is_one_of_ours() -> None:
    assert issubclass(RuntimeUnavailable, M2DError)
    assert RuntimeUnavailable.exit_code == 2


def test_a_fake_runtime_leaves_unpooled_tokens_out() -> None:
    spec = replace(SPEC, include_prompt=False)
    with FakeRuntime() as runtime:
        one, other = (
            runtime.vectors(pad([TokenIds([3, prompt, 40, 4], prompt_length=2)], spec, [0])) for prompt in (7, 8)
        )
        np.testing.assert_array_equal(one, other)
        pooled = runtime.vectors(pad([TokenIds([3, 8, 40, 4])], SPEC, [0]))
    assert np.abs(pooled - other).max() > 0.1
