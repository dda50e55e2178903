"""Load one system in its own environment and answer requests: a line of JSON in, a line of JSON out.

    python worker.py '{"load": "torch", "path": "..", "threads": 2, ..}'

This file runs in every environment, so it imports numpy and only the packages of the system that it loads. Only the
number of threads is set; all other options keep the defaults of the system.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Encode = Callable[[list[str]], Any]
Settings = dict[str, Any]
Loaded = tuple[Encode, str]  # with the type that it multiplies in, "" if unknown


def torch_model(settings: Settings) -> Loaded:
    """sentence-transformers in PyTorch."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(settings["threads"])
    dtype = getattr(torch, settings["dtype"])
    model = SentenceTransformer(settings["path"], device="cpu", model_kwargs={"dtype": dtype})
    return lambda texts: model.encode(texts, show_progress_bar=False), settings["dtype"]


def backend_model(settings: Settings) -> Loaded:
    """sentence-transformers on one of its ONNX or OpenVINO files."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(settings["threads"])  # for pooling and normalisation
    options: Settings = {"file_name": settings["file"]}
    if settings["backend"] == "onnx":
        import onnxruntime

        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = settings["threads"]
        options |= {"provider": "CPUExecutionProvider", "session_options": session}
    else:
        options["ov_config"] = {"INFERENCE_NUM_THREADS": settings["threads"]}
    model = SentenceTransformer(settings["path"], device="cpu", backend=settings["backend"], model_kwargs=options)
    computes = ""
    if settings["backend"] == "openvino":  # it computes fp32 in bf16 if the CPU can
        computes = model.transformers_model.request.get_property("INFERENCE_PRECISION_HINT").to_string()
    return lambda texts: model.encode(texts, show_progress_bar=False), computes


def fastembed_model(settings: Settings) -> Loaded:
    """The same fp32 graph as a custom model of fastembed."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    TextEmbedding.add_custom_model(
        model="local",
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf="local/none"),  # required, but the path below is read
        dim=384,
        model_file="onnx/model.onnx",
    )
    model = TextEmbedding("local", specific_model_path=settings["path"], threads=settings["threads"], cuda=False)
    # It takes the smaller of two limits in this file, 128 tokens. All other systems read 256 tokens of a text.
    written = (Path(settings["path"]) / "tokenizer_config.json").read_text(encoding="utf-8")
    model.model.tokenizer.enable_truncation(max_length=json.loads(written)["model_max_length"])
    return lambda texts: np.array(list(model.embed(texts))), ""


def static_model(settings: Settings) -> Loaded:
    """A model2vec table of token vectors."""
    from model2vec import StaticModel

    model = StaticModel.from_pretrained(settings["path"])
    return model.encode, ""


def bundle_model(settings: Settings) -> Loaded:
    """This package's Encoder."""
    from m2d_export import Bundle, Encoder

    chosen = {key: settings[key] for key in ("runtime", "precision", "compute") if key in settings}
    encoder = Encoder(Bundle.open(settings["path"]), settings.get("layer"), threads=settings["threads"], **chosen)
    return encoder.encode, settings.get("compute", "")


LOADERS: dict[str, Callable[[Settings], Loaded]] = {
    "torch": torch_model,
    "backend": backend_model,
    "fastembed": fastembed_model,
    "model2vec": static_model,
    "bundle": bundle_model,
}


def answer(encode: Encode, request: dict[str, Any]) -> dict[str, Any]:
    """Answer a request. ``texts`` is a JSON file with a list of texts.

    With ``vectors``, save their vectors to that file. Otherwise return seconds: of one call with all texts, or with
    ``single`` of one call for each text.
    """
    texts = json.loads(Path(request["texts"]).read_text(encoding="utf-8"))
    if "vectors" in request:
        vectors = np.asarray(encode(texts), dtype=np.float32)
        np.save(request["vectors"], vectors)
        return {"shape": vectors.shape}
    calls = [[text] for text in texts] if request.get("single") else [texts]
    seconds = []
    for call in calls:
        started = time.perf_counter()
        encode(call)
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds}


def main() -> None:
    """Load the system, reply, then answer requests until the input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a line that a library prints must not look like a reply
    settings = json.loads(sys.argv[1])

    def reply(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=replies, flush=True)

    try:
        encode, computes = LOADERS[settings["load"]](settings)
        reply({"computes": computes})
        for line in sys.stdin:
            reply(answer(encode, json.loads(line)))
    except Exception as error:
        reply({"error": f"{type(error).__name__}: {error}"})
        raise


if __name__ == "__main__":
    main()
