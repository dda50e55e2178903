"""Both recipes end to end on a tiny random DistilBERT: what is published, and what it says of itself."""

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
from tests.support.trainings import DEV, TEST, TRAIN, Outcome, made_up, train, write
from train import wordnet
from train.model import with_heads

DIMS = [WIDTH, 16]
SMALL = ("--dims", f"{WIDTH},16", "--batch-size", 8, "--epochs", 2, "--eval-steps", 4)
STEPS = {"grid": 2 * (TRAIN // 8), "seed": 2 * -(-TRAIN // 8)}  # the grid recipe drops a batch that is not full
TEXTS = ["a cat is playing", "interest rates rose", "the man was sitting on a mat"]
RECIPES = pytest.mark.parametrize("recipe", ["grid", "seed"])


@pytest.fixture(scope="module")
def trained(
    distilbert: Path, graded: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Outcome]]:
    """What each recipe has written and said. Never alter it."""
    folder = tmp_path_factory.mktemp("trained")
    done = {name: train(distilbert, graded, "-o", folder / name, "--recipe", name, *SMALL) for name in ("grid", "seed")}
    assert sorted(path.name for path in folder.iterdir()) == ["grid", "seed"]  # and nothing beside them
    return {name: (folder / name, outcome) for name, outcome in done.items()}


def settings(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "m2d.json").read_text(encoding="utf-8"))


@RECIPES
def test_the_folder_is_an_ordinary_one_of_sentence_transformers(
    trained: dict[str, tuple[Path, Outcome]], distilbert: Path, recipe: str
) -> None:
    folder, outcome = trained[recipe]
    assert outcome.code == 0
    whole, cut = (SentenceTransformer(str(folder), truncate_dim=dim, device="cpu") for dim in (None, 16))
    assert [type(module).__name__ for module in whole] == ["Transformer", "Pooling", "Normalize"]
    vectors = whole.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), WIDTH)
    np.testing.assert_array_equal(cut.encode(TEXTS), vectors[:, :16])
    untrained = SentenceTransformer(str(distilbert), device="cpu").encode(TEXTS)
    assert np.abs(vectors - untrained).max() > 1e-4


@RECIPES
def test_the_checkpoint_loads_with_what_it_was_trained_for(
    trained: dict[str, tuple[Path, Outcome]], recipe: str
) -> None:
    folder, _ = trained[recipe]
    loaded = load_checkpoint(str(folder))
    assert loaded.trained_layers == (1, 2, 3)
    assert loaded.trained_dims == (16, WIDTH)
    assert sorted(loaded.heads) == ([1, 2] if recipe == "grid" else [])
    for layer in loaded.heads:
        head = Dense.load(str(folder / "exits" / str(layer)))
        assert not torch.equal(head.linear.weight, torch.eye(WIDTH))  # as it began


