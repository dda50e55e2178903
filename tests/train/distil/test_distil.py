"""A distillation writes a folder that sentence-transformers and build take, and says what it made of what."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.pipeline import build
from m2d_export.spec import Cell
from tests.support.checkpoints import MAX_TOKENS, save_checkpoint
from tests.support.distillations import SMALL
from tests.train.distil.conftest import Distil


@pytest.mark.slow
def test_build_takes_the_output_with_all_its_exits(distilled: Path, tmp_path: Path) -> None:
    bundle = build(str(distilled), tmp_path / "made.m2d")
    assert bundle.grid.layers == (0, 1, 2, 3)
    assert bundle.grid.dims == (64, 16)


def test_sentence_transformers_loads_the_output_and_its_table(distilled: Path) -> None:
    model = SentenceTransformer(str(distilled), device="cpu")
    assert model.encode(["a cat", "a dog"]).shape == (2, 64)
    assert model.max_seq_length == MAX_TOKENS  # --max-tokens is of the training alone
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
    assert "the heads of exits 1" in ended.err
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
