"""The mean of several runs: what its weights are, what it says of itself, what it refuses."""

import contextlib
import io
import json
import sys
from pathlib import Path
from unittest import mock

import pytest
from safetensors.torch import load_file

from m2d_export.checkpoint import load_checkpoint
from m2d_export.cli import run
from tests.conftest import save_checkpoint
from tests.trainings import OPTIONS, SEED, Outcome, names, one_error, train, write_data
from train.soup import main

HEAD = Path("exits") / "1" / "model.safetensors"


def soup(*arguments: object) -> Outcome:
    said, code = io.StringIO(), None
    try:
        with mock.patch.object(sys, "argv", ["soup", *map(str, arguments)]), contextlib.redirect_stderr(said):
            run(main)
    except SystemExit as ended:
        code = ended.code
    return Outcome(code or 0, said.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, and three runs: seeds 1 and 2 of one recipe, and one of another length."""
    folder = tmp_path_factory.mktemp("soup")
    checkpoint, data = save_checkpoint(folder / "tiny"), write_data(folder / "data")
    for name, options in {"one": ("--seed", 1), "two": ("--seed", 2), "longer": ("--epochs", 3)}.items():
        assert train(checkpoint, data, "-o", folder / name, *OPTIONS, *options).code == 0
    assert train(checkpoint, data, "-o", folder / "stock", *SEED).code == 0
    return folder


def test_every_weight_is_the_mean_of_those_of_the_runs(folder: Path, tmp_path: Path) -> None:
    assert soup(folder / "data", folder / "one", folder / "two", "-o", tmp_path / "out").code == 0
    for name in ("model.safetensors", HEAD):
        one, two, mean = (load_file(path / name) for path in (folder / "one", folder / "two", tmp_path / "out"))
        assert mean.keys() == one.keys()
        assert any(not one[key].equal(two[key]) for key in one)
        for key in mean:
            assert mean[key].allclose((one[key] + two[key]) / 2, atol=1e-6)


def test_it_says_what_it_is_made_of_and_what_it_scores_itself(folder: Path, tmp_path: Path) -> None:
    assert soup(folder / "data", folder / "one", folder / "two", "-o", tmp_path / "out", "--half").code == 0
    facts = json.loads((tmp_path / "out" / "m2d.json").read_text(encoding="utf-8"))
    assert facts["seeds"] == [1, 2]
    assert set(facts["scores"]) == {"dev", "test"}
    parts = [json.loads((folder / name / "m2d.json").read_text(encoding="utf-8")) for name in ("one", "two")]
    assert facts["metrics"] not in [part["metrics"] for part in parts]
    assert facts["seconds"] == pytest.approx(sum(part["seconds"] for part in parts), abs=0.1)
    assert "the mean of the weights of 2 runs, seeds 1, 2" in (tmp_path / "out" / "README.md").read_text("utf-8")
    loaded = load_checkpoint(str(tmp_path / "out"))
    assert (loaded.trained_layers, sorted(loaded.heads)) == ((1, 3), [1])


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        (("one", "longer"), "longer differs from {0}/one in settings: average runs of one recipe"),
        (("stock", "one"), "stock was not trained by the grid recipe"),
        (("tiny", "one"), "tiny has no m2d.json: give folders that python -m train wrote"),
    ],
)
def test_what_cannot_be_averaged_is_one_line(folder: Path, tmp_path: Path, runs: tuple[str, ...], said: str) -> None:
    outcome = soup(folder / "data", *(folder / name for name in runs), "-o", tmp_path / "out")
    assert outcome.code == 2
    assert said.format(folder) in one_error(outcome)
    assert names(tmp_path) == []


def test_an_output_that_exists_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    outcome = soup(folder / "data", folder / "one", folder / "two", "-o", tmp_path / "out")
    assert "exists: choose another --output" in one_error(outcome)
    assert names(tmp_path / "out") == []
