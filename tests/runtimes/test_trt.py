"""The runtime of TensorRT engines without a GPU: a stand-in of CUDA and TensorRT runs their graphs."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from m2d_export import Bundle, Encoder
from m2d_export.cli import cli
from m2d_export.engines.library import FLAGS
from m2d_export.errors import IntegrityError, OutputError, RuntimeUnavailable, SpecError
from m2d_export.host.gpu import Gpu
from m2d_export.runtimes import trt as trt_module
from m2d_export.runtimes.table import open_runtime
from m2d_export.spec import Engine, EngineKey, TextSpec, Variant
from m2d_export.text.batches import pad
from m2d_export.text.tokenizer import TokenIds
from tests.support.checkpoints import MAX_TOKENS, SHAPES, WIDTH

NEEDED = "cuda-bindings or TensorRT for RTX is not installed (extra: trt-rtx)"
stand_in = pytest.importorskip("tests.support.gpu_stand_in", reason=NEEDED)
rtx, real, installed = stand_in.rtx, stand_in.real, stand_in.installed
CARD = Gpu("Made-up RTX", "sm89")
SPEC = TextSpec(max_tokens=MAX_TOKENS, pad_id=1)
TEXTS = ["a", "the cat is on the mat", "", *("a man is playing a guitar on a stage " * count for count in range(1, 9))]
FAILED = real.cudaError_t.cudaErrorMemoryAllocation
LENGTHS = [1, 3, 8, 9, 16, 17, 31, 48]


def batch_of(rows: int, tokens: int) -> Any:
    return pad([TokenIds([3, *range(40, 38 + tokens), 4][:tokens]) for _ in range(rows)], SPEC, range(rows))


def cache_of(bundle: Bundle) -> Path:
    return bundle.root.parent / f".m2d-cache-{bundle.root.name}"


@pytest.fixture
def rtx_here(monkeypatch: pytest.MonkeyPatch, engined: Bundle) -> SimpleNamespace:
    """A made-up card, and a stand-in of TensorRT for RTX that runs the engines of ``engined``."""
    here = installed(monkeypatch, cards=(CARD,))
    for entry in engined.manifest.engines:
        graph = engined.variant(entry.layer, entry.precision).path
        here.library.graphs[engined.manifest.files[entry.path].sha256] = graph, SHAPES
    return here


@pytest.fixture
def copied(engined: Bundle, tmp_path: Path) -> Bundle:
    """A copy of ``engined`` without a cache next to it."""
    return Bundle.open(shutil.copytree(engined.root, tmp_path / "copy.m2d"))


def with_engine(here: SimpleNamespace, variant: Variant, kind: str, path: Path) -> Variant:
    """``variant`` with an engine at ``path`` that the stand-in runs."""
    path.write_bytes(f"a made-up plan of {variant.path}".encode())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    key = EngineKey(kind, here.library.__version__, *variant.sha256, SHAPES, (CARD.capability,), CARD.name, FLAGS)
    here.library.graphs[sha256] = variant.path, SHAPES
    return replace(variant, engines=(Engine(path, sha256, key, path.parent / "cache"),))


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch, engined: Bundle, tmp_path: Path) -> tuple[SimpleNamespace, Variant]:
    """A made-up card with a stand-in of TensorRT, and a variant with an engine for it."""
    here = installed(monkeypatch, full=True, cards=(CARD,))
    return here, with_engine(here, engined.variant(2, "fp16"), "trt", tmp_path / "some.engine")


# The stand-in


def test_the_stand_in_has_only_what_the_real_modules_have(
    full: tuple[SimpleNamespace, Variant], copied: Bundle
) -> None:
    here, variant = full
    for module, name in ((here.cuda, "cudaMallocAnything"), (here.library, "BuilderFlags")):
        with pytest.raises(AttributeError):
            getattr(module, name)
    for name in ("CudaGraphStrategy", "DynamicShapesKernelSpecializationStrategy"):  # only RTX has them
        with pytest.raises(AttributeError):
            getattr(here.library, name)
    with pytest.raises(TypeError):
        here.cuda.cudaMalloc(1, 2)
    engine = here.library.Runtime(None).deserialize_cuda_engine(variant.engines[0].path.read_bytes())
    with pytest.raises(AttributeError):
        engine.get_binding_shape(0)  # removed in TensorRT 10
    with pytest.raises(AttributeError):
        here.library.Runtime(None).get_engine_validity(b"")  # not in every version that is taken
    context = engine.create_execution_context(rtx.ExecutionContextAllocationStrategy.USER_MANAGED)
    with pytest.raises(AttributeError):
        context.execute_async_v2([], 1)


# Vectors


def test_the_encode_command_writes_the_same_vectors_with_rtx_as_with_onnx_runtime(
    copied: Bundle, rtx_here: SimpleNamespace, tmp_path: Path
) -> None:
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    for runtime in ("onnxrt", "trt-rtx"):
        options = ["--cell", "2x32", "--runtime", runtime, "-o", str(tmp_path / f"{runtime}.npy")]
        done = CliRunner().invoke(cli, ["encode", str(copied.root), str(tmp_path / "texts.txt"), *options])
        assert done.exit_code == 0, done.output
    expected, found = (np.load(tmp_path / f"{runtime}.npy") for runtime in ("onnxrt", "trt-rtx"))
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert rtx_here.cuda.live == {}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("layer", [1, 2])
def test_rtx_gives_the_vectors_of_onnx_runtime_for_few_and_many_texts(
    precision: str, layer: int, copied: Bundle, rtx_here: SimpleNamespace
) -> None:
    with Encoder(copied, layer, runtime="onnxrt", precision=precision) as encoder:
        expected = encoder.encode(TEXTS)
    with Encoder(copied, layer, runtime="trt-rtx", precision=precision) as encoder:
        for budget in (MAX_TOKENS, 200, encoder.token_budget):  # batches of few and of many texts
            encoder.token_budget = budget
            np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=2e-3 if precision == "fp16" else 2e-5)
        assert (encoder.runtime.name, encoder.runtime.provider) == ("trt-rtx", "Made-up RTX")
        assert {context.profile for context in rtx_here.library.contexts} == {0, 1}
    assert rtx_here.cuda.live == {}
    assert rtx_here.cuda.called["cudaMalloc"] == rtx_here.cuda.called["cudaFree"] == 3
    assert not rtx_here.cuda.called["cudaStreamBeginCapture"]  # RTX captures graphs itself
    (config,) = rtx_here.library.configs
    assert config.cuda_graph_strategy == rtx.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    assert config.dynamic_shapes_kernel_specialization_strategy == rtx.DynamicShapesKernelSpecializationStrategy.EAGER


def test_tensorrt_captures_each_shape_once(full: tuple[SimpleNamespace, Variant], engined: Bundle) -> None:
    here, variant = full
    batches = [batch_of(rows, tokens) for rows in (1, 2, 3, 4, 7, 9) for tokens in LENGTHS]
    with open_runtime("onnxrt", variant) as runtime:
        expected = [runtime.vectors(batch) for batch in batches]
    with open_runtime("trt", variant) as runtime:
        for _ in range(2):
            for batch, vectors in zip(batches, expected, strict=True):
                np.testing.assert_allclose(runtime.vectors(batch), vectors, atol=2e-3)
        # 1 to 4 texts, the most that a profile holds, of 8, 16, 24, 32 and 48 tokens
        assert here.cuda.called["cudaStreamBeginCapture"] == 4 * 5
        assert here.cuda.called["cudaGraphLaunch"] > 60
        assert {context.memory for context in here.library.contexts} == {"shared"}
    assert here.cuda.live == {}


def test_the_shape_unused_for_longest_gives_way_to_a_new_one(
    full: tuple[SimpleNamespace, Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, variant = full
    monkeypatch.setattr(trt_module, "MAX_GRAPHS", 2)
    with open_runtime("trt", variant) as runtime:
        for rows in (1, 2, 1, 3, 1, 2):  # 3 replaces 2, which is then captured again
            runtime.vectors(batch_of(rows, 8))
        assert here.cuda.called["cudaStreamBeginCapture"] == 4
        assert here.cuda.called["cudaGraphExecDestroy"] == 2
    assert here.cuda.live == {}


def test_an_engine_takes_the_pooling_mask_of_prompts_that_are_not_pooled(
    prompted: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = installed(monkeypatch, full=True, cards=(CARD,))
    variant = with_engine(here, prompted.variant(1), "trt", tmp_path / "some.engine")
    spec = replace(SPEC, include_prompt=False)
    batch = pad([TokenIds([3, 40, 41, 42, 4], prompt_length=2), TokenIds([3, 43, 4], prompt_length=1)], spec, range(2))
    with open_runtime("onnxrt", variant) as runtime, open_runtime("trt", variant) as engine:
        np.testing.assert_allclose(engine.vectors(batch), runtime.vectors(batch), atol=2e-5)


# What is refused


def test_an_engine_for_another_library_card_or_file_is_not_run(copied: Bundle, rtx_here: SimpleNamespace) -> None:
    variant = copied.variant(1, "fp16")
    (engine,) = variant.engines
    for changes, said in (
        ({"version": "1.6.0"}, f"1.6.0.*{rtx.__version__}"),
        ({"flags": ("strongly-typed",)}, "flags strongly-typed"),
        ({"gpu": "A100"}, "A100.*Made-up RTX"),
        ({"targets": ("sm120",)}, "sm120.*sm89"),
    ):
        other = replace(variant, engines=(replace(engine, key=replace(engine.key, **changes)),))
        with pytest.raises(RuntimeUnavailable, match=said):
            open_runtime("trt-rtx", other)
    whole = engine.path.read_bytes()
    for damaged in (whole[:-1], b"another file"):
        engine.path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=engine.path.name):
            open_runtime("trt-rtx", variant)
    assert rtx_here.library.deserialized == []
    assert not rtx_here.cuda.called


def test_a_missing_engine_is_an_error_that_says_how_to_build_it(engined: Bundle, rtx_here: SimpleNamespace) -> None:
    with pytest.raises(SpecError, match=r"layer 1.*--precision fp32 --engine trt-rtx"):
        open_runtime("trt-rtx", replace(engined.variant(1), engines=()))


@pytest.mark.parametrize(("reasons", "why"), [(2, "UNSUPPORTED_CC"), (5, "VERSION_MISMATCH, OLD_CUDA_DRIVER")])
def test_an_engine_that_the_library_reports_as_invalid_is_not_loaded(
    copied: Bundle, rtx_here: SimpleNamespace, reasons: int, why: str
) -> None:
    rtx_here.library.validity, rtx_here.library.reasons = rtx.EngineValidity.INVALID, reasons
    with pytest.raises(RuntimeUnavailable, match=rf"fp32\.trt-rtx\.engine.*Made-up RTX.*{why}"):
        open_runtime("trt-rtx", copied.variant(1))
    assert rtx_here.library.deserialized == []
    assert rtx_here.cuda.live == {}


def test_an_engine_that_the_library_reports_as_slow_here_is_a_warning(
    copied: Bundle, rtx_here: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    rtx_here.library.validity = rtx.EngineValidity.SUBOPTIMAL
    open_runtime("trt-rtx", copied.variant(1)).close()
    (warning,) = [record.getMessage() for record in caplog.records if record.name == trt_module.__name__]
    assert "fp32.trt-rtx.engine" in warning


def test_an_engine_that_cannot_be_loaded_gives_the_library_s_reason(copied: Bundle, rtx_here: SimpleNamespace) -> None:
    rtx_here.library.graphs.clear()
    with pytest.raises(RuntimeUnavailable, match=r"engine.*made-up reason in two lines"):
        open_runtime("trt-rtx", copied.variant(1))
    assert rtx_here.cuda.live == {}


@pytest.mark.parametrize(
    "name", ["cudaStreamCreateWithFlags", "cudaMalloc", "cudaMallocHost", "cudaMemcpyAsync", "cudaStreamSynchronize"]
)
def test_a_failed_call_of_cuda_is_an_error_and_everything_is_freed(
    name: str, copied: Bundle, rtx_here: SimpleNamespace
) -> None:
    rtx_here.cuda.fails = {name: FAILED}
    with (
        pytest.raises(RuntimeUnavailable, match=rf"{name}.*out of memory.*cudaErrorMemoryAllocation"),
        open_runtime("trt-rtx", copied.variant(1)) as runtime,
    ):
        runtime.vectors(batch_of(1, 8))
    assert rtx_here.cuda.live == {}


@pytest.mark.parametrize(
    "name", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphLaunch"]
)
def test_a_failed_call_of_a_capture_is_an_error(name: str, full: tuple[SimpleNamespace, Variant]) -> None:
    here, variant = full
    here.cuda.fails = {name: FAILED}
    with open_runtime("trt", variant) as runtime, pytest.raises(RuntimeUnavailable, match=name):
        list(runtime.each([batch_of(1, 8)] * 2))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("set_optimization_profile_async", "profile 0"),
        ("set_tensor_address", "memory of input_ids"),
        ("set_input_shape", r"shape \(1, 8\) of input_ids"),
        ("execute_async_v3", "a batch"),
    ],
)
@pytest.mark.parametrize("kind", ["trt", "trt-rtx"])
def test_a_refusal_of_an_execution_context_is_an_error(
    kind: str, name: str, said: str, request: pytest.FixtureRequest, copied: Bundle
) -> None:
    if kind == "trt":
        here, variant = request.getfixturevalue("full")
    else:
        here, variant = request.getfixturevalue("rtx_here"), copied.variant(1)
    here.library.refuses = {name}
    with (
        open_runtime(kind, variant) as runtime,
        pytest.raises(RuntimeUnavailable, match=f"{kind}.*{said}"),
    ):
        runtime.vectors(batch_of(1, 8))
    assert here.cuda.live == {}


def test_vectors_of_a_width_that_is_not_the_manifests_are_refused(copied: Bundle, rtx_here: SimpleNamespace) -> None:
    with (
        open_runtime("trt-rtx", replace(copied.variant(1), width=WIDTH - 1)) as runtime,
        pytest.raises(RuntimeUnavailable, match=r"\(1, 64\).*\(1, 63\)"),
    ):
        runtime.vectors(batch_of(1, 8))


# The code that RTX compiles on a card


def test_an_engine_of_another_precision_is_refused_and_freed(copied: Bundle, rtx_here: SimpleNamespace) -> None:
    rtx_here.library.information = (
        '{"Layers": [{"Name": "all", "Outputs": [{"Name": "x", "Format/Datatype": "BF16"}]}]}'
    )
    with pytest.raises(RuntimeUnavailable, match=r"fp16\.trt-rtx\.engine.*bf16"):
        open_runtime("trt-rtx", copied.variant(1, "fp16"))
    assert rtx_here.cuda.live == {}


def test_compiled_code_is_cached_next_to_the_bundle_and_found_again(copied: Bundle, rtx_here: SimpleNamespace) -> None:
    before = {path: path.read_bytes() for path in copied.root.rglob("*") if path.is_file()}
    for compiled, found in ((b"kernels", b""), (b"kernels", b"kernels"), (b"more kernels", b"kernels")):
        rtx_here.library.compiled = b""
        with open_runtime("trt-rtx", copied.variant(1)):
            assert rtx_here.library.compiled == found
            rtx_here.library.compiled = compiled
    (cached,) = cache_of(copied).iterdir()
    assert cached.read_bytes().endswith(b"more kernels")
    assert cache_of(copied).stat().st_mode & 0o777 == 0o700
    assert {path: path.read_bytes() for path in copied.root.rglob("*") if path.is_file()} == before


def test_cached_code_of_another_driver_is_replaced(copied: Bundle, rtx_here: SimpleNamespace) -> None:
    rtx_here.library.takes_kept = False
    for compiled in (b"old", b"new"):
        rtx_here.library.compiled = b""
        with open_runtime("trt-rtx", copied.variant(1)):
            assert rtx_here.library.compiled == b""
            rtx_here.library.compiled = compiled
    (cached,) = cache_of(copied).iterdir()
    assert cached.read_bytes().endswith(b"new")


def test_a_cache_that_other_users_can_write_to_is_not_used(copied: Bundle, rtx_here: SimpleNamespace) -> None:
    cache_of(copied).mkdir(mode=0o777)
    cache_of(copied).chmod(0o777)
    with open_runtime("trt-rtx", copied.variant(1)):
        rtx_here.library.compiled = b"kernels"
    assert not list(cache_of(copied).iterdir())


def test_a_cache_that_the_user_names_is_used_and_must_be_writable(
    copied: Bundle, rtx_here: SimpleNamespace, tmp_path: Path
) -> None:
    with Encoder(copied, 1, runtime="trt-rtx", cache=tmp_path / "mine"):
        rtx_here.library.compiled = b"kernels"
    assert len(list((tmp_path / "mine").iterdir())) == 1
    assert not cache_of(copied).exists()
    (tmp_path / "file").write_text("in the way")
    encoder = Encoder(copied, 1, runtime="trt-rtx", cache=tmp_path / "file")
    rtx_here.library.compiled = b"others"
    with pytest.raises(OutputError, match=str(tmp_path / "file")):
        encoder.close()
    assert rtx_here.cuda.live == {}


def test_a_default_cache_that_cannot_be_written_is_no_error(
    copied: Bundle, rtx_here: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(path: Path, code: bytes) -> None:
        raise OutputError("no room left")

    monkeypatch.setattr(trt_module, "store", full_disk)
    with open_runtime("trt-rtx", copied.variant(1)):
        rtx_here.library.compiled = b"kernels"
    assert rtx_here.cuda.live == {}


# Closing


def test_a_closed_engine_refuses_batches(copied: Bundle, rtx_here: SimpleNamespace) -> None:
    runtime = open_runtime("trt-rtx", copied.variant(1))
    runtime.close()
    runtime.close()
    with pytest.raises(SpecError, match="closed"):
        runtime.vectors(batch_of(1, 8))
