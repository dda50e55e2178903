"""Folders that are no checkpoint of a sentence encoder: each is refused with what it is and what to do."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from m2d_export import Bundle
from m2d_export.checkpoints import load
from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.checkpoints.slice import slice_checkpoint
from m2d_export.errors import BundleError, CheckpointError, M2DError, RuntimeUnavailable
from tests.checkpoints.edits import edit
from tests.support.checkpoints import WIDTH, tiny_config, tiny_tokenizer

pytestmark = pytest.mark.slow

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 90868376\n"
WEIGHTS, TABLE = "model.safetensors", "embeddings.word_embeddings.weight"


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint to damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "tiny"))


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def empty(folder: Path, *kept: str) -> None:
    for path in [path for path in folder.iterdir() if path.name not in kept]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("kept", "added", "named"),
    [
        ([], [], "empty"),
        ([], ["adapter_config.json", "adapter_model.safetensors"], "merge_and_unload"),
        ([], ["tiny.Q8_0.gguf"], "GGUF"),
        (["config.json"], ["onnx/model.onnx"], "ONNX"),
        (["config.json"], ["openvino/openvino_model.xml"], "OpenVINO"),
        (["config.json"], ["tf_model.h5"], "TensorFlow"),
        (["config.json"], ["flax_model.msgpack"], "Flax"),
        (["config.json"], [], WEIGHTS),
        ([], ["notes.txt"], "config.json"),
    ],
)
def test_what_a_folder_has_instead_of_weights_is_named(
    folder: Path, kept: list[str], added: list[str], named: str
) -> None:
    empty(folder, *kept)
    for name in added:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    assert named in refused(folder)


def test_a_bundle_is_no_checkpoint_and_a_checkpoint_is_no_bundle(bundle: Bundle, checkpoint: Path) -> None:
    assert "a bundle" in refused(bundle.root)
    with pytest.raises(BundleError, match="build a bundle"):
        Bundle.open(checkpoint)
    with pytest.raises(BundleError, match="is a file"):
        Bundle.open(checkpoint / "config.json")


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json", "exits/1/model.safetensors"])
def test_a_pointer_of_git_lfs_has_its_remedy(folder: Path, name: str) -> None:
    (folder / name).write_text(POINTER)
    message = refused(folder)
    assert name in message
    assert "git lfs pull" in message


def test_a_missing_file_of_weights_is_named(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    places = {name: f"model-0000{1 + place % 2}-of-00002.safetensors" for place, name in enumerate(tensors)}
    for file in set(places.values()):
        part = {name: tensor for name, tensor in tensors.items() if places[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    load_checkpoint(str(folder))
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in refused(folder)


@pytest.mark.parametrize("kind", ["CrossEncoder", "SparseEncoder", "MultiVectorEncoder"])
def test_other_kinds_of_sentence_transformers_are_named(folder: Path, kind: str) -> None:
    edit(folder / "config_sentence_transformers.json", model_type=kind)
    assert kind in refused(folder)


@pytest.mark.parametrize("module", ["LogitScore", "SpladePooling", "WordEmbeddings", "CLIPModel", "Router"])
def test_a_module_that_cannot_be_built_is_named(folder: Path, module: str) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = f"sentence_transformers.models.{module}"
    (folder / "modules.json").write_text(json.dumps(modules))
    assert module in refused(folder)


def plain(folder: Path, task: str, **settings: object) -> Path:
    """A transformers folder with the head of a task, without modules of sentence-transformers."""
    import transformers

    tokenizer = tiny_tokenizer()
    config = tiny_config("bert", len(tokenizer))
    config.update(settings)
    getattr(transformers, f"BertFor{task}")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("settings", [{"num_labels": 1}, {"num_labels": 3, "sentence_transformers": {"version": "4"}}])
def test_a_cross_encoder_without_modules_is_refused(tmp_path: Path, settings: dict[str, object]) -> None:
    assert "CrossEncoder" in refused(plain(tmp_path / "plain", "SequenceClassification", **settings))


@pytest.mark.parametrize(
    ("task", "unused"),
    [
        ("SequenceClassification", "classifier.weight"),
        ("TokenClassification", "classifier.weight"),
        ("MaskedLM", "cls.predictions.bias"),
    ],
)
def test_weights_of_a_head_are_named_and_the_encoder_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, task: str, unused: str
) -> None:
    folder = plain(tmp_path / "plain", task)
    with caplog.at_level(logging.WARNING, load.__name__):
        loaded = load_checkpoint(str(folder), pooling="mean")
        again = load_checkpoint(str(folder), pooling="mean")
    assert [unused in record.message for record in caplog.records] == [True]  # once, although loaded twice
    assert loaded.origin.fingerprint == again.origin.fingerprint  # a pooler that the file lacks is random


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named_with_their_place(folder: Path, value: float) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors[TABLE][50, 3] = value
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    assert f"{TABLE}[50, 3] is {value}" in refused(folder)
    with pytest.raises(CheckpointError, match=r"\[50, 3\]"):
        slice_checkpoint(str(folder), 1, folder.parent / "sliced")
    assert not (folder.parent / "sliced").exists()


def test_a_head_and_a_dense_that_are_not_finite_are_named(
    folder: Path, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    from sentence_transformers.sentence_transformer.modules import Dense

    with_dense = make_checkpoint(tail=(Dense(WIDTH, WIDTH, activation_function=torch.nn.Identity()),))
    for root, file, named in (
        (folder, "exits/1/model.safetensors", "exits/1: linear.weight[2, 5]"),
        (with_dense, "2_Dense/model.safetensors", "Dense 1: linear.weight[2, 5]"),
    ):
        tensors = load_file(root / file)
        tensors["linear.weight"][2, 5] = float("inf")
        save_file(tensors, root / file)
        assert named in refused(root)


def more_tokens(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["newword", "another"])
    tokenizer.save_pretrained(folder)


def id_of_no_token(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["post_processor"]["special_tokens"]["[CLS]"]["ids"] = [9999]
    (folder / "tokenizer.json").write_text(json.dumps(content))


def too_few_tokens(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", model_max_length=2)


def prompt_of_a_surrogate(folder: Path) -> None:
    edit(folder / "config_sentence_transformers.json", prompts={"query": "\ud800"})


def prompt_of_a_number(folder: Path) -> None:
    edit(folder / "config_sentence_transformers.json", prompts={"query": 5})


def dim_of_a_word(folder: Path) -> None:
    edit(folder / "config_sentence_transformers.json", truncate_dim="many")


def deep(folder: Path) -> None:
    (folder / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (more_tokens, "'newword' (214)"),
        (id_of_no_token, "'[CLS]' (9999)"),
        (too_few_tokens, "special tokens"),
        (prompt_of_a_surrogate, "surrogate"),
        (prompt_of_a_number, "cannot be loaded"),
        (dim_of_a_word, "truncate_dim"),
        (deep, "config.json"),
    ],
)
def test_texts_that_the_weights_cannot_read_are_refused(
    folder: Path, damage: Callable[[Path], None], named: str
) -> None:
    damage(folder)
    assert named in refused(folder)


def test_a_tokenizer_without_padding_token_is_refused(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", pad_token=None)
    assert "padding token" in refused(folder)


def test_padding_on_the_left_is_padding_on_the_right(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = load_checkpoint(str(folder)).original.encode(["a cat", "the man was playing on the stage"])
    edit(folder / "tokenizer_config.json", padding_side="left")
    with caplog.at_level(logging.WARNING, load.__name__):
        loaded = load_checkpoint(str(folder))
    assert "left" in caplog.text
    vectors = loaded.original.encode(["a cat", "the man was playing on the stage"])
    assert abs(vectors - expected).max() < 1e-6


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    from transformers import BartConfig, BartModel

    tokenizer = tiny_tokenizer()
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    config = BartConfig(
        vocab_size=len(tokenizer), encoder_attention_heads=2, decoder_attention_heads=2, pad_token_id=1, **sizes
    )
    BartModel(config).save_pretrained(tmp_path / "bart")
    tokenizer.save_pretrained(tmp_path / "bart")
    assert "encoder-decoder" in refused(tmp_path / "bart")


@pytest.mark.parametrize("whole", [False, True])
def test_the_encoder_of_t5_is_built_and_cut(tmp_path: Path, whole: bool) -> None:
    import transformers

    from m2d_export import Encoder
    from m2d_export.pipeline import build

    tokenizer = tiny_tokenizer()
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4, "pad_token_id": 1}
    config = transformers.T5Config(vocab_size=len(tokenizer), **sizes)
    kind = transformers.T5ForConditionalGeneration if whole else transformers.T5EncoderModel
    kind(config).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    build(str(tmp_path / "t5"), tmp_path / "t5.m2d")
    bundle = Bundle.open(tmp_path / "t5.m2d", tmp_path / "t5")
    texts = ["a cat", "the man was playing a guitar on the stage"]
    expected = load_checkpoint(str(tmp_path / "t5")).original.encode(texts)
    with Encoder(bundle) as encoder, Encoder(bundle, 1) as first, Encoder(bundle, 1, runtime="pytorch") as torch_first:
        assert abs(encoder.encode(texts) - expected).max() < 1e-5
        assert abs(first.encode(texts) - torch_first.encode(texts)).max() < 1e-4
    with pytest.raises(M2DError, match="final norm"):
        slice_checkpoint(str(tmp_path / "t5"), 1, tmp_path / "sliced")


@pytest.mark.parametrize("content", [None, "", "[]", "{}", "[" * 5000])
def test_a_missing_or_damaged_tokenizer_is_named(folder: Path, content: str | None) -> None:
    (folder / "tokenizer.json").unlink()
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    assert "tokenizer.json" in refused(folder)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"vocab_size": 1000}, "other shapes"),
        ({"max_position_embeddings": 8}, "other shapes"),
        ({"num_hidden_layers": 0}, "num_hidden_layers of its config is 0, expected 1"),
        ({"vocab_size": "many"}, "vocab_size"),
    ],
)
def test_a_config_of_other_weights_is_refused(folder: Path, settings: dict[str, object], named: str) -> None:
    edit(folder / "config.json", **settings)
    assert named in refused(folder)


def test_a_pooling_of_no_kind_and_a_module_without_a_name_are_refused(folder: Path) -> None:
    edit(folder / "1_Pooling" / "config.json", pooling_mode=[])
    assert "of no kind" in refused(folder)
    modules = json.loads((folder / "modules.json").read_text())
    del modules[0]["name"]
    (folder / "modules.json").write_text(json.dumps(modules))
    assert "its name, type and path" in refused(folder)


@pytest.mark.parametrize(
    ("name", "named"), [("", "is empty"), (f"./{'x' * 300}", "neither a folder"), ("\0", "neither")]
)
def test_a_name_that_no_checkpoint_can_have_is_refused(name: str, named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        load_checkpoint(name)


def test_a_checkpoint_without_usable_vectors_is_refused_as_such(folder: Path) -> None:
    from m2d_export.pipeline import build

    edit(folder / "config.json", layer_norm_eps=float("nan"))
    with pytest.raises(M2DError, match="sentence-transformers itself gives"):
        build(str(folder), folder.parent / "tiny.m2d", layers=[1])


def test_python_without_docstrings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2d_export.checkpoints.load.sys", Mock(flags=Mock(optimize=2)))
    with pytest.raises(RuntimeUnavailable, match="-OO"):
        load_checkpoint(str(tmp_path))


def test_weights_that_this_user_may_not_read_are_named(
    make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_checkpoint()
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "model.safetensors")  # root reads all
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_checkpoint(str(made))
