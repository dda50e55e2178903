"""Every setting of a checkpoint is honoured."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.checkpoints.load import Checkpoint, load_checkpoint
from m2d_export.checkpoints.modules import final_norm, unused_positions
from m2d_export.gate.reference import PROBES
from m2d_export.text.batches import pad
from m2d_export.text.tokenizer import Tokenizer
from m2d_export.vectors import truncate
from tests.checkpoints.edits import edit
from tests.support.checkpoints import MAX_TOKENS, WIDTH, save_checkpoint

Make = Callable[..., Path]
TEXTS = [
    "A man is playing a guitar.",
    "no",
    "The cat sat on the mat, and the dog was not in the stage of interest. " * 3,
]
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def full_exit(loaded: Checkpoint, texts: list[str], prompt: str = "") -> np.ndarray:
    """Vectors of the deepest exit, computed as the pipeline does."""
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


def test_modules_after_the_pooling_belong_to_every_exit(make_checkpoint: Make) -> None:
    from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Normalize

    torch.manual_seed(1)
    tail = (Dense(WIDTH, 48), Normalize(), LayerNorm(48), Dense(48, 40, activation_function=torch.nn.Identity()))
    loaded = load_checkpoint(str(make_checkpoint(tail=tail, normalize=False)))
    assert (loaded.width, loaded.normalize) == (40, False)
    np.testing.assert_allclose(full_exit(loaded, TEXTS), loaded.original.encode(TEXTS), atol=2e-6)


def test_a_head_is_applied_after_the_pooling_and_only_to_its_exit(checkpoint: Path) -> None:
    loaded = load_checkpoint(str(checkpoint))
    assert (sorted(loaded.heads), loaded.trained_dims, loaded.trained_layers) == ([1], (32, 64), (1, 2, 3))
    batch = pad(Tokenizer(loaded.tokenizer_json, loaded.text).encode(TEXTS), loaded.text, range(3))
    first, second = ExitEncoder(loaded, [1, 2]).vectors(batch)
    plain = load_checkpoint(str(checkpoint))
    plain.heads.clear()  # type: ignore[attr-defined]
    bare, same = ExitEncoder(plain, [1, 2]).vectors(batch)
    head = loaded.heads[1]
    with torch.inference_mode():
        expected = head.dense({"sentence_embedding": torch.from_numpy(bare.copy())})["sentence_embedding"].numpy()
    np.testing.assert_allclose(first, expected, atol=1e-6)
    np.testing.assert_array_equal(second, same)


def test_weights_stored_in_fp16_are_loaded_in_float32(make_checkpoint: Make) -> None:
    folder = make_checkpoint()
    weights = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    loaded = load_checkpoint(str(folder))
    assert {parameter.dtype for parameter in loaded.encoder.parameters()} == {torch.float32}


def test_tokens_equal_those_of_sentence_transformers_whatever_tokenizer_json_has_baked_in(checkpoint: Path) -> None:
    loaded = load_checkpoint(str(checkpoint))
    assert loaded.text.max_tokens == MAX_TOKENS  # the file says 10
    tokens = Tokenizer(loaded.tokenizer_json, loaded.text).encode(PROBES)
    for text, item in zip(PROBES, tokens, strict=True):
        assert list(item.ids) == (loaded.reference_ids(text) or [loaded.text.pad_id]), text
    assert max(len(item.ids) for item in tokens) == MAX_TOKENS


def test_positions_that_roberta_never_uses_are_not_counted(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "roberta", "roberta")
    for name in ("tokenizer_config.json", "sentence_bert_config.json"):
        settings = json.loads((folder / name).read_text())
        settings = {key: value for key, value in settings.items() if key not in ("model_max_length", "max_seq_length")}
        (folder / name).write_text(json.dumps(settings))
    loaded = load_checkpoint(str(folder))
    assert loaded.text.max_tokens == 64 - 2  # 64 rows, used from padding_idx + 1
    assert unused_positions(loaded.encoder.config.model_type, loaded.text.pad_id) == 2
    assert np.isfinite(full_exit(loaded, ["cat " * 100])).all()


def test_a_plain_transformers_folder_is_pooled_by_the_mean(make_checkpoint: Make) -> None:
    folder = make_checkpoint()
    loaded = load_checkpoint(str(folder.parent / "made-plain"))
    assert (loaded.pooling.modes, loaded.normalize) == (("mean",), False)
    np.testing.assert_allclose(full_exit(loaded, TEXTS), loaded.original.encode(TEXTS), atol=2e-6)


def test_lower_casing_that_sentence_transformers_asks_for_is_honoured(make_checkpoint: Make) -> None:
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


def test_the_fingerprint_follows_the_reads_of_heads_the_table_and_the_pooling(make_checkpoint: Make) -> None:
    """A build takes graphs that an earlier one finished only if the fingerprint is the same."""
    folder, found = make_checkpoint(heads=[2]), []

    def look() -> None:
        found.append(load_checkpoint(str(folder)).origin.fingerprint)

    look()
    stated = json.loads((folder / "m2d.json").read_text())
    stated["heads"][0]["reads"] = [1]
    (folder / "m2d.json").write_text(json.dumps(stated))
    look()
    rows = load_checkpoint(str(folder)).text.vocabulary
    for value in (0.0, 1.0):
        (folder / "exits" / "0").mkdir(exist_ok=True)
        save_file({"embedding.weight": torch.full((rows, WIDTH), value)}, folder / "exits" / "0" / "model.safetensors")
        look()
    edit(folder / "1_Pooling" / "config.json", pooling_mode="cls")
    look()
    assert len(set(found)) == len(found)


def test_overrides_of_the_config_by_sentence_transformers_are_honoured(make_checkpoint: Make) -> None:
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


def test_similarity_and_dim_of_the_checkpoint_are_honoured(make_checkpoint: Make) -> None:
    folder = make_checkpoint()
    edit(folder / "config_sentence_transformers.json", similarity_fn_name="dot", truncate_dim=32)
    loaded = load_checkpoint(str(folder))
    assert (loaded.similarity, loaded.truncate_dim) == ("dot", 32)


@pytest.mark.parametrize(("architecture", "expected"), [("bert", False), ("modernbert", True), ("t5", True)])
def test_a_final_norm_is_found(make_checkpoint: Make, architecture: str, expected: bool) -> None:
    encoder = load_checkpoint(str(make_checkpoint(architecture))).encoder
    assert bool(final_norm(encoder)) is expected
    assert unused_positions(encoder.config.model_type, 0) == 0
