"""What a checkpoint says is honoured, or refused by name."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.checkpoints.load import Checkpoint, load_checkpoint
from m2d_export.errors import CheckpointError, first_line
from m2d_export.gate.parity import PROBES, probe_tokens
from m2d_export.text.batches import Tokenizer, pad
from m2d_export.vectors import truncate
from tests.conftest import LAYERS, MAX_TOKENS, WIDTH, save_checkpoint

Make = Callable[..., Path]
TEXTS = [
    "A man is playing a guitar.",
    "no",
    "The cat sat on the mat, and the dog was not in the stage of interest. " * 3,
]
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def full_exit(loaded: Checkpoint, texts: list[str], prompt: str = "") -> np.ndarray:
    """Vectors of the deepest exit, as the pipeline computes them."""
    tokens = Tokenizer(loaded.tokenizer_json, loaded.text).encode(texts, prompt)
    vectors = ExitEncoder(loaded, [loaded.depth]).vectors(pad(tokens, loaded.text, range(len(texts))))[0]
    return truncate(vectors, loaded.width, loaded.normalize)


@pytest.mark.parametrize("mode", [*MODES, MODES])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_every_pooling_equals_sentence_transformers(make_checkpoint: Make, mode: str, include_prompt: bool) -> None:
    prompts = {"query": "the interest rates of a cat: "}
    loaded = load_checkpoint(str(make_checkpoint(pooling=mode, include_prompt=include_prompt, prompts=prompts)))
    for name in (None, "query"):
        expected = loaded.original.encode(TEXTS, prompt_name=name)
        vectors = full_exit(loaded, TEXTS, loaded.text.prompt(prompt_name=name))
        np.testing.assert_allclose(vectors, expected, atol=2e-6)


def test_modules_after_the_pooling_are_part_of_every_exit(make_checkpoint: Make) -> None:
    from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Normalize

    torch.manual_seed(1)
    tail = (Dense(WIDTH, 48), Normalize(), LayerNorm(48), Dense(48, 40, activation_function=torch.nn.Identity()))
    loaded = load_checkpoint(str(make_checkpoint(tail=tail, normalize=False)))
    assert (loaded.width, loaded.normalize) == (40, False)
    np.testing.assert_allclose(full_exit(loaded, TEXTS), loaded.original.encode(TEXTS), atol=2e-6)


def test_a_head_is_applied_right_after_the_pooling_of_its_exit_alone(checkpoint: Path) -> None:
    loaded = load_checkpoint(str(checkpoint))
    assert (sorted(loaded.heads), loaded.trained_dims, loaded.trained_layers) == ([1], (32, 64), (1, 2, 3))
    batch = pad(Tokenizer(loaded.tokenizer_json, loaded.text).encode(TEXTS), loaded.text, range(3))
    first, second = ExitEncoder(loaded, [1, 2]).vectors(batch)
    plain = load_checkpoint(str(checkpoint))
    plain.heads.clear()  # type: ignore[attr-defined]
    bare, same = ExitEncoder(plain, [1, 2]).vectors(batch)
    head = loaded.heads[1]
    with torch.inference_mode():
        expected = head({"sentence_embedding": torch.from_numpy(bare.copy())})["sentence_embedding"].numpy()
    np.testing.assert_allclose(first, expected, atol=1e-6)
    np.testing.assert_array_equal(second, same)


def test_weights_stored_as_fp16_are_computed_in_fp32(make_checkpoint: Make) -> None:
    folder = make_checkpoint()
    weights = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    loaded = load_checkpoint(str(folder))
    assert {parameter.dtype for parameter in loaded.encoder.parameters()} == {torch.float32}


def test_tokens_are_the_checkpoints_own_whatever_tokenizer_json_bakes_in(checkpoint: Path) -> None:
    loaded = load_checkpoint(str(checkpoint))
    assert loaded.text.max_tokens == MAX_TOKENS  # the file says 10
    tokens = probe_tokens(loaded, Tokenizer(loaded.tokenizer_json, loaded.text))
    assert len(tokens) == len(PROBES)
    assert max(len(item.ids) for item in tokens) == MAX_TOKENS


def test_positions_that_roberta_never_uses_are_not_offered(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "roberta", "roberta")
    for name in ("tokenizer_config.json", "sentence_bert_config.json"):
        settings = json.loads((folder / name).read_text())
        settings = {key: value for key, value in settings.items() if key not in ("model_max_length", "max_seq_length")}
        (folder / name).write_text(json.dumps(settings))
    loaded = load_checkpoint(str(folder))
    assert loaded.text.max_tokens == 64 - 2  # 64 rows, numbered from padding_idx + 1
    assert np.isfinite(full_exit(loaded, ["cat " * 100])).all()


def test_a_plain_transformers_folder_is_pooled_by_the_mean(make_checkpoint: Make) -> None:
    folder = make_checkpoint()
    loaded = load_checkpoint(str(folder.parent / "made-plain"))
    assert (loaded.pooling.modes, loaded.normalize) == (("mean",), False)
    np.testing.assert_allclose(full_exit(loaded, TEXTS), loaded.original.encode(TEXTS), atol=2e-6)


def test_lower_casing_asked_for_beside_the_tokenizer_is_honoured(make_checkpoint: Make) -> None:
    folder = make_checkpoint()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = json.loads((folder / "sentence_bert_config.json").read_text())
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings | {"do_lower_case": True}))
    loaded = load_checkpoint(str(folder))
    upper, lower = Tokenizer(loaded.tokenizer_json, loaded.text).encode(["THE CAT", "the cat"])
    assert upper == lower


def test_the_fingerprint_follows_the_weights(make_checkpoint: Make) -> None:
    folder = make_checkpoint()
    before = load_checkpoint(str(folder)).origin.fingerprint
    assert load_checkpoint(str(folder)).origin.fingerprint == before
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][7, 7] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_checkpoint(str(folder)).origin.fingerprint != before


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))


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


def encoder_decoder(folder: Path) -> None:
    edit(folder / "config.json", model_type="t5", is_encoder_decoder=True)


def adapter(folder: Path) -> None:
    edit(folder / "adapter_config.json", peft_type="LORA")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_json(folder: Path) -> None:
    (folder / "modules.json").write_text("{")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def half_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def unknown_format(folder: Path) -> None:
    edit(folder / "m2d.json", format=2)


def head_beyond(folder: Path) -> None:
    edit(folder / "m2d.json", heads=[LAYERS + 1])


def head_at_the_last_layer(folder: Path) -> None:
    edit(folder / "m2d.json", heads=[LAYERS])


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
    edit(folder / "m2d.json", heads=[2])


def curved_head(folder: Path) -> None:
    edit(folder / "m2d.json", heads=[1])
    from sentence_transformers.sentence_transformer.modules import Dense

    (folder / "exits" / "1").mkdir(parents=True)
    Dense(WIDTH, WIDTH).save(str(folder / "exits" / "1"))


def narrow_head(folder: Path) -> None:
    edit(folder / "m2d.json", heads=[1])
    from sentence_transformers.sentence_transformer.modules import Dense

    (folder / "exits" / "1").mkdir(parents=True)
    Dense(WIDTH, 8, activation_function=torch.nn.Identity()).save(str(folder / "exits" / "1"))


def left_truncation(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", truncation_side="left")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (more_layers, "claims 5 layers"),
        (own_code, "trust_remote_code is not supported"),
        (own_tokenizer, "trust_remote_code is not supported"),
        (own_module, "custom_pooling.CustomPooling"),
        (encoder_decoder, "encoder-decoder"),
        (adapter, "merge"),
        (no_config, "no config.json"),
        (broken_json, "cannot be read as JSON"),
        (no_weights, "cannot be loaded"),
        (half_weights, "cannot be loaded"),
        (unknown_format, "format 2"),
        (head_beyond, "layers are 1 to 3"),
        (head_at_the_last_layer, "the last layer has none"),
        (modules_as_object, "not a list of modules"),
        (module_without_type, "not a list of modules"),
        (config_as_list, "expected an object"),
        (static_embedding, "only a Transformer has exits"),
        (dims_of_strings, "lists of whole numbers"),
        (head_missing, "exits/2 is missing"),
        (curved_head, "a head is linear"),
        (narrow_head, "64 numbers to 8"),
        (left_truncation, "on the left"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    make_checkpoint: Make, damage: Callable[[Path], None], complaint: str
) -> None:
    folder = make_checkpoint()
    damage(folder)
    with pytest.raises(CheckpointError, match=re.escape(complaint)) as caught:
        load_checkpoint(str(folder))
    assert first_line(caught.value) == str(caught.value)


def test_an_activation_that_would_be_replaced_in_silence_is_refused(make_checkpoint: Make) -> None:
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


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("./not-here", "neither a folder nor a Hub id"), ("a b c", "neither a folder"), ("nobody/nothing", "the Hub has")],
)
def test_a_checkpoint_that_is_nowhere_is_said_to_be(name: str, complaint: str) -> None:
    with pytest.raises(CheckpointError, match=complaint):
        load_checkpoint(name)


def test_a_file_is_no_checkpoint_and_a_folder_has_no_revision(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="neither a folder"):
        load_checkpoint(str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_checkpoint(str(tmp_path))
    with pytest.raises(CheckpointError, match="revision"):
        load_checkpoint(str(tmp_path), "main")


def test_a_config_that_sentence_transformers_overrides_is_read_as_it_reads_it(make_checkpoint: Make) -> None:
    folder = make_checkpoint()
    edit(folder / "sentence_bert_config.json", config_kwargs={"num_hidden_layers": 2, "hidden_act": "relu"})
    loaded = load_checkpoint(str(folder))
    assert loaded.depth == 2
    np.testing.assert_allclose(full_exit(loaded, TEXTS), loaded.original.encode(TEXTS), atol=2e-6)


def test_empty_prompts_are_prompts_too(make_checkpoint: Make) -> None:
    prompts = {"query": "find: ", "document": ""}
    loaded = load_checkpoint(str(make_checkpoint(prompts=prompts, default_prompt_name="document")))
    assert loaded.text.prompts == prompts
    assert [loaded.text.prompt(), loaded.text.prompt(prompt_name="query")] == ["", "find: "]


def test_the_checkpoints_own_similarity_and_dim_are_kept(make_checkpoint: Make) -> None:
    folder = make_checkpoint()
    edit(folder / "config_sentence_transformers.json", similarity_fn_name="dot", truncate_dim=32)
    loaded = load_checkpoint(str(folder))
    assert (loaded.similarity, loaded.truncate_dim) == ("dot", 32)


@pytest.mark.parametrize("revision", [None, "v2"])
def test_a_hub_checkpoint_is_one_snapshot_named_by_its_commit(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    commit = "c0ffee" * 6 + "abcd"
    snapshot = make_checkpoint().rename(tmp_path / commit)
    asked = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        assert "*.py" not in allow_patterns
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    loaded = load_checkpoint("someone/encoder", revision)
    assert asked == [("someone/encoder", revision)]
    assert (loaded.origin.name, loaded.origin.revision) == ("someone/encoder", commit)
