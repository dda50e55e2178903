"""A cell as the folder that sentence-transformers, optimum, FastEmbed and text-embeddings-inference know."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from m2d_export.bundle.disk import Bundle
from m2d_export.bundle.manifest import TOKENIZER
from m2d_export.checkpoints.architectures import unused_positions
from m2d_export.deploy.graph import OUTPUT, check_deployed, deployed_graph, save_graph
from m2d_export.errors import SpecError
from m2d_export.host.files import new_folder
from m2d_export.spec import Cell, Precision

if TYPE_CHECKING:
    import onnx_ir as ir

GRAPH = "onnx/model.onnx"
TOKEN_OUTPUT = "last_hidden_state"  # noqa: S105 - the name of an output
MODEL_TYPES = {"XLMRobertaModel": "xlm-roberta", "DebertaV2Model": "deberta-v2"}  # others are named as they read
MODULES = ("Transformer", "Pooling")


def write_folder(
    bundle: Bundle,
    cell: Cell,
    target: str | Path,
    *,
    precision: str = Precision.FP32,
    normalize: bool | None = None,
    last_hidden_state: bool = False,
) -> Path:
    """Write ``cell`` as ``onnx/model.onnx`` with its tokenizer and settings beside it; returns the folder.

    ``last_hidden_state`` adds an output of that name for tools that pool for themselves: the sentence's vector at every
    token, so that any pooling of theirs gives it back. Raises OutputError if ``target`` exists, SpecError for a
    checkpoint whose prompts are not pooled, and what ``deployed_graph`` raises.
    """
    path = Path(target).expanduser().absolute()
    if not bundle.manifest.text.include_prompt:
        raise SpecError(
            "this checkpoint leaves its prompts' tokens out of the pooling, which no tool that loads such a folder can "
            "tell the graph: serve it with m2d-export triton, or use Encoder"
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
    """The bundle's tokenizer, cutting to its own maximum and padding to the longest text of a batch, on the right."""
    spec = bundle.manifest.text
    tokenizer = Tokenizer.from_str(bundle.checked(TOKENIZER).read_text(encoding="utf-8"))
    tokenizer.enable_truncation(spec.max_tokens)
    tokenizer.enable_padding(pad_id=spec.pad_id, pad_token=_pad_token(tokenizer, spec.pad_id))
    return tokenizer


def _pad_token(tokenizer: Tokenizer, pad_id: int) -> str:
    token = tokenizer.id_to_token(pad_id)
    if token is None:
        raise SpecError(f"the tokenizer has no token {pad_id}, which the bundle pads with: build it again")
    return str(token)


def _settings(bundle: Bundle, cell: Cell) -> dict[str, Any]:
    """What each tool reads beside the graph. The pooling is one that a vector repeated over its tokens survives."""
    manifest, text = bundle.manifest, bundle.manifest.text
    kind = MODEL_TYPES.get(manifest.architecture, manifest.architecture.removesuffix("Model").lower())
    unused = unused_positions(kind, text.pad_id)  # positions that this family leaves free
    tokenizer = padding_tokenizer(bundle)
    pad_token = _pad_token(tokenizer, text.pad_id)
    return {
        "config.json": {
            "architectures": [manifest.architecture],
            "model_type": kind,
            "hidden_size": cell.dim,
            "num_hidden_layers": cell.layer,
            "max_position_embeddings": text.max_tokens + unused,
            "vocab_size": tokenizer.get_vocab_size(),
            "pad_token_id": text.pad_id,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": text.max_tokens,
            "pad_token": pad_token,
            "model_input_names": ["input_ids", "attention_mask"],
        },
        "special_tokens_map.json": {"pad_token": pad_token},
        "modules.json": [
            {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{module}"}
            for place, (module, path) in enumerate(zip(MODULES, ("", "1_Pooling"), strict=True))
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": cell.dim, "pooling_mode_cls_token": True}
        | {"pooling_mode_mean_tokens": False},
        "sentence_bert_config.json": {"max_seq_length": text.max_tokens, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "prompts": dict(text.prompts),
            "default_prompt_name": text.default_prompt_name,
            "similarity_fn_name": manifest.similarity,
        },
    }


def _repeat_over_tokens(model: "ir.Model", dim: int) -> None:
    """Add the output ``last_hidden_state`` (batch, tokens, dim): the vector of a text at each of its tokens."""
    import numpy as np
    import onnx_ir as ir

    graph = model.graph
    one = ir.Value(name="one", const_value=ir.tensor(np.ones(1, dtype=np.int64), name="one"))
    graph.register_initializer(one)
    (mask,) = (value for value in graph.inputs if value.name == "attention_mask")
    (vector,) = graph.outputs
    tokens = ir.node("Shape", [mask], {"start": 1, "end": 2}, name="tokens")
    wanted = ir.node("Concat", [one, tokens.outputs[0], one], {"axis": 0}, name="repeats")
    single = ir.node("Unsqueeze", [vector, one], name=f"{OUTPUT}_once")
    output = ir.Value(
        name=TOKEN_OUTPUT, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch", "tokens", dim])
    )
    repeated = ir.node("Expand", [single.outputs[0], wanted.outputs[0]], outputs=[output], name=TOKEN_OUTPUT)
    graph.extend([tokens, wanted, single, repeated])
    graph.outputs.append(output)
