"""A distillation writes a folder that sentence-transformers and build take, and says what it made of what."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.checkpoints.slice import slice_checkpoint
from m2d_export.errors import CheckpointError
from m2d_export.pipeline import build
from m2d_export.spec import Cell
from tests.support.checkpoints import MAX_TOKENS, save_checkpoint
from tests.support.distillations import SMALL, made_up_texts
from tests.train.distil.conftest import Distil


@pytest.mark.slow
def test_build_takes_heads_of_several_layers_and_means_in_every_precision(
    start: Distil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2d_train.distil.solve.ADDED", 1.0)  # heads read as many layers as help
    monkeypatch.setattr("m2d_train.distil.choose.TOLERANCE", -100.0)  # and give up none
    base, out = save_checkpoint(tmp_path / "base", pooling="cls"), tmp_path / "out"
    assert start("--layers", "0,1,2,3", "--steps", 2, *SMALL, base=base).code == 0
    heads = [head.spec for head in load_checkpoint(str(out)).heads.values()]
    assert max(len(head.reads) for head in heads) > 1
    assert any(head.mean for head in heads)
    bundle = build(str(out), tmp_path / "made.m2d", precisions=("fp32", "fp16", "int8"))
    assert (bundle.grid.layers, bundle.grid.dims) == ((0, 1, 2, 3), (64, 16))
    several = next(head.layer for head in heads if len(head.reads) > 1)
    with pytest.raises(CheckpointError, match=f"m2d-export onnx BUNDLE --cell {several}x64"):
        slice_checkpoint(str(out), several, tmp_path / "sliced")


def test_a_head_gives_up_layers_that_held_out_text_does_not_need(
    start: Distil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2d_train.distil.solve.ADDED", 1.0)
    monkeypatch.setattr("m2d_train.distil.choose.TOLERANCE", 200.0)  # any loss is none
    base = save_checkpoint(tmp_path / "base", pooling="cls")
    ended = start("--steps", 2, *SMALL, base=base)
    assert ended.code == 0
    assert "reads only layer" in ended.err
    heads = load_checkpoint(str(tmp_path / "out")).heads.values()
    assert all(len(head.spec.reads) == 1 for head in heads)


def test_heads_of_an_encoder_with_many_numbers_read_two_layers_at_most(
    start: Distil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("heads", "solve"):
        monkeypatch.setattr(f"m2d_train.distil.{module}.AT_ONCE", 100)
    monkeypatch.setattr("m2d_train.distil.solve.ADDED", 1.0)
    base = save_checkpoint(tmp_path / "base", pooling="cls")
    ended = start("--minutes", 0, *SMALL, base=base)
    assert ended.code == 0
    assert "two layers at most" in ended.err
    heads = load_checkpoint(str(tmp_path / "out")).heads
    assert heads
    assert all(len(head.spec.reads) <= 2 for head in heads.values())


def test_a_rotation_keeps_the_cosines_of_whole_vectors(start: Distil, plain: Path, tmp_path: Path) -> None:
    ended = start("--minutes", 0, *SMALL)
    assert ended.code == 0
    assert "are rotated" in ended.err
    models = [SentenceTransformer(str(folder), device="cpu") for folder in (plain, tmp_path / "out")]
    before, after = (model.encode(made_up_texts(30), normalize_embeddings=True) for model in models)
    np.testing.assert_allclose(before @ before.T, after @ after.T, atol=1e-5)
    assert np.abs(before - after).max() > 0.01
    weight = next(module for module in reversed(models[1]) if hasattr(module, "linear")).linear.weight
    digest = hashlib.sha256(weight.detach().numpy().tobytes()).hexdigest()
    assert json.loads((tmp_path / "out" / "m2d.json").read_text())["rotation"] == digest


def test_heads_that_are_kept_count_in_what_heads_may_add(start: Distil, tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", pooling="cls")
    assert start("--minutes", 0, "--layers", "1,3", *SMALL, base=base).code == 0
    first = tmp_path / "out"
    first.rename(tmp_path / "first")
    assert start("--minutes", 0, *SMALL, base=tmp_path / "first").code == 0
    made = load_checkpoint(str(tmp_path / "out"))
    assert sorted(made.heads) == [1, 2]
    added = sum(weight.numel() for head in made.heads.values() for weight in head.dense.parameters())
    assert added <= 0.15 * sum(weight.numel() for weight in made.encoder.parameters())


def test_exits_that_layers_does_not_name_are_left_out_and_named(start: Distil, distilled: Path, tmp_path: Path) -> None:
    ended = start("--minutes", 0, "--layers", "2,3", *SMALL, base=distilled)
    assert ended.code == 0
    assert "exits 0, 1" in ended.err
    made = load_checkpoint(str(tmp_path / "out"))
    assert (list(made.heads), made.table) == ([2], None)


def test_sentence_transformers_loads_the_output_and_its_table(distilled: Path) -> None:
    model = SentenceTransformer(str(distilled), device="cpu")
    assert model.encode(["a cat", "a dog"]).shape == (2, 64)
    assert model.max_seq_length == MAX_TOKENS  # --max-tokens is of the training only
    assert StaticEmbedding.load(str(distilled / "exits" / "0")).embedding_dim == 64


def test_the_card_and_m2d_json_say_what_it_was_made_of(distilled: Path, plain: Path) -> None:
    stated = json.loads((distilled / "m2d.json").read_text())
    assert (stated["layers"], stated["dims"], stated["steps"]) == ([0, 1, 2, 3], [64, 16], 4)
    assert stated["space"] == load_checkpoint(str(plain)).origin.fingerprint
    assert (stated["texts"]["own"], stated["texts"]["mix"], stated["texts"]["held_out"]) == (250, 0, 25)
    assert set(stated["agreement"]["after"]) == {str(Cell(layer, dim)) for layer in range(4) for dim in (64, 16)}
    card = (distilled / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")
    for part in (stated["texts"]["sha256"], "4 steps", "250 of 250", "plain"):
        assert part in card


def test_the_last_screen_shows_the_grid_and_the_build_command(distilled: Path) -> None:
    screen = (distilled.parent / "screen.txt").read_text()
    assert re.search(r"64 dims.*16 dims", screen)
    assert f"m2d-export build {distilled}" in screen.replace("\n", " ")


def test_without_training_the_last_exit_is_the_base(start: Distil, plain: Path, tmp_path: Path) -> None:
    assert start("--minutes", 0, "--keep-space", *SMALL).code == 0
    texts = ["a cat is playing", "the dog"]
    before, after = (SentenceTransformer(str(path), device="cpu").encode(texts) for path in (plain, tmp_path / "out"))
    np.testing.assert_array_equal(before, after)
    assert json.loads((tmp_path / "out" / "m2d.json").read_text())["rotation"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_depth_and_the_width_are_always_made(start: Distil, tmp_path: Path) -> None:
    assert start("--minutes", 0, "--layers", "1", "--dims", "32", "--max-texts", 300, "--mix", "none").code == 0
    stated = json.loads((tmp_path / "out" / "m2d.json").read_text())
    assert (stated["layers"], stated["dims"]) == ([1, 3], [64, 32])


def test_a_pooling_that_the_folder_does_not_state_is_kept_in_the_output(start: Distil, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "made")
    base = Path(shutil.move(tmp_path / "made-plain", tmp_path / "base"))
    assert start("--minutes", 0, "--pooling", "cls", *SMALL, base=base).code == 0
    assert load_checkpoint(str(tmp_path / "out")).pooling.modes == ("cls",)


@pytest.mark.parametrize(
    ("architecture", "pooling"),
    [("modernbert", "cls"), ("xlm-roberta", "mean"), ("bert", "lasttoken")],  # the first is pre-LN
)
def test_every_exit_of_other_encoders_agrees_more_with_the_base(
    start: Distil, tmp_path: Path, architecture: str, pooling: str
) -> None:
    prompts = {"query": "query: ", "passage": "passage: "}
    base = save_checkpoint(tmp_path / "base", architecture, pooling=pooling, prompts=prompts)
    weights = load_file(base / "model.safetensors")  # random blocks hardly change a vector, so they are made larger
    larger = {name: 8 * weight if weight.ndim == 2 and "layer" in name else weight for name, weight in weights.items()}
    save_file(larger, base / "model.safetensors", metadata={"format": "pt"})
    assert start("--steps", 2, *SMALL, base=base).code == 0
    assert load_checkpoint(str(tmp_path / "out")).pooling.modes == (pooling,)
    agreement = json.loads((tmp_path / "out" / "m2d.json").read_text())["agreement"]
    for cell in ("1x64", "2x64"):
        assert agreement["after"][cell] > agreement["before"][cell]


def test_a_last_exit_that_drifts_is_taken_back(
    start: Distil, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2d_train.distil.steps.CHECK", {"cpu": 2})
    ended = start("--steps", 20, "--max-drift", "1e-7", "--keep-space", *SMALL)
    assert ended.code == 0
    said = " ".join(ended.err.split())
    weight, rate = re.findall(r"back to step 0, with the weight (\S+) for it and (\S+) of the learning rate", said)[0]
    assert float(weight) > 6
    assert 0 < float(rate) < 0.9
    texts = ["a cat is playing", "the dog"]
    before, after = (SentenceTransformer(str(path), device="cpu").encode(texts) for path in (plain, tmp_path / "out"))
    np.testing.assert_allclose(before, after, atol=1e-3)


def test_a_training_that_cannot_hold_the_last_exit_ends_as_finished(
    start: Distil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2d_train.distil.steps.CHECK", {"cpu": 2})
    monkeypatch.setattr("m2d_train.distil.steps.Training.drift", lambda self: 0.5)
    assert start("--steps", 20, *SMALL).code == 0
    stated = json.loads((tmp_path / "out" / "m2d.json").read_text())
    assert (stated["stopped"], stated["steps"]) == (False, 0)


def test_a_new_head_that_agrees_less_than_the_old_one_is_not_taken(
    start: Distil, distilled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2d_train.distil.heads.REGULARISATIONS", (1e9,))
    ended = start("--minutes", 0, "--fresh", "--layers", "0,2,3", *SMALL, base=distilled)
    assert ended.code == 0
    assert "exit 2 stays as it is" in ended.err
    old, new = (load_checkpoint(str(folder)) for folder in (distilled, tmp_path / "out"))
    torch.testing.assert_close(new.heads[2].dense.state_dict(), old.heads[2].dense.state_dict())
    assert old.table is not None
    assert new.table is not None
    torch.testing.assert_close(new.table.state_dict(), old.table.state_dict())


def test_an_exit_that_training_made_worse_is_named(start: Distil, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2d_train.distil.steps.RATE", 0.3)  # the training ruins the blocks
    monkeypatch.setattr("m2d_train.distil.steps.Training.drift", lambda self: 0.0)
    ended = start("--steps", 12, *SMALL)
    assert ended.code == 0
    assert re.search(r"exit [12] agrees less with the base than before", " ".join(ended.err.split()))
