"""GPU runtimes: refused where there is no GPU, run by stand-ins, and run for real where there is one."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from m2d_export import Bundle, Encoder, build
from m2d_export.bench.metrics import candidates
from m2d_export.bench.records import groups
from m2d_export.bench.sweep import Matrix
from m2d_export.cli import cli
from m2d_export.errors import RuntimeUnavailable, SpecError
from m2d_export.host.gpu import Gpu, gpus
from m2d_export.report.choice import run_command
from m2d_export.report.summary import facts, machine_name
from m2d_export.runtimes.pytorch import PytorchRuntime
from m2d_export.runtimes.runtime import RuntimeOptions
from m2d_export.runtimes.table import RUNTIMES, open_runtime
from m2d_export.text.batches import pad
from m2d_export.vectors import cosine
from tests.runtimes.examples import BATCH, ROWS, SPEC
from tests.support import made_up

CARD = Gpu("Made-up RTX", "sm89")
ON_GPU = [name for name, row in RUNTIMES.items() if row.device == "gpu"]
TEXTS = ["a cat", "the man is playing a guitar on a stage", *("a dog on the mat " * count for count in range(1, 9))]


def precision_of(name: str) -> str:
    return str(RUNTIMES[name].precisions[0])


# Without a GPU


@pytest.mark.parametrize("name", ON_GPU)
def test_without_a_gpu_the_error_names_the_runtimes_that_need_none(
    name: str, halves: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2d_export.host.gpu.gpus", tuple)
    (tmp_path / "texts.txt").write_text("a cat\n")
    options = ["--runtime", name, "--precision", precision_of(name), "-o", str(tmp_path / "out.npy")]
    done = CliRunner().invoke(cli, ["encode", str(halves.root), str(tmp_path / "texts.txt"), *options])
    assert isinstance(done.exception, RuntimeUnavailable)
    for word in (name, "onnxrt, openvino, pytorch"):
        assert word in str(done.exception)
    assert not (tmp_path / "out.npy").exists()
    matrix = Matrix((1,), (64,), (1,), (8,), runtimes=(name,), precisions=(precision_of(name),))
    with pytest.raises(RuntimeUnavailable, match=name):
        matrix.checked(halves)


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("trt", "tensorrt", "trt"),
        ("trt-rtx", "tensorrt_rtx_bindings", "trt-rtx"),
        ("trt-rtx", "cuda.bindings.runtime", "trt-rtx"),
        ("onnxrt-cuda", "onnxruntime", "gpu"),
        ("onnxrt-trt", "onnxruntime", "gpu"),
        ("pytorch-cuda", "torch", "build"),
    ],
)
def test_a_missing_package_names_its_extra(
    name: str, module: str, extra: str, halves: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    if module == "cuda.bindings.runtime":
        pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed (extra: trt-rtx)")
    monkeypatch.setattr("m2d_export.host.gpu.gpus", lambda: (CARD,))
    monkeypatch.setitem(sys.modules, module, None)
    root = module.partition(".")[0]
    with pytest.raises(RuntimeUnavailable, match=rf"{root} .*pip install 'm2d-export\[{extra}\]'"):
        open_runtime(name, halves.variant(1, precision_of(name)))


@pytest.mark.parametrize(
    ("name", "precision", "compute", "message"),
    [
        ("trt-rtx", "int8", None, "trt-rtx.*int8.*fp32, fp16, bf16.*onnxrt, openvino"),
        ("onnxrt-trt", "fp32", None, "onnxrt-trt.*fp32.*fp16"),
        ("onnxrt-cuda", "fp16", "fp32", "onnxrt-cuda.*'fp32'.*fp16"),
        ("pytorch-cuda", "fp32", "int8", "pytorch-cuda.*'int8'.*fp32, fp16, bf16"),
    ],
)
def test_an_impossible_precision_or_compute_is_refused_before_the_gpu_is_looked_for(
    name: str, precision: str, compute: str | None, message: str, bundle: Bundle
) -> None:
    with pytest.raises(SpecError, match=message):
        open_runtime(name, replace(bundle.variant(1), precision=precision), compute=compute)


def test_a_matrix_uses_the_default_compute_of_each_runtime() -> None:
    matrix = Matrix((1,), (64,), (1,), (8,), ("onnxrt", "trt", "pytorch-cuda"), ("fp32", "fp16"))
    assert [(setup.runtime, setup.precision, setup.compute) for setup in matrix.setups] == [
        ("onnxrt", "fp32", "fp32"),
        ("trt", "fp32", "fp32"),
        ("pytorch-cuda", "fp32", "fp32"),
        ("onnxrt", "fp16", "fp32"),
        ("trt", "fp16", "fp16"),
        ("pytorch-cuda", "fp16", "fp32"),
    ]


def test_bench_looks_for_engines_before_it_measures(halves: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed (extra: trt-rtx)")
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed (extra: trt-rtx)")
    monkeypatch.setattr("m2d_export.host.gpu.gpus", lambda: (CARD,))
    matrix = Matrix((1, 2), (64,), (1,), (8,), runtimes=("trt-rtx",), precisions=("fp16",))
    with pytest.raises(SpecError, match=r"layer 1.*--precision fp16 --engine trt-rtx"):
        matrix.checked(halves)


def test_the_run_command_of_an_engine_names_its_runtime_and_precision() -> None:
    way = {"runtime": "trt", "precision": "fp16", "compute": "fp16"}
    (picked,) = candidates([made_up.score(6, 384) | way, made_up.latency(6, 1, 16) | way])
    command = run_command(picked, Path("my.m2d"), cores=2)
    assert "--runtime trt --precision fp16" in command
    assert "--compute" not in command


def test_results_of_two_cards_are_separate_groups_with_the_names_of_the_cards() -> None:
    cards = [{**made_up.MACHINE, "gpu": name} for name in ("Card A", "Card B")]
    found = groups([made_up.score(6, 384) | {"machine": machine} for machine in (made_up.MACHINE, *cards)])
    assert [machine_name(group).partition(") with ")[2] for group in found] == ["", "Card A", "Card B"]
    assert ("GPU", "Card B") in facts(found[2])


# PyTorch


@pytest.mark.parametrize(("compute", "least"), [("fp32", 0.9999999), ("fp16", 0.9999), ("bf16", 0.999)])
def test_pytorch_computes_in_the_type_that_was_asked_for(compute: str, least: float, bundle: Bundle) -> None:
    variant, options = bundle.variant(2), RuntimeOptions("pytorch", compute=compute)
    with PytorchRuntime(variant, RuntimeOptions("pytorch")) as reference, PytorchRuntime(variant, options) as runtime:
        expected, found = reference.vectors(BATCH), runtime.vectors(BATCH)
    assert found.dtype == np.float32
    assert (cosine(found, expected) > least).all()
    assert np.array_equal(found, expected) == (compute == "fp32")


def test_a_torch_without_cuda_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr("m2d_export.host.gpu.gpus", lambda: (CARD,))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeUnavailable, match=r"torch .* CUDA"):
        open_runtime("pytorch-cuda", bundle.variant(1))


# ONNX Runtime: sessions on the processor that report a provider of the GPU


class Binding:
    """A real binding that puts the outputs for the GPU on the processor."""

    def __init__(self, binding: Any) -> None:
        self.real = binding
        self.bind_ortvalue_input = binding.bind_ortvalue_input
        self.copy_outputs_to_cpu = binding.copy_outputs_to_cpu

    def bind_output(self, name: str, device: str, number: int) -> None:
        assert (device, number) == ("cuda", 0)
        self.real.bind_output(name, "cpu", 0)


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """ONNX Runtime with the providers of a GPU; ``lost`` are those that a session continues without."""
    import onnxruntime as ort

    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    here = SimpleNamespace(asked=[], lost=set(), shapes=[], preloaded=0)
    session, made = ort.InferenceSession, ort.OrtValue.ortvalue_from_numpy

    class Session:
        def __init__(self, path: str, options: Any, providers: list[tuple[str, dict[str, str]]]) -> None:
            here.asked.append(dict(providers))
            self.taken = [name for name in dict(providers) if name not in here.lost]
            self.real = session(path, options, providers=["CPUExecutionProvider"])
            self.get_inputs, self.get_outputs, self.run = (
                self.real.get_inputs,
                self.real.get_outputs,
                self.real.run,
            )

        def get_providers(self) -> list[str]:
            return [name for name in names if name in (*self.taken, "CPUExecutionProvider")]

        def io_binding(self) -> Binding:
            return Binding(self.real.io_binding())

        def run_with_iobinding(self, binding: Binding) -> None:
            self.real.run_with_iobinding(binding.real)

    def on_gpu(array: Any, device: str, number: int) -> Any:
        assert (device, number) == ("cuda", 0)
        here.shapes.append(array.shape)
        return made(array, "cpu", 0)

    monkeypatch.setattr("m2d_export.host.gpu.gpus", lambda: (CARD,))
    monkeypatch.setattr(ort, "get_available_providers", lambda: names)
    monkeypatch.setattr(ort, "preload_dlls", lambda: setattr(here, "preloaded", here.preloaded + 1))
    monkeypatch.setattr(ort, "InferenceSession", Session)
    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_numpy", staticmethod(on_gpu))
    return here


def test_the_cuda_provider_gives_the_vectors_of_the_cpu_provider(halves: Bundle, providers: SimpleNamespace) -> None:
    with Encoder(halves, 2, runtime="onnxrt") as encoder:
        expected = encoder.encode(TEXTS)
    with Encoder(halves, 2, runtime="onnxrt-cuda") as encoder:
        np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=2e-5)
        assert (encoder.runtime.name, encoder.runtime.provider) == ("onnxrt-cuda", "CUDAExecutionProvider")
        assert encoder.token_budget > 1024
    assert providers.asked[1:] == [{"CUDAExecutionProvider": {"device_id": "0", "use_tf32": "0"}}]
    assert providers.preloaded == 1
    with pytest.raises(SpecError, match="closed"):
        encoder.runtime.vectors(BATCH)


def test_the_tensorrt_provider_gets_profiles_and_batches_that_fit_them(
    halves: Bundle, providers: SimpleNamespace, tmp_path: Path
) -> None:
    variant = halves.variant(2, "fp16")
    batch = pad([ROWS[0]] * 200, SPEC, range(200))
    with open_runtime("onnxrt", variant) as runtime:
        expected = runtime.vectors(batch)
    with open_runtime("onnxrt-trt", variant, cache=tmp_path) as runtime:
        np.testing.assert_allclose(runtime.vectors(batch), expected, atol=1e-3)
        assert runtime.provider == "TensorrtExecutionProvider"
    assert set(providers.shapes) == {(128, 8), (80, 8)}
    asked = providers.asked[-1]
    assert list(asked) == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    assert asked["TensorrtExecutionProvider"] == {
        "device_id": "0",
        "trt_fp16_enable": "1",
        "trt_profile_min_shapes": "input_ids:1x1,attention_mask:1x1,input_ids:1x33,attention_mask:1x33",
        "trt_profile_opt_shapes": "input_ids:32x32,attention_mask:32x32,input_ids:32x48,attention_mask:32x48",
        "trt_profile_max_shapes": "input_ids:128x32,attention_mask:128x32,input_ids:128x48,attention_mask:128x48",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(tmp_path),
    }


@pytest.mark.parametrize(
    ("name", "lost"), [("onnxrt-cuda", "CUDAExecutionProvider"), ("onnxrt-trt", "TensorrtExecutionProvider")]
)
def test_a_session_that_continues_without_its_provider_is_refused(
    name: str, lost: str, halves: Bundle, providers: SimpleNamespace
) -> None:
    providers.lost = {lost}
    with pytest.raises(RuntimeUnavailable, match=f"{lost}.*CPUExecutionProvider"):
        open_runtime(name, halves.variant(1, "fp16"))


def test_an_onnxruntime_without_the_provider_names_the_extra_to_install(
    halves: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime as ort

    monkeypatch.setattr("m2d_export.host.gpu.gpus", lambda: (CARD,))
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(RuntimeUnavailable, match=r"CUDAExecutionProvider.*'m2d-export\[gpu\]'"):
        open_runtime("onnxrt-cuda", halves.variant(1))


def test_a_batch_that_cannot_be_run_is_one_error(halves: Bundle, providers: SimpleNamespace) -> None:
    bad = replace(BATCH, input_ids=BATCH.input_ids + 10**6)
    with (
        open_runtime("onnxrt-cuda", replace(halves.variant(1), text=None)) as runtime,
        pytest.raises(RuntimeUnavailable, match="batch") as caught,
    ):
        runtime.vectors(bad)
    assert "\n" not in str(caught.value)


# With a GPU


MIN_COSINE = {"fp32": 0.9999, "fp16": 0.999, "bf16": 0.99}  # cosine to the processor's fp32
ALL_ON_GPU = [
    (name, precision, compute)
    for name in ON_GPU
    for precision in RUNTIMES[name].precisions
    for compute in RUNTIMES[name].computes or (None,)
]


@pytest.mark.skipif(not gpus(), reason="no NVIDIA GPU here")
@pytest.mark.parametrize(("name", "precision", "compute"), ALL_ON_GPU)
def test_a_gpu_gives_the_vectors_of_the_processor(
    name: str, precision: str, compute: str | None, checkpoint: Path, tmp_path: Path
) -> None:
    kinds = [name] if name in ("trt", "trt-rtx") else []
    precisions = list(dict.fromkeys(["fp32", precision]))
    try:
        built = build(checkpoint, tmp_path / "out.m2d", precisions=precisions, engines=kinds)
        reference = Encoder(built, 2, runtime="pytorch")
        encoder = Encoder(built, 2, runtime=name, precision=precision, compute=compute)
    except RuntimeUnavailable as error:  # a library that is not installed, or a card that it does not support
        pytest.skip(f"{name} does not run here: {error}")
    with reference, encoder:
        for texts in (TEXTS[:1], TEXTS, TEXTS * 40):
            assert (cosine(encoder.encode(texts), reference.encode(texts)) > MIN_COSINE[compute or precision]).all()
