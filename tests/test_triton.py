"""``triton``: cells as a model repository, by itself and in the real server."""

import json
import re
import runpy
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from statistics import median
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from m2d_export import Bundle, Cell, Encoder
from m2d_export import build as pipeline
from m2d_export.bench.sts import load_pairs
from m2d_export.deploy.triton import BACKENDS, Service, model_name, write_repository
from m2d_export.errors import OutputError, SpecError
from m2d_export.vectors import FloatArray, cosine
from tests.tritonserver import Server, ready, served

CELLS = [Cell(1, 32), Cell(3, 64)]
TEXTS = ["A man is playing a guitar.", "no", "", "The cat sat on the mat. " * 20, "東京は日本の首都です。", "a\0cat"]
ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "triton"
BIG = "x " * 500_000  # a megabyte
STAND_IN = """
import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def initialize(self, args):
        path = f"{args['model_repository']}/{args['model_version']}/model.onnx"
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    def execute(self, requests):
        answers = []
        for request in requests:
            names = [value.name for value in self.session.get_inputs()]
            inputs = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in names}
            (vectors,) = self.session.run(None, inputs)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("sentence_embedding", vectors)]))
        return answers
"""


def config_of(repository: Path, name: str) -> Any:
    """A model's configuration, as the server's own protobuf reads it."""
    grpc = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed (extra: dev)")
    from google.protobuf import text_format

    return text_format.Parse((repository / name / "config.pbtxt").read_text(), grpc.model_config_pb2.ModelConfig())


def files_of(repository: Path) -> set[str]:
    assert not [path for path in repository.rglob("*") if path.is_symlink()]
    return {path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()}


def test_a_repository_holds_a_model_for_each_cell_and_checksums_of_all(bundle: Bundle, tmp_path: Path) -> None:
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


def test_the_text_model_merges_requests_and_refuses_what_it_cannot_hold(bundle: Bundle, tmp_path: Path) -> None:
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
def test_configurations_are_those_that_were_looked_at(bundle: Bundle, tmp_path: Path, backend: str) -> None:
    write_repository(bundle, CELLS[:1], tmp_path / "models", service=Service(backend))
    written = sorted((tmp_path / "models").glob("*/config.pbtxt"))
    assert len(written) == (1 if backend == "python" else 2)
    for config in written:
        golden = GOLDEN / f"{backend}.{config.parent.name}.pbtxt"
        assert config.read_text(encoding="utf-8") == golden.read_text(encoding="utf-8"), (
            f"look at it, then copy to {golden}"
        )


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_an_encoder_of_the_servers_own_stands_beside_its_text_model(
    bundle: Bundle, tmp_path: Path, backend: str
) -> None:
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
    assert not config_of(tmp_path / "models", "embedding_1x32").model_warmup  # a call that early ends the server
    script = tmp_path / "models" / "build_engines.sh"
    assert script.exists() is (backend == "tensorrt")
    if script.exists():
        assert "--maxShapes=input_ids:64x48,attention_mask:64x48" in script.read_text()
        assert subprocess.run(["sh", "-n", script], check=False).returncode == 0