@RECIPES
def test_the_tokenizer_does_not_say_how_it_was_loaded(trained: dict[str, tuple[Path, Outcome]], recipe: str) -> None:
    settings = json.loads((trained[recipe][0] / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings
    assert not {"is_local", "local_files_only"} & settings.keys()


@RECIPES
def test_m2d_json_says_how_it_came_about(trained: dict[str, tuple[Path, Outcome]], recipe: str) -> None:
    found = settings(trained[recipe][0])
    assert [found[key] for key in ("format", "layers", "dims", "recipe")] == [1, [1, 2, 3], DIMS, recipe]
    assert (found["name"], found["base"]) == (recipe, "tiny")  # names, and no paths of this machine
    told = {key: found["settings"][key] for key in ("epochs", "batch_size", "eval_steps", "seed")}
    assert told == {"epochs": 2, "batch_size": 8, "eval_steps": 4, "seed": 42}
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


@RECIPES
def test_scores_are_those_of_the_files(trained: dict[str, tuple[Path, Outcome]], tmp_path: Path, recipe: str) -> None:
    folder, _ = trained[recipe]
    left, right, gold = sides(TEST, 2)
    for layer in range(1, LAYERS + 1):
        exit_ = SentenceTransformer(str(slice_checkpoint(str(folder), layer, tmp_path / str(layer))), device="cpu")
        for dim in DIMS:
            cosines = cosine(exit_.encode(left)[:, :dim], exit_.encode(right)[:, :dim])
            expected = spearman(cosines, np.array(gold))
            assert settings(folder)["scores"]["test"][f"{layer}x{dim}"] == pytest.approx(expected, abs=1e-4)


@RECIPES
@pytest.mark.parametrize(("split", "count", "seed"), [("dev", DEV, 1), ("test", TEST, 2)])
def test_the_ten_figures_are_the_evaluators(
    trained: dict[str, tuple[Path, Outcome]], recipe: str, split: str, count: int, seed: int
) -> None:
    folder, _ = trained[recipe]
    kinds = ["cosine", "manhattan", "euclidean", "dot"]
    evaluator = EmbeddingSimilarityEvaluator(*sides(count, seed), similarity_fn_names=kinds, write_csv=False)
    expected = evaluator(SentenceTransformer(str(folder), device="cpu"))
    assert settings(folder)["metrics"][split] == pytest.approx(expected, abs=1e-5)
    assert len(expected) == 10


@RECIPES
def test_a_card_and_a_picture_lie_beside_it(trained: dict[str, tuple[Path, Outcome]], recipe: str) -> None:
    folder, _ = trained[recipe]
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
    assert f"trained from `tiny` on {TRAIN} sentence pairs" in card
    for entry in found["log"]:
        assert f"| {entry['step']} | {entry['loss']:.4f} | {entry['dev']['3x64']:.2f} |" in card
    assert ("Other than on the seed's card:" in card) == (recipe == "seed")
    assert not re.search(r"/tmp|None|nan", card)


@RECIPES
def test_what_is_said_while_it_trains(trained: dict[str, tuple[Path, Outcome]], recipe: str) -> None:
    folder, outcome = trained[recipe]
    first, second, *rest = outcome.err.splitlines()
    assert first == f"{recipe} recipe on cpu, computing in fp32"
    assert second == f"pairs: {TRAIN} train, {DEV} dev, {TEST} test; scores from 0 to 1"
    unlike = [line for line in rest if line.startswith("unlike the card: ")]
    assert len(unlike) == (5 if recipe == "seed" else 0)
    assert [line.rstrip() for line in rest if "dev after step" in line] == [
        "dev after step 4",
        f"dev after step {STEPS[recipe]}",
    ]
    assert rest[-1] == f"wrote {folder}"
    assert not re.search("warning|%|it/s", outcome.err, re.IGNORECASE)  # nor any bar of a library


def test_half_is_stored_in_half_and_computed_in_whole(distilbert: Path, graded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    assert train(distilbert, graded, "-o", folder, "--half", *SMALL).code == 0
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


def test_the_seed_era_says_so(distilbert: Path, graded: Path, tmp_path: Path) -> None:
    options = ("--recipe", "seed", "--weighting", "seed-era", "--dims", WIDTH, "--epochs", 1)
    outcome = train(distilbert, graded, "-o", tmp_path / "era", *options)
    assert outcome.code == 0
    found = settings(tmp_path / "era")
    assert found["settings"]["weighting"] == "seed-era"
    assert len(found["differences"]) == outcome.err.count("unlike the card: ") == 4
    assert "weigh alike" not in outcome.err


def test_some_layers_without_a_test_split_and_fewer_pairs_than_a_batch(distilbert: Path, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    overlapping = made_up(7, 0)
    write(tmp_path / "few" / "train.csv", overlapping)
    left, right, score = overlapping[0]
    write(tmp_path / "few" / "dev.csv", [(right, left, score), *made_up(6, 1)])
    outcome = train(distilbert, tmp_path / "few", "-o", tmp_path / "out", "--layers", "1,3", "--epochs", 2)
    assert outcome.code == 0
    assert "warning: 1 of the pairs in dev are in train too: scores on dev will flatter\n" in outcome.err
    found = settings(tmp_path / "out")
    assert [entry["step"] for entry in found["log"]] == [2]
    assert (found["layers"], found["heads"], list(found["scores"])) == ([1, 3], [1], ["dev"])
    assert found["data"]["overlap"] == {"dev": 1}


@RECIPES
def test_a_prompt_and_a_tail_that_narrows(graded: Path, tmp_path: Path, recipe: str) -> None:
    torch.manual_seed(1)
    narrow = Dense(WIDTH, 24, activation_function=torch.nn.Tanh())
    base = save_checkpoint(
        tmp_path / "narrow",
        "bert",
        tail=[narrow],
        include_prompt=False,
        prompts={"query": "the man: "},
        default_prompt_name="query",
    )
    folder = tmp_path / "out"
    outcome = train(base, graded, "-o", folder, "--recipe", recipe, "--dims", "24,8", "--epochs", 1)
    assert outcome.code == 0, outcome.err
    assert load_checkpoint(str(folder)).width == 24
    model = SentenceTransformer(str(folder), device="cpu")
    left, right, gold = sides(DEV, 1)
    expected = spearman(cosine(model.encode(left), model.encode(right)), np.array(gold))
    assert settings(folder)["scores"]["dev"]["3x24"] == pytest.approx(expected, abs=1e-4)


def test_the_seed_recipe_trains_behind_the_default_prompt(
    graded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, real = [], CoSENTLoss.forward

    def forward(self: CoSENTLoss, columns: Any, labels: torch.Tensor) -> torch.Tensor:
        seen.extend(ids.tolist() for column in columns for ids in column["input_ids"])
        return real(self, columns, labels)

    monkeypatch.setattr(CoSENTLoss, "forward", forward)
    base = save_checkpoint(tmp_path / "asked", "bert", prompts={"query": "the man: "}, default_prompt_name="query")
    assert train(base, graded, "-o", tmp_path / "out", "--recipe", "seed", "--epochs", 1).code == 0
    expected = load_checkpoint(str(base)).reference_ids("the man: a")[:4]
    assert seen
    assert {tuple(ids[:4]) for ids in seen} == {tuple(expected)}


def test_heads_that_a_checkpoint_has_are_trained_on(trained: dict[str, tuple[Path, Outcome]]) -> None:
    loaded = load_checkpoint(str(trained["grid"][0]))
    again = with_heads(loaded, (1, 3))
    assert again.heads == {1: loaded.heads[1]}
    assert list(with_heads(replace(loaded, heads={}), (1, 3)).heads) == [1]


def test_the_seed_recipe_leaves_heads_out(
    trained: dict[str, tuple[Path, Outcome]], graded: Path, tmp_path: Path
) -> None:
    options = ("--recipe", "seed", "--dims", WIDTH, "--epochs", 1)
    assert train(trained["grid"][0], graded, "-o", tmp_path / "out", *options).code == 0
    found = settings(tmp_path / "out")
    assert found["heads"] == []
    assert found["scores"]["dev"] == pytest.approx(found["log"][-1]["dev"])  # while it was trained, too


def test_sentences_without_a_score_are_learnt_from_and_counted(distilbert: Path, graded: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"{left}\n" for left, _, _ in made_up(30, seed=9)), encoding="utf-8")
    count = len(set(texts.read_text(encoding="utf-8").splitlines()))
    with_them = train(distilbert, graded, "-o", tmp_path / "with", *SMALL, "--unlabelled", texts)
    assert with_them.code == train(distilbert, graded, "-o", tmp_path / "without", *SMALL).code == 0
    assert f"; {count} sentences without a score" in with_them.err
    assert settings(tmp_path / "with")["data"]["unlabelled"] == count
    assert f"and {count} sentences without a score" in (tmp_path / "with" / "README.md").read_text(encoding="utf-8")
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("with", "without")]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_sentences_without_a_score_must_be_a_file_and_are_not_for_the_seed_recipe(
    distilbert: Path, graded: Path, tmp_path: Path
) -> None:
    absent = train(distilbert, graded, "-o", tmp_path / "out", "--unlabelled", tmp_path / "none.txt")
    assert (absent.code, "none.txt" in absent.err) == (2, True)
    seed = train(distilbert, graded, "-o", tmp_path / "out", "--recipe", "seed", "--unlabelled", tmp_path / "none.txt")
    assert (seed.code, "--unlabelled goes with the grid recipe" in seed.err) == (2, True)
    assert not list(tmp_path.iterdir())


def test_wordnets_examples_and_definitions(tmp_path: Path) -> None:
    entry = (
        '00001740 03 n 01 entity 0 001 ~ 0 n 0000 | that which is known to exist; "a thing of some kind"; "too short"\n'
    )
    for name in wordnet.FILES:
        (tmp_path / name).write_text("  1 This software is provided under a licence of four words\n" + entry)
    assert wordnet.examples(tmp_path) == ["a thing of some kind"]
    assert wordnet.definitions(tmp_path) == ["that which is known to exist"]
