"""Turn texts into sentence vectors in Triton's Python backend. Requests that wait are encoded together.

m2d-export writes the same model.py for every cell. The differences are in settings.json, in the same folder. A
request holds only texts: it cannot name a file, a model or code.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer

OUTPUT = "sentence_embedding"


class TritonPythonModel:
    """The class that the server looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Check the sha256 of each file, load the tokenizer, and open the encoder."""
        folder = Path(args["model_repository"]) / args["model_version"]
        self.settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        for name, wanted in self.settings["sha256"].items():
            if _sha256(folder / name) != wanted:
                raise pb_utils.TritonModelException(f"{name} has changed since m2d-export wrote it: copy it again")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.settings["max_tokens"])
        openers = {"onnxrt": _onnxruntime, "openvino": _openvino, "server": _inside_the_server}
        self.encode = openers[self.settings["runtime"]](folder, self.settings)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request. A text that cannot be read fails its own request only."""
        texts: list[str] = []
        counts: list[int | Any] = []  # for each request, the number of its texts, or its error
        for request in requests:
            try:
                read = [self._read(item) for item in pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy().flat]
                texts += read
                counts.append(len(read))
            except ValueError as error:
                counts.append(pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
        try:
            vectors = self._vectors(texts)
        except Exception as error:
            if len(requests) > 1:  # each request is encoded by itself, so that only the faulty one fails
                return [self.execute([request])[0] for request in requests]
            failed = pb_utils.TritonError(f"encoding failed: {error}")
            return [_failure(failed if isinstance(count, int) else count) for count in counts]
        responses, first = [], 0
        for count in counts:
            if not isinstance(count, int):
                responses.append(_failure(count))
                continue
            output = pb_utils.Tensor(OUTPUT, vectors[first : first + count])
            responses.append(pb_utils.InferenceResponse([output]))
            first += count
        return responses

    def _read(self, item: bytes) -> str:
        if len(item) > self.settings["max_bytes"]:
            raise ValueError(f"a text has {len(item)} bytes: this model reads at most {self.settings['max_bytes']}")
        try:
            return f"{self.settings['prompt']}{item.decode('utf-8')}"
        except UnicodeDecodeError as error:
            raise ValueError(f"a text is not UTF-8 (byte {error.start})") from None

    def _vectors(self, texts: Sequence[str]) -> Any:
        """Encode texts in batches of similar length, the longest text first. Vectors have the order of ``texts``."""
        vectors = np.zeros((len(texts), self.settings["dim"]), dtype=np.float32)
        # A text without tokens becomes one padding token, so that its vector is defined.
        ids = [encoding.ids or [self.settings["pad_id"]] for encoding in self.tokenizer.encode_batch_fast(list(texts))]
        for rows in self._batches(ids):
            inputs = self._padded([ids[row] for row in rows])
            vectors[rows] = self.encode(inputs)
        if not np.isfinite(vectors).all():
            raise ValueError("a vector has NaN or infinity: export the cell again in another precision")
        return vectors

    def _batches(self, ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        batch: list[int] = []
        for row in sorted(range(len(ids)), key=lambda row: -len(ids[row])):
            longest = len(ids[batch[0]]) if batch else 0
            padded = longest * (len(batch) + 1)
            full = padded > self.settings["token_budget"] or padded * longest > self.settings["attention_budget"]
            if batch and (full or len(ids[row]) < longest * self.settings["min_fill"]):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _padded(self, ids: Sequence[Sequence[int]]) -> dict[str, Any]:
        input_ids = np.full((len(ids), len(ids[0])), self.settings["pad_id"], dtype=np.int64)
        attention_mask = np.zeros_like(input_ids)
        for row, item in enumerate(ids):
            input_ids[row, : len(item)] = item
            attention_mask[row, : len(item)] = 1
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.settings["unpooled"] is not None:  # the number of prompt tokens that are read but not pooled
            inputs["pooling_mask"] = attention_mask.copy()
            inputs["pooling_mask"][:, : self.settings["unpooled"]] = 0
        return inputs


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _failure(error: Any) -> Any:
    return pb_utils.InferenceResponse([], error)


Encode = Callable[[dict[str, Any]], Any]


def _onnxruntime(folder: Path, settings: dict[str, Any]) -> Encode:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime reads this when it is imported
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings["threads"]
    for key, value in settings["session"].items():
        options.add_session_config_entry(key, value)
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run([OUTPUT], inputs)[0]


def _openvino(folder: Path, settings: dict[str, Any]) -> Encode:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # turns its reports off
    import openvino

    wanted = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if settings["threads"]:
        wanted["INFERENCE_NUM_THREADS"] = settings["threads"]
    request = openvino.Core().compile_model(folder / "model.onnx", "CPU", wanted).create_infer_request()
    return lambda inputs: request.infer(inputs)[0]


def _inside_the_server(folder: Path, settings: dict[str, Any]) -> Encode:
    host = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)

    def encode(inputs: dict[str, Any]) -> Any:
        request = pb_utils.InferenceRequest(
            model_name=settings["encoder"],
            requested_output_names=[OUTPUT],
            inputs=[pb_utils.Tensor(name, array) for name, array in inputs.items()],
            preferred_memory=host,
        )
        response = request.exec()
        if response.has_error():
            raise RuntimeError(response.error().message())
        return pb_utils.get_output_tensor_by_name(response, OUTPUT).as_numpy()

    return encode