def text_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A text model, loaded without a server: an answer is an array, or the words of an error."""
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


def test_a_prompt_is_put_before_every_text(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint(include_prompt=False, prompts={"query": "a cat is "}, default_prompt_name="query")
    bundle = pipeline.build(pipeline.plan(str(checkpoint), tmp_path / "prompted.m2d"))
    write_repository(bundle, CELLS[:1], tmp_path / "models", service=Service("onnxruntime"))
    settings = json.loads((tmp_path / "models" / "embedding_1x32" / "1" / "settings.json").read_text())
    assert (settings["prompt"], settings["unpooled"]) == ("a cat is ", 4)  # [CLS] and three words
    config = config_of(tmp_path / "models", "embedding_1x32_encoder")
    assert [value.name for value in config.input] == ["input_ids", "attention_mask", "pooling_mask"]
    write_repository(bundle, CELLS[:1], tmp_path / "here")
    (vectors,) = text_model(tmp_path / "here" / "embedding_1x32", monkeypatch).execute([asked(*TEXTS)])
    with Encoder(bundle, 1, 32) as encoder:
        np.testing.assert_allclose(vectors, encoder.encode(TEXTS), atol=1e-6)
    with pytest.raises(SpecError, match="no prompt named 'title'"):
        write_repository(bundle, CELLS, tmp_path / "more", prompt_name="title")


def test_what_cannot_be_served_is_refused_and_leaves_nothing(quantized: Bundle, tmp_path: Path) -> None:
    target = tmp_path / "models"
    for precision, reason in (("int8", "zero points"), ("fp16", "not tried")):
        with pytest.raises(SpecError, match=reason):
            write_repository(quantized, CELLS, target, precision=precision, service=Service("tensorrt"))
    with pytest.raises(SpecError, match="no exit at layer 9"):
        write_repository(quantized, [Cell(1, 32), Cell(9, 32)], target)
    with pytest.raises(SpecError, match="at least one cell"):
        write_repository(quantized, [], target)
    with pytest.raises(SpecError, match="no backend 'vllm'"):
        Service("vllm")
    with pytest.raises(SpecError, match="cannot load plans of TensorRT for RTX"):
        Service("trt-rtx")
    with pytest.raises(SpecError, match="'pytorch' does not run"):
        Service(runtime="pytorch")
    with pytest.raises(SpecError, match="max_batch_size must be"):
        Service(max_batch_size=0)
    assert not list(tmp_path.iterdir())
    target.mkdir()
    with pytest.raises(OutputError, match="exists"):
        write_repository(quantized, CELLS, target)


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


def test_whatever_fails_with_one_text_fails_no_other_of_the_same_batch(
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
    with pytest.raises(RuntimeError, match=r"tokenizer\.json is not the file that was shipped: copy it again"):
        text_model(tmp_path / "models" / "embedding_1x32", monkeypatch)


@pytest.mark.parametrize("text", ["", "3", "3x", "x3", "3x128 ", "3x-1", "3×128", "3x128x1", "9999999x1"])
def test_what_is_no_cell_is_refused(text: str) -> None:
    assert Cell.parse("3x128") == Cell(3, 128)
    with pytest.raises(SpecError, match="LAYERxDIM"):
        Cell.parse(text)


@pytest.fixture(scope="module")
def repository(bundle: Bundle, quantized: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells of every kind, copied elsewhere after they were written, one through an encoder inside the server.

    The backend that would run that encoder is not in the wheel: a few lines of Python stand in for it.
    """
    folder = tmp_path_factory.mktemp("triton")
    write_repository(bundle, CELLS, folder / "written")
    write_repository(bundle, [Cell(2, 32)], folder / "openvino", service=Service(runtime="openvino"))
    write_repository(quantized, CELLS[1:], folder / "int8", precision="int8")
    write_repository(bundle, [Cell(2, 16)], folder / "inside", service=Service("onnxruntime"))
    models = Path(shutil.copytree(folder / "written", folder / "models"))
    for written in ("openvino", "int8", "inside"):
        for model in (folder / written).glob("embedding_*"):
            shutil.copytree(model, models / model.name)
    config = models / "embedding_2x16_encoder" / "config.pbtxt"
    config.write_text(config.read_text().replace('"onnxruntime"', '"python"'))
    (config.parent / "1" / "model.py").write_text(STAND_IN)
    narrow = models / "embedding_1x32" / "config.pbtxt"
    narrow.write_text(narrow.read_text().replace("max_queue_size: 512", "max_queue_size: 40"))
    shutil.rmtree(folder / "written")
    return models


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed (extra: dev)")
    with served(repository, tmp_path_factory.mktemp("log") / "server.log") as running:
        yield running


def over_http(server: Server, model: str, inputs: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    body = json.dumps({"inputs": inputs}).encode()
    request = urllib.request.Request(f"http://{server.http}/v2/models/{model}/infer", data=body)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def text_input(texts: list[str]) -> dict[str, Any]:
    return {"name": "TEXT", "datatype": "BYTES", "shape": [len(texts), 1], "data": texts}


def over_grpc(client: Any, model: str, texts: list[bytes]) -> FloatArray:
    from tritonclient import grpc

    tensor = grpc.InferInput("TEXT", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text] for text in texts], dtype=np.object_))
    vectors: FloatArray = client.infer(model, [tensor]).as_numpy("sentence_embedding")
    return vectors


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    from tritonclient import grpc

    with grpc.InferenceServerClient(server.grpc) as connected:
        yield connected


