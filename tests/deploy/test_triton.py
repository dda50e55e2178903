"""``m2d-export triton``: cells as a model repository."""

import json
import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from m2d_export import Bundle, Cell, Encoder
from m2d_export.deploy.triton import BACKENDS, PYTHON_RUNTIMES
from m2d_export.deploy.triton.repository import Service, write_repository
from m2d_export.errors import OutputError, SpecError
from m2d_export.runtimes.table import RUNTIMES
from m2d_export.spec import INPUTS
from m2d_export.text.batches import ATTENTION_BUDGET
from tests.support.tritonserver import CELLS, TEXTS

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden" / "triton"


def config_of(repository: Path, name: str) -> Any:
    """A model's configuration, parsed with the server's own protobuf."""
    grpc = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed (extra: dev)")
    from google.protobuf import text_format

    return text_format.Parse((repository / name / "config.pbtxt").read_text(), grpc.model_config_pb2.ModelConfig())


def files_of(repository: Path) -> set[str]:
    assert not [path for path in repository.rglob("*") if path.is_symlink()]
    return {path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()}


def test_a_repository_holds_a_model_for_each_cell_and_a_checksum_of_each_file(bundle: Bundle, tmp_path: Path) -> None:
    names = write_repository(bundle, [*CELLS, CELLS[0]], tmp_path / "models")
    assert names == {"embedding_1x32": CELLS[0], "embedding_3x64": CELLS[1]}
    version = {"1/model.onnx", "1/model.py", "1/settings.json", "1/tokenizer.json", "config.pbtxt"}
    own = {f"{name}/{file}" for name in names for file in version}
    assert files_of(tmp_path / "models") == own | {"README.md", "Dockerfile", "SHA256SUMS"}
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "models", capture_output=True, text=True)
    assert (done.returncode, done.stdout.count(": OK")) == (0, len(own) + 2)
    assert "$" not in (tmp_path / "models" / "embedding_1x32" / "config.pbtxt").read_text()
    image = (tmp_path / "models" / "Dockerfile").read_text()
    assert all(f"{package}=={metadata.version(package)}" in image for package in ("tokenizers", "onnxruntime"))


def test_the_text_model_merges_requests_and_limits_its_queue(bundle: Bundle, tmp_path: Path) -> None:
    write_repository(bundle, CELLS, tmp_path / "models", service=Service(max_batch_size=16))
    config = config_of(tmp_path / "models", "embedding_3x64")
    assert (config.name, config.backend, config.max_batch_size) == ("embedding_3x64", "python", 16)
    assert [(value.name, list(value.dims)) for value in config.input] == [("TEXT", [1])]
    assert [(value.name, list(value.dims)) for value in config.output] == [("sentence_embedding", [64])]
    policy = config.dynamic_batching.default_queue_policy
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    assert min(policy.max_queue_size, policy.default_timeout_microseconds) > 0
    assert not config.response_cache.enable
    assert len(config.model_warmup) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_configurations_are_those_that_were_reviewed(bundle: Bundle, tmp_path: Path, backend: str) -> None:
    write_repository(bundle, CELLS[:1], tmp_path / "models", service=Service(backend))
    written = sorted((tmp_path / "models").glob("*/config.pbtxt"))
    assert len(written) == (1 if backend == "python" else 2)
    for config in written:
        golden = GOLDEN / f"{backend}.{config.parent.name}.pbtxt"
        written_text, reviewed = config.read_text(encoding="utf-8"), golden.read_text(encoding="utf-8")
        assert written_text == reviewed, f"review it, then copy it to {golden}"


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_an_encoder_that_the_server_runs_is_a_model_of_its_own(bundle: Bundle, tmp_path: Path, backend: str) -> None:
    write_repository(bundle, CELLS[:1], tmp_path / "models", service=Service(backend))
    version = tmp_path / "models" / "embedding_1x32" / "1"
    settings = json.loads((version / "settings.json").read_text())
    assert (settings["runtime"], settings["encoder"]) == ("server", "embedding_1x32_encoder")
    assert not (version / "model.onnx").exists()
    config = config_of(tmp_path / "models", "embedding_1x32_encoder")
    assert (config.name, config.backend, config.max_batch_size) == ("embedding_1x32_encoder", backend, 64)
    inputs = [(value.name, config.input[0].DESCRIPTOR.full_name, list(value.dims)) for value in config.input]
    assert [(name, dims) for name, _, dims in inputs] == [("input_ids", [-1]), ("attention_mask", [-1])]
    assert {value.data_type for value in config.input} == {9}  # TYPE_INT64
    assert [(value.name, list(value.dims)) for value in config.output] == [("sentence_embedding", [32])]
    assert set(config.model_warmup[0].inputs) == {"input_ids", "attention_mask"}
    assert not config_of(
        tmp_path / "models", "embedding_1x32"
    ).model_warmup  # the server would crash on such an early call
    script = tmp_path / "models" / "build_engines.sh"
    assert script.exists() is (backend == "tensorrt")
    if script.exists():
        assert "--maxShapes=input_ids:64x48,attention_mask:64x48" in script.read_text()
        assert subprocess.run(["sh", "-n", script], check=False).returncode == 0


