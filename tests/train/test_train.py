"""Both recipes from end to end on a tiny random DistilBERT: the published folder, and what it says about itself."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.sentence_transformer.losses import CoSENTLoss
from sentence_transformers.sentence_transformer.modules import Dense

from m2d_export.bench.similarity import spearman
from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.checkpoints.slice import slice_checkpoint
from m2d_export.vectors import cosine
from tests.support.checkpoints import LAYERS, WIDTH, save_checkpoint
from tests.support.trainings import DEV, DIMS, GRID, RECIPES, STEPS, TEST, TRAIN, made_up, settings, train, write
from tests.train.conftest import Trained
from train import wordnet
from train.model import with_heads

TEXTS = ["a cat is playing", "interest rates rose", "the man was sitting on a mat"]
BOTH = pytest.mark.parametrize("recipe", RECIPES)


@BOTH
def test_the_folder_is_an_ordinary_one_of_sentence_transformers(
    trained: Trained, distilbert: Path, recipe: str
) -> None:
    folder, outcome = trained(recipe)
    assert outcome.code == 0
    whole, cut = (SentenceTransformer(str(folder), truncate_dim=dim, device="cpu") for dim in (None, 16))
    assert [type(module).__name__ for module in whole] == ["Transformer", "Pooling", "Normalize"]
    vectors = whole.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), WIDTH)
    np.testing.assert_array_equal(cut.encode(TEXTS), vectors[:, :16])
    untrained = SentenceTransformer(str(distilbert), device="cpu").encode(TEXTS)
    assert np.abs(vectors - untrained).max() > 1e-4


@BOTH
def test_the_checkpoint_loads_with_its_trained_layers_dims_and_heads(trained: Trained, recipe: str) -> None:
    folder, _ = trained(recipe)
    loaded = load_checkpoint(str(folder))
    assert loaded.trained_layers == (1, 2, 3)
    assert loaded.trained_dims == DIMS[::-1]
    assert sorted(loaded.heads) == ([1, 2] if recipe == "grid" else [])
    for layer in loaded.heads:
        head = Dense.load(str(folder / "exits" / str(layer)))
        assert not torch.equal(head.linear.weight, torch.eye(WIDTH))  # a head that was not trained is the identity


@BOTH
def test_the_tokenizer_does_not_store_how_it_was_loaded(trained: Trained, recipe: str) -> None:
    stored = json.loads((trained(recipe)[0] / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert stored
    assert not {"is_local", "local_files_only"} & stored.keys()


@BOTH
def test_m2d_json_says_how_the_checkpoint_was_made(trained: Trained, recipe: str) -> None:
    found = settings(trained(recipe)[0])
    assert [found[key] for key in ("format", "layers", "dims", "recipe")] == [1, [1, 2, 3], list(DIMS), recipe]
    assert (found["name"], found["base"]) == (recipe, "tiny")  # names, not paths of this machine
    used = {key: found["settings"][key] for key in ("epochs", "batch_size", "eval_steps", "seed")}
    assert used == {"epochs": 2, "batch_size": 8, "eval_steps": 4, "seed": 42}
    assert found["data"]["source"] == "pairs"
    assert found["data"]["pairs"] == {"train": TRAIN, "dev": DEV, "test": TEST}
    assert (found["data"]["scale"], found["data"]["overlap"]) == ([0.0, 1.0], {"dev": 0, "test": 0})
    assert re.fullmatch(r"[0-9a-f]{64}", found["data"]["sha256"])
    assert found["precision"] == "fp32"
    assert set(found["versions"]) == {"torch", "transformers", "sentence-transformers"}
    assert [entry["step"] for entry in found["log"]] == [4, STEPS[recipe]]
    assert all(entry["loss"] > 0 for entry in found["log"])
    assert found["scores"]["dev"] == pytest.approx(found["log"][-1]["dev"])
    cells = {f"{layer}x{dim}" for layer in (1, 2, 3) for dim in DIMS}
    assert {name: set(grid) for name, grid in found["scores"].items()} == {"dev": cells, "test": cells}


def sides(count: int, seed: int) -> tuple[list[str], list[str], list[float]]:
    left, right, scores = zip(*made_up(count, seed), strict=True)
    return list(left), list(right), list(scores)


@BOTH
def test_scores_are_those_of_the_files(trained: Trained, tmp_path: Path, recipe: str) -> None:
    folder, _ = trained(recipe)
    left, right, gold = sides(TEST, 2)
    for layer in range(1, LAYERS + 1):
        exit_ = SentenceTransformer(str(slice_checkpoint(str(folder), layer, tmp_path / str(layer))), device="cpu")
        for dim in DIMS:
            cosines = cosine(exit_.encode(left)[:, :dim], exit_.encode(right)[:, :dim])
            expected = spearman(cosines, np.array(gold))
            assert settings(folder)["scores"]["test"][f"{layer}x{dim}"] == pytest.approx(expected, abs=1e-4)


@BOTH
@pytest.mark.parametrize(("split", "count", "seed"), [("dev", DEV, 1), ("test", TEST, 2)])
def test_the_ten_metrics_are_those_of_the_evaluator(
    trained: Trained, recipe: str, split: str, count: int, seed: int
) -> None:
    folder, _ = trained(recipe)
    kinds = ["cosine", "manhattan", "euclidean", "dot"]
    evaluator = EmbeddingSimilarityEvaluator(*sides(count, seed), similarity_fn_names=kinds, write_csv=False)
    expected = evaluator(SentenceTransformer(str(folder), device="cpu"))
    assert settings(folder)["metrics"][split] == pytest.approx(expected, abs=1e-5)
    assert len(expected) == 10


@BOTH
def test_the_folder_has_a_card_and_a_picture(trained: Trained, recipe: str) -> None:
    folder, _ = trained(recipe)
    assert (folder / "grid.png").read_bytes().startswith(b"\x89PNG")
    card = (folder / "README.md").read_text(encoding="utf-8")
    found = settings(folder)
    for split in ("dev", "test"):
        assert f"## Scores on {split}\n" in card
        full, small = (found["scores"][split][f"3x{dim}"] for dim in DIMS)
        assert f"| 3 | {full:.1f} | {small:.1f} |" in card
        assert f"| `spearman_cosine` | {found['metrics'][split]['spearman_cosine']:.4f} |" in card
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    assert f'SentenceTransformer("{recipe}", truncate_dim=16)' in card
    assert "`tiny`" in card
    for entry in found["log"]:
        assert f"| {entry['step']} | {entry['loss']:.4f} | {entry['dev']['3x64']:.2f} |" in card
    assert all(line in card for line in found["differences"])
    assert len(found["differences"]) == (5 if recipe == "seed" else 0)
    assert not re.search(r"/tmp|None|nan", card)


@BOTH
def test_a_training_shows_its_data_its_evaluations_and_its_folder(trained: Trained, recipe: str) -> None:
    folder, outcome = trained(recipe)
    first, second, *rest = outcome.err.splitlines()
    assert {recipe, "cpu", "fp32"} <= set(first.split())
    assert f"{TRAIN} train, {DEV} dev, {TEST} test" in second
    assert [line for line in settings(folder)["differences"] if not any(line in row for row in rest)] == []
    assert [line.rstrip() for line in rest if "dev after step" in line] == [
        "dev after step 4",
        f"dev after step {STEPS[recipe]}",
    ]
    assert rest[-1].endswith(str(folder))
    assert not re.search("warning|%|it/s", outcome.err, re.IGNORECASE)  # no progress bar of a library


def test_half_is_stored_in_half_and_loaded_in_float32(distilbert: Path, graded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    assert train(distilbert, graded, "-o", folder, "--half", *GRID).code == 0
    files = sorted(folder.rglob("*.safetensors"))
    assert len(files) == 1 + 2
    for path in files:
        assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}
        with safe_open(path, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
    model = SentenceTransformer(str(folder), device="cpu")
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    left, right, gold = sides(DEV, 1)
    expected = spearman(cosine(model.encode(left), model.encode(right)), np.array(gold))
    assert settings(folder)["scores"]["dev"]["3x64"] == pytest.approx(expected, abs=1e-4)  # of the rounded weights


def test_some_layers_without_a_test_split_and_fewer_pairs_than_a_batch(distilbert: Path, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    rows = made_up(7, 0)
    write(tmp_path / "few" / "train.csv", rows)
    left, right, score = rows[0]
    write(tmp_path / "few" / "dev.csv", [(right, left, score), *made_up(6, 1)])
    outcome = train(distilbert, tmp_path / "few", "-o", tmp_path / "out", "--layers", "1,3", "--epochs", 2)
    assert outcome.code == 0
    assert "warning: 1 pairs of dev " in outcome.err
    found = settings(tmp_path / "out")
    assert [entry["step"] for entry in found["log"]] == [2]
    assert (found["layers"], list(found["scores"])) == ([1, 3], ["dev"])
    assert found["heads"] == [{"layer": 1, "reads": [1], "mean": []}]
    assert found["data"]["overlap"] == {"dev": 1}


@BOTH
def test_a_default_prompt_and_a_dense_module_that_makes_vectors_smaller(
    graded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    seen, real = [], CoSENTLoss.forward

    def forward(self: CoSENTLoss, columns: Any, labels: torch.Tensor) -> torch.Tensor:
        seen.extend(ids.tolist() for column in columns for ids in column["input_ids"])
        return real(self, columns, labels)

    monkeypatch.setattr(CoSENTLoss, "forward", forward)
    torch.manual_seed(1)
    base = save_checkpoint(
        tmp_path / "narrow",
        "bert",
        tail=[Dense(WIDTH, 24, activation_function=torch.nn.Tanh())],
        include_prompt=False,
        prompts={"query": "the man: "},
        default_prompt_name="query",
    )
    folder = tmp_path / "out"
    outcome = train(base, graded, "-o", folder, "--recipe", recipe, "--dims", "8,24", "--epochs", 1)
    assert outcome.code == 0, outcome.err
    assert load_checkpoint(str(folder)).width == 24
    model = SentenceTransformer(str(folder), device="cpu")
    left, right, gold = sides(DEV, 1)
    expected = spearman(cosine(model.encode(left), model.encode(right)), np.array(gold))
    assert settings(folder)["scores"]["dev"]["3x24"] == pytest.approx(expected, abs=1e-4)
    if recipe == "seed":
        prompt = load_checkpoint(str(base)).reference_ids("the man: a")[:4]
        assert seen
        assert {tuple(ids[:4]) for ids in seen} == {tuple(prompt)}


def test_heads_of_a_checkpoint_are_trained_further(trained: Trained) -> None:
    loaded = load_checkpoint(str(trained("grid")[0]))
    again = with_heads(loaded, (1, 3))
    assert again.heads == {1: loaded.heads[1]}
    assert list(with_heads(replace(loaded, heads={}), (1, 3)).heads) == [1]


def test_the_seed_recipe_leaves_heads_out_and_can_weigh_layers_as_the_card_did(
    trained: Trained, graded: Path, tmp_path: Path
) -> None:
    base, out = trained("grid")[0], tmp_path / "out"
    options = ("--recipe", "seed", "--weighting", "seed-era", "--dims", WIDTH, "--epochs", 1)
    assert train(base, graded, "-o", out, *options).code == 0
    found = settings(out)
    assert found["heads"] == []
    assert found["scores"]["dev"] == pytest.approx(found["log"][-1]["dev"])  # scored without heads while it trained
    assert found["settings"]["weighting"] == "seed-era"
    assert len(found["differences"]) == len(settings(trained("seed")[0])["differences"]) - 1


def test_sentences_without_scores_change_the_training_and_are_counted(
    distilbert: Path, graded: Path, trained: Trained, tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"{left}\n" for left, _, _ in made_up(30, seed=9)), encoding="utf-8")
    count = len(set(texts.read_text(encoding="utf-8").splitlines()))
    folder = tmp_path / "with"
    outcome = train(distilbert, graded, "-o", folder, *GRID, "--unlabelled", texts)
    assert outcome.code == 0
    assert settings(folder)["data"]["unlabelled"] == count
    for shown in (outcome.err, (folder / "README.md").read_text(encoding="utf-8")):
        assert f"{count} sentences without scores" in shown
    with_them, without = (load_file(path / "model.safetensors") for path in (folder, trained("grid")[0]))
    assert any(not torch.equal(with_them[name], without[name]) for name in with_them)


def test_wordnets_examples_and_definitions(tmp_path: Path) -> None:
    entry = (
        '00001740 03 n 01 entity 0 001 ~ 0 n 0000 | that which is known to exist; "a thing of some kind"; "too short"\n'
    )
    for name in wordnet.FILES:
        (tmp_path / name).write_text("  1 This software is provided under a licence of four words\n" + entry)
    assert wordnet.examples(tmp_path) == ["a thing of some kind"]
    assert wordnet.definitions(tmp_path) == ["that which is known to exist"]