@pytest.mark.slow
@pytest.mark.parametrize("cell", [*CELLS, Cell(2, 16), Cell(2, 32)], ids=str)
def test_the_server_gives_the_encoders_vectors(server: Server, client: Any, bundle: Bundle, cell: Cell) -> None:
    model = f"embedding_{cell}"
    status, answer = over_http(server, model, [text_input(TEXTS)])
    assert status == 200, answer
    through_http = np.array(answer["outputs"][0]["data"], dtype=np.float32).reshape(len(TEXTS), cell.dim)
    through_grpc = over_grpc(client, model, [text.encode() for text in TEXTS])
    alone = np.concatenate([over_grpc(client, model, [text.encode()]) for text in TEXTS])
    with Encoder(bundle, cell.layer, cell.dim) as encoder:
        expected = encoder.encode(TEXTS)
    for vectors in (through_http, through_grpc, alone):
        assert cosine(vectors, expected).min() >= 0.99999
        np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.slow
def test_an_encoder_inside_the_server_is_called_once_for_all_texts(client: Any) -> None:
    def counted() -> tuple[int, int]:
        found = client.get_inference_statistics("embedding_2x16_encoder").model_stats[0]
        return found.inference_count, found.execution_count

    before = counted()
    over_grpc(client, "embedding_2x16", [text.encode() for text in TEXTS])
    assert [now - then for then, now in zip(before, counted(), strict=True)] == [len(TEXTS), 1]


@pytest.mark.slow
@pytest.mark.parametrize("through", ["http", "grpc"])
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99999), ("int8", 0.999)])
def test_stsb_has_the_encoders_vectors_in_both_precisions(
    server: Server, client: Any, quantized: Bundle, stsb: Path, precision: str, least: float, through: str
) -> None:
    texts = list(load_pairs(str(stsb / "test.csv")).texts)
    model = model_name(CELLS[1], precision)

    def answer(given: list[str]) -> FloatArray:
        if through == "grpc":
            return over_grpc(client, model, [text.encode() for text in given])
        status, answered = over_http(server, model, [text_input(given)])
        assert status == 200, answered
        return np.array(answered["outputs"][0]["data"], dtype=np.float32).reshape(-1, 64)

    with Encoder(quantized, 3, 64, precision=precision) as encoder:
        expected = encoder.encode(texts)
    served = np.concatenate([answer(texts[at : at + 64]) for at in range(0, len(texts), 64)])
    assert cosine(served, expected).min() >= least
    alone = np.concatenate([answer([text]) for text in texts[:32]])
    assert cosine(alone, expected[:32]).min() >= least


