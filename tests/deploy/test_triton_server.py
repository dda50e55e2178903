"""Repositories of ``m2d-export triton`` in the real server: vectors, bad requests, and load."""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from m2d_export import Bundle, Cell, Encoder
from m2d_export.bench.sts import load_pairs
from m2d_export.deploy.triton.repository import Service, model_name, write_repository
from m2d_export.vectors import FloatArray, cosine
from tests.support.tritonserver import CELLS, TEXTS, Server, ready, served

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


@pytest.fixture(scope="module")
def repository(bundle: Bundle, quantized: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells in fp32, in int8, in OpenVINO, and one whose encoder is a model of the server; copied after writing.

    The wheel does not have the backend that would run that encoder, so a few lines of Python replace it.
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
    singly = np.concatenate([over_grpc(client, model, [text.encode()]) for text in TEXTS])
    with Encoder(bundle, cell.layer, cell.dim) as encoder:
        expected = encoder.encode(TEXTS)
    for vectors in (through_http, through_grpc, singly):
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
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 0.99999), ("int8", 0.999)])
def test_stsb_has_the_encoders_vectors_in_both_precisions(
    server: Server, client: Any, quantized: Bundle, stsb: Path, precision: str, bound: float, through: str
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
    assert cosine(served, expected).min() >= bound
    singly = np.concatenate([answer([text]) for text in texts[:32]])
    assert cosine(singly, expected[:32]).min() >= bound


@pytest.mark.slow
def test_the_clients_of_the_readme_run_unchanged(server: Server, repository: Path) -> None:
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
        (text_input([BIG]), 400, "1000000 bytes"),
        (text_input(["a"] * 65), 400, "batch-size must be <= 64"),
        ({**text_input(["a", "b"]), "shape": [1, 2]}, 400, "unexpected shape"),
        ({**text_input(["a", "b"]), "shape": [2]}, 400, "unexpected shape"),
        ({**text_input(["a"]), "datatype": "FP32", "data": [1.0]}, 400, "expects 'BYTES'"),
        ({**text_input(["a"]), "name": "TEXTS"}, 400, "unexpected inference input"),
    ],
    ids=["empty batch", "a megabyte", "too many", "shape", "one axis", "type", "name"],
)
def test_a_bad_request_gets_an_error_and_harms_no_other(
    server: Server, given: dict[str, Any], status: int, complaint: str
) -> None:
    got, answer = over_http(server, "embedding_3x64", [given])
    assert (got, complaint in answer["error"]) == (status, True), answer
    assert ready(server)
    assert over_http(server, "embedding_3x64", [text_input(["a cat"])])[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("body", [b"\xff\xff\xff\x7fa cat", b"\x05\0", b""], ids=["too long", "cut off", "nothing"])
def test_a_text_with_a_wrong_length_is_refused(server: Server, body: bytes) -> None:
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
def test_a_bad_text_does_not_harm_requests_of_the_same_batch(client: Any, bundle: Bundle, bad: bytes) -> None:
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
def test_overload_is_refused_at_once_and_the_server_recovers(client: Any) -> None:
    from tritonclient.utils import InferenceServerException

    long = [b"The cat sat on the mat. " * 20] * 64
    waited: list[float] = []  # seconds until a full queue refused the request

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
    assert any("maximum queue size" in outcome for outcome in refused), refused  # not the timeout
    assert [ask(turn) for turn in range(5)] == ["answered"] * 5
    np.testing.assert_allclose(over_grpc(client, "embedding_1x32", long[:1]), before, atol=1e-6)