def text_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A text model, loaded without a server: an answer is an array, or the message of an error."""
    backend: Any = ModuleType("triton_python_backend_utils")
    backend.get_input_tensor_by_name = lambda request, name: SimpleNamespace(as_numpy=lambda: request[name])
    backend.Tensor = lambda name, array: array
    backend.InferenceResponse = lambda tensors, error=None: tensors[0] if error is None else error
    backend.TritonModelException = RuntimeError
    backend.TritonError = type("TritonError", (), {"INVALID_ARG": 3, "__new__": lambda kind, said, *code: said})
    monkeypatch.setitem(sys.modules, backend.__name__, backend)
    model = runpy.run_path(str(folder / "1" / "model.py"))["TritonPythonModel"]()
    model.initialize({"model_repository": str(folder), "model_version": "1"})
    return model


def asked(*texts: str | bytes) -> dict[str, Any]:
    """A request of these texts."""
    return {"TEXT": np.array([[text.encode() if isinstance(text, str) else text] for text in texts], dtype=object)}


def test_a_prompt_is_put_before_every_text(prompted: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_repository(prompted, CELLS[:1], tmp_path / "models", service=Service("onnxruntime"))
    settings = json.loads((tmp_path / "models" / "embedding_1x32" / "1" / "settings.json").read_text())
    assert (settings["prompt"], settings["unpooled"]) == ("a cat is ", 4)  # [CLS] and three words
    config = config_of(tmp_path / "models", "embedding_1x32_encoder")
    assert tuple(value.name for value in config.input) == INPUTS
    write_repository(prompted, CELLS[:1], tmp_path / "here", normalize=True)
    (vectors,) = text_model(tmp_path / "here" / "embedding_1x32", monkeypatch).execute([asked(*TEXTS)])
    with Encoder(prompted, 1, 32, normalize=True) as encoder:
        np.testing.assert_allclose(vectors, encoder.encode(TEXTS), atol=1e-6)
    with pytest.raises(SpecError, match="title"):
        write_repository(prompted, CELLS, tmp_path / "more", prompt_name="title")


@pytest.mark.parametrize("runtime", PYTHON_RUNTIMES)
def test_exit_0_is_served(
    tabled: Bundle, prompted_table: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    pytest.importorskip(RUNTIMES[runtime].package)
    for name, bundle in {"plain": tabled, "prompted": prompted_table}.items():
        write_repository(bundle, [Cell(0, 20)], tmp_path / name, service=Service(runtime=runtime))
        (vectors,) = text_model(tmp_path / name / "embedding_0x20", monkeypatch).execute([asked(*TEXTS)])
        with Encoder(bundle, 0, 20) as encoder:
            np.testing.assert_allclose(vectors, encoder.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_tensorrt_serves_fp32_only(quantized: Bundle, tmp_path: Path, precision: str) -> None:
    with pytest.raises(SpecError, match=precision):
        write_repository(quantized, CELLS, tmp_path / "models", precision=precision, service=Service("tensorrt"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("cells", "named"), [([Cell(1, 32), Cell(9, 32)], "layer 9"), ([], "at least one")])
def test_a_repository_without_its_cells_is_refused(
    bundle: Bundle, tmp_path: Path, cells: list[Cell], named: str
) -> None:
    with pytest.raises(SpecError, match=named):
        write_repository(bundle, cells, tmp_path / "models")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"backend": "vllm"}, "vllm"),
        ({"backend": "trt-rtx"}, "TensorRT for RTX"),
        ({"runtime": "pytorch"}, "pytorch"),
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"threads": True}, "threads"),
    ],
)
def test_a_service_that_cannot_be_is_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(SpecError, match=named):
        Service(**options)


def test_an_existing_target_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=str(tmp_path)):
        write_repository(bundle, CELLS, tmp_path)


def test_a_short_text_is_not_padded_to_a_long_one(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_repository(bundle, CELLS[:1], tmp_path / "models")
    model = text_model(tmp_path / "models" / "embedding_1x32", monkeypatch)
    encode, shapes = model.encode, []
    model.encode = lambda inputs: (shapes.append(inputs["input_ids"].shape), encode(inputs))[1]
    texts = [["a cat", "the man is sitting on the mat"], ["a dog"], ["the woman is sitting on a mat"]]
    answers = model.execute([asked(*request) for request in texts])
    assert shapes == [(2, 9), (2, 4)]
    with Encoder(bundle, 1, 32) as encoder:
        for request, vectors in zip(texts, answers, strict=True):
            np.testing.assert_allclose(vectors, encoder.encode(request), atol=1e-6)


def test_the_attention_of_one_call_is_bounded(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_repository(bundle, CELLS[:1], tmp_path / "models")
    model = text_model(tmp_path / "models" / "embedding_1x32", monkeypatch)
    assert model.settings["attention_budget"] == ATTENTION_BUDGET
    encode, shapes = model.encode, []
    model.encode = lambda inputs: (shapes.append(inputs["input_ids"].shape), encode(inputs))[1]
    model.settings |= {"token_budget": 1 << 30, "attention_budget": 2 * 9**2, "min_fill": 0}
    model.execute([asked(*["the man is sitting on the mat"] * 3, *["a cat"] * 2)])
    assert shapes == [(2, 9), (2, 9), (1, 4)]


def test_a_failing_text_fails_its_own_request_only(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_repository(bundle, CELLS[:1], tmp_path / "models")
    model = text_model(tmp_path / "models" / "embedding_1x32", monkeypatch)
    encode, longest = model.encode, len(model.tokenizer.encode("the man is sitting on the mat").ids)

    def out_of_memory(inputs: dict[str, Any]) -> Any:
        if inputs["input_ids"].shape[1] >= longest:
            raise MemoryError("no room")
        return encode(inputs)

    model.encode = out_of_memory
    requests = [asked("a cat"), asked(b"\xff\xfe"), asked("the man is sitting on the mat"), asked("a dog", "no")]
    first, unreadable, failed, last = model.execute(requests)
    assert (unreadable, failed) == ("a text is not UTF-8 (byte 0)", "encoding failed: no room")
    with Encoder(bundle, 1, 32) as encoder:
        expected = encoder.encode(["a cat", "a dog", "no"])
    np.testing.assert_allclose(np.concatenate([first, last]), expected, atol=1e-6)


def test_a_damaged_file_is_not_loaded(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_repository(bundle, CELLS[:1], tmp_path / "models")
    damaged = tmp_path / "models" / "embedding_1x32" / "1" / "tokenizer.json"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b" ")
    with pytest.raises(RuntimeError, match=r"tokenizer\.json"):
        text_model(tmp_path / "models" / "embedding_1x32", monkeypatch)


def test_the_measured_server_carries_the_load_that_was_required() -> None:
    """32 clients for a minute: no failure, over four texts in a call, and faster than single calls by these factors."""
    found = json.loads((ROOT / "benchmarks" / "results" / "triton.json").read_text(encoding="utf-8"))
    assert (found["seconds"], found["clients"]) == (60, 32)
    for precision, factor in (("fp32", 1.3), ("int8", 1.8)):
        row = found["precisions"][precision]
        assert (row["merged"]["failed"], row["merged"]["mean_batch"] > 4) == ({}, True)
        assert row["merged_over_single"] >= factor
        assert row["graph_written_seconds"] < 1
