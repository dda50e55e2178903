"""Write a cell as a folder that sentence-transformers, optimum, FastEmbed and text-embeddings-inference can load."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from m2d_export.bundle.disk import Bundle
from m2d_export.bundle.manifest import TOKENIZER
from m2d_export.checkpoints.modules import unused_positions
from m2d_export.deploy.graph import check_deployed, deployed_graph, save_graph
from m2d_export.errors import SpecError
from m2d_export.host.files import followed
from m2d_export.host.folders import new_folder
from m2d_export.spec import INPUTS, OUTPUT, Cell, Precision

if TYPE_CHECKING:
    import onnx_ir as ir

GRAPH = "onnx/model.onnx"
IDS, MASK = INPUTS[:2]
TOKEN_OUTPUT = "last_hidden_state"  # noqa: S105 - the name of an output
MODULES = {"Transformer": "", "Pooling": "1_Pooling"}  # modules of sentence-transformers, and the folder of each


def write_folder(
    bundle: Bundle,
    cell: Cell,
    target: str | Path,
    *,
    precision: str = Precision.FP32,
    normalize: bool | None = None,
    last_hidden_state: bool = False,
) -> Path:
    """Write ``cell`` as ``onnx/model.onnx`` with its tokenizer and settings, and return the folder.

    ``last_hidden_state`` adds an output for tools that pool by themselves. In this output, each token of a text has
    the vector of the whole text, so every pooling returns this vector. Raises OutputError if ``target`` exists.
    Raises SpecError if the checkpoint does not pool its prompts. Also raises the errors of ``write_deployed``.
    """
    path = followed(target)
    if not bundle.manifest.text.include_prompt:
        raise SpecError(
            "this checkpoint does not pool the tokens of its prompts, but tools that load this folder pool all tokens: "
            "serve it with m2d-export triton, or use Encoder"
        )
    with new_folder(path) as staging:
        model = deployed_graph(bundle, cell, precision, normalize)
        if last_hidden_state:
            _repeat_over_tokens(model, cell.dim)
        graph = staging / GRAPH
        graph.parent.mkdir()
        save_graph(model, graph)
        check_deployed(bundle, cell, graph, precision, normalize)
        (staging / TOKENIZER).write_text(padding_tokenizer(bundle).to_str(pretty=False), encoding="utf-8")
        for name, settings in _settings(bundle, cell).items():
            file = staging / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def padding_tokenizer(bundle: Bundle) -> Tokenizer:
    """Return the bundle's tokenizer with truncation and padding.

    It cuts texts at the maximum of tokens. It pads on the right to the longest text of a batch.
    """
    spec = bundle.manifest.text
    tokenizer = Tokenizer.from_str(bundle.tokenizer_json)
    tokenizer.enable_truncation(spec.max_tokens)
    tokenizer.enable_padding(pad_id=spec.pad_id, pad_token=_pad_token(tokenizer, spec.pad_id))
    return tokenizer


def _pad_token(tokenizer: Tokenizer, pad_id: int) -> str:
    token = tokenizer.id_to_token(pad_id)
    if token is None:
        raise SpecError(f"the bundle pads with token {pad_id}, but its tokenizer has no such token: build it again")
    return str(token)


def _settings(bundle: Bundle, cell: Cell) -> dict[str, Any]:
    """The contents of the settings files by name.

    The pooling is ``cls``, which takes the vector of the first token. All tokens have the same vector.
    """
    manifest, text = bundle.manifest, bundle.manifest.text
    tokenizer, model_type = padding_tokenizer(bundle), str(manifest.config["model_type"])
    pad_token = _pad_token(tokenizer, text.pad_id)
    return {
        "config.json": {
            "architectures": [manifest.architecture],
            **manifest.config,
            "vocab_size": text.vocabulary,
            "hidden_size": cell.dim,  # the size of the vectors of this graph
            "num_hidden_layers": cell.layer,
            "max_position_embeddings": text.max_tokens + unused_positions(model_type, text.pad_id),
            "pad_token_id": text.pad_id,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": text.max_tokens,
            "pad_token": pad_token,
            "model_input_names": [IDS, MASK],
        },
        "special_tokens_map.json": {"pad_token": pad_token},
        "modules.json": [
            {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{module}"}
            for place, (module, path) in enumerate(MODULES.items())
        ],
        f"{MODULES['Pooling']}/config.json": {
            "word_embedding_dimension": cell.dim,
            "pooling_mode_cls_token": True,
            "pooling_mode_mean_tokens": False,
        },
        "sentence_bert_config.json": {"max_seq_length": text.max_tokens, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "prompts": dict(text.prompts),
            "default_prompt_name": text.default_prompt_name,
            "similarity_fn_name": manifest.similarity,
        },
    }


def _repeat_over_tokens(model: "ir.Model", dim: int) -> None:
    """Add the output ``last_hidden_state`` (batch, tokens, dim). In it, each token has the vector of its text."""
    import numpy as np
    import onnx_ir as ir

    from m2d_export.graphs.passes.common import constant

    graph = model.graph
    one = constant(graph, np.array([1]), "one")
    (mask,) = (value for value in graph.inputs if value.name == MASK)
    (vector,) = graph.outputs
    tokens = ir.node("Shape", [mask], {"start": 1, "end": 2}, name="tokens")
    shape = ir.node("Concat", [one, tokens.outputs[0], one], {"axis": 0}, name="repeats")
    single = ir.node("Unsqueeze", [vector, one], name=f"{OUTPUT}_once")
    output = ir.Value(
        name=TOKEN_OUTPUT, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch", "tokens", dim])
    )
    repeated = ir.node("Expand", [single.outputs[0], shape.outputs[0]], outputs=[output], name=TOKEN_OUTPUT)
    graph.extend([tokens, shape, single, repeated])
    graph.outputs.append(output)
