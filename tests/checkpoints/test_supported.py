"""A checkpoint that asks for something unsupported is refused, and the error names it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.errors import CheckpointError, first_line
from tests.checkpoints.edits import edit
from tests.support.checkpoints import LAYERS, WIDTH

Make = Callable[..., Path]


def more_layers(folder: Path) -> None:
    edit(folder / "config.json", num_hidden_layers=5)


def own_code(folder: Path) -> None:
    edit(folder / "config.json", auto_map={"AutoModel": "modeling_evil.EvilModel"})
    (folder / "modeling_evil.py").write_text("raise SystemExit('this ran')")


def own_tokenizer(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_evil.Evil", None]})


def own_module(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "custom_pooling.CustomPooling"
    (folder / "modules.json").write_text(json.dumps(modules))


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_json(folder: Path) -> None:
    (folder / "modules.json").write_text("{")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def head_entry(layer: int) -> dict[str, object]:
    return {"layer": layer, "reads": [layer], "mean": []}


def half_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def unknown_format(folder: Path) -> None:
    edit(folder / "m2d.json", format=2)


def head_beyond(folder: Path) -> None:
    edit(folder / "m2d.json", heads=[head_entry(LAYERS + 1)])


def head_at_the_last_layer(folder: Path) -> None:
    edit(folder / "m2d.json", heads=[head_entry(LAYERS)])


def modules_as_object(folder: Path) -> None:
    (folder / "modules.json").write_text('{"0": "Transformer"}')


def module_without_type(folder: Path) -> None:
    (folder / "modules.json").write_text('[{"idx": 0, "path": ""}]')


def config_as_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def static_embedding(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "sentence_transformers.models.StaticEmbedding"
    (folder / "modules.json").write_text(json.dumps(modules))


def dims_of_strings(folder: Path) -> None:
    edit(folder / "m2d.json", dims=["64"])


def head_missing(folder: Path) -> None:
    edit(folder / "m2d.json", heads=[head_entry(2)])


def add_head(folder: Path, **settings: object) -> None:
    from sentence_transformers.sentence_transformer.modules import Dense

    edit(folder / "m2d.json", heads=[head_entry(1)])
    (folder / "exits" / "1").mkdir(parents=True)
    Dense(WIDTH, **settings).save(str(folder / "exits" / "1"))


def curved_head(folder: Path) -> None:
    add_head(folder, out_features=WIDTH)


def narrow_head(folder: Path) -> None:
    add_head(folder, out_features=8, activation_function=torch.nn.Identity())


def left_truncation(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", truncation_side="left")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (more_layers, "5 layers"),
        (own_code, "auto_map"),
        (own_tokenizer, "auto_map"),
        (own_module, "custom_pooling.CustomPooling"),
        (no_config, "config.json"),
        (broken_json, "modules.json"),
        (no_weights, "model.safetensors"),
        (half_weights, "Safetensor"),
        (unknown_format, "format 2"),
        (head_beyond, f"[{LAYERS + 1}]"),
        (head_at_the_last_layer, f"1 to {LAYERS - 1}"),
        (modules_as_object, "modules.json"),
        (module_without_type, "modules.json"),
        (config_as_list, "config.json"),
        (static_embedding, "StaticEmbedding"),
        (dims_of_strings, "dims"),
        (head_missing, "exits/2"),
        (curved_head, "activation"),
        (narrow_head, "64 numbers to 8"),
        (left_truncation, "left"),
    ],
)
def test_a_checkpoint_that_cannot_be_honoured_is_refused_in_one_line(
    make_checkpoint: Make, damage: Callable[[Path], None], named: str
) -> None:
    folder = make_checkpoint()
    damage(folder)
    with pytest.raises(CheckpointError, match=re.escape(named)) as caught:
        load_checkpoint(str(folder))
    assert first_line(caught.value) == str(caught.value)


def test_an_activation_that_sentence_transformers_would_replace_silently_is_refused(make_checkpoint: Make) -> None:
    from sentence_transformers.sentence_transformer.modules import Dense

    folder = make_checkpoint(tail=(Dense(WIDTH, WIDTH),))
    edit(folder / "2_Dense" / "config.json", activation_function="some.other.Activation")
    with pytest.raises(CheckpointError, match=r"some\.other\.Activation"):
        load_checkpoint(str(folder))


def test_a_module_that_cannot_be_exported_is_refused_by_name(make_checkpoint: Make) -> None:
    from sentence_transformers.sentence_transformer.modules import LSTM

    folder = make_checkpoint()
    modules = json.loads((folder / "modules.json").read_text())
    modules.insert(1, {"idx": 1, "name": "lstm", "path": "lstm", "type": "sentence_transformers.models.LSTM"})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "lstm").mkdir()
    LSTM(WIDTH, WIDTH).save(str(folder / "lstm"))
    with pytest.raises(CheckpointError, match="LSTM"):
        load_checkpoint(str(folder))