@pytest.mark.slow
def test_the_clients_of_the_readme_run_as_they_stand(server: Server, repository: Path) -> None:
    page = (repository / "README.md").read_text(encoding="utf-8")
    page = page.replace("localhost:8000", server.http).replace("localhost:8001", server.grpc)
    curl, python = re.search(r"## Ask\n\n```bash\n(.*?)```\n\n```python\n(.*?)```", page, re.S).groups()
    ended = subprocess.run([sys.executable, "-c", python + "print(vectors.shape)"], capture_output=True, text=True)
    assert ended.stdout == "(2, 32)\n", ended.stderr
    if not shutil.which("curl"):
        pytest.skip("curl is not here")
    answer = json.loads(subprocess.run(["sh", "-c", curl], capture_output=True, text=True, check=True).stdout)
    assert answer["outputs"][0]["shape"] == [2, 32]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "status", "complaint"),
    [
        (text_input([]), 400, "expected 1 string elements"),
        (text_input([BIG]), 400, "1000000 bytes: this model takes up to 65536"),
        (text_input(["a"] * 65), 400, "batch-size must be <= 64"),
        ({**text_input(["a", "b"]), "shape": [1, 2]}, 400, "unexpected shape"),
        ({**text_input(["a", "b"]), "shape": [2]}, 400, "unexpected shape"),
        ({**text_input(["a"]), "datatype": "FP32", "data": [1.0]}, 400, "expects 'BYTES'"),
        ({**text_input(["a"]), "name": "TEXTS"}, 400, "unexpected inference input"),
    ],
    ids=["empty batch", "a megabyte", "too many", "shape", "one axis", "type", "name"],
)
def test_a_hostile_request_is_its_own_fault_alone(
    server: Server, given: dict[str, Any], status: int, complaint: str
) -> None:
    got, answer = over_http(server, "embedding_3x64", [given])
    assert (got, complaint in answer["error"]) == (status, True), answer
    assert ready(server)
    assert over_http(server, "embedding_3x64", [text_input(["a cat"])])[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("body", [b"\xff\xff\xff\x7fa cat", b"\x05\0", b""], ids=["too long", "cut off", "nothing"])
def test_a_text_that_lies_about_its_length_is_refused(server: Server, body: bytes) -> None:
    described = {"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": len(body)}}
    head = json.dumps({"inputs": [described]}).encode()
    lengths = {"Inference-Header-Content-Length": str(len(head))}
    url = f"http://{server.http}/v2/models/embedding_3x64/infer"
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(urllib.request.Request(url, head + body, lengths), timeout=120)
    assert ready(server)
    assert over_http(server, "embedding_3x64", [text_input(["a cat"])])[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("bad", [b"\xff\xfe", b"a\xed\xa0\x80", BIG.encode()], ids=["no UTF-8", "surrogate", "big"])
def test_the_neighbours_of_a_bad_text_are_unharmed(client: Any, bundle: Bundle, bad: bytes) -> None:
    from tritonclient.utils import InferenceServerException

    with Encoder(bundle, 3, 64) as encoder:
        expected = encoder.encode(["a cat"])

    def ask(text: bytes) -> FloatArray | str:
        try:
            return over_grpc(client, "embedding_3x64", [text])
        except InferenceServerException as error:
            return f"{error.status()} {error.message()}"

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, [b"a cat", bad] * 24))
    for vectors in answers[::2]:
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert all(re.search(r"INVALID_ARG.*(not UTF-8|1000000 bytes)", str(answer)) for answer in answers[1::2]), answers


@pytest.mark.slow
def test_requests_that_wait_are_encoded_together(client: Any) -> None:
    def counted() -> Any:
        return client.get_inference_statistics("embedding_3x64").model_stats[0]

    before = counted()
    long = b"The cat sat on the mat. " * 20
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda _: over_grpc(client, "embedding_3x64", [long]), range(640)))
    after = counted()
    assert after.inference_count - before.inference_count == 640
    assert (after.execution_count - before.execution_count) * 4 < 640


@pytest.mark.slow
def test_overload_is_refused_at_once_and_passes(client: Any) -> None:
    from tritonclient.utils import InferenceServerException

    long = [b"The cat sat on the mat. " * 20] * 64
    waited: list[float] = []  # of those that were refused because too many wait

    def ask(_: int) -> str:
        started = time.monotonic()
        try:
            over_grpc(client, "embedding_1x32", long)
            return "answered"
        except InferenceServerException as error:
            if "maximum queue size" in error.message():
                waited.append(time.monotonic() - started)
            return f"{error.status()} {error.message()}"

    before = over_grpc(client, "embedding_1x32", long[:1])
    with ThreadPoolExecutor(200) as pool:
        outcomes = set(pool.map(ask, range(600)))
    assert "answered" in outcomes
    assert waited
    assert median(waited) < 5  # half of what a request may wait in the queue
    refused = outcomes - {"answered"}
    assert all(outcome.startswith("StatusCode.UNAVAILABLE ") for outcome in refused), refused
    assert any("maximum queue size" in outcome for outcome in refused), refused  # at once, not when their time was up
    assert [ask(turn) for turn in range(5)] == ["answered"] * 5
    np.testing.assert_allclose(over_grpc(client, "embedding_1x32", long[:1]), before, atol=1e-6)


def test_the_server_that_was_measured_bears_the_load_that_was_asked_for() -> None:
    """Issue 7: a minute of 32 clients without a failure, more than four texts a call, that many times single calls."""
    found = json.loads((ROOT / "benchmarks" / "results" / "triton.json").read_text(encoding="utf-8"))
    assert (found["seconds"], found["clients"]) == (60, 32)
    for precision, least in (("fp32", 1.3), ("int8", 1.8)):
        row = found["precisions"][precision]
        assert (row["merged"]["failed"], row["merged"]["mean_batch"] > 4) == ({}, True)
        assert row["merged_over_single"] >= least
        assert row["graph_written_seconds"] < 1
