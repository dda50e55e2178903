"""What a training refuses before it begins, each in one line and leaving nothing behind."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support.trainings import Outcome, made_up, train, write

USAGE = 2

Refusal = Callable[..., str]


@pytest.fixture
def refused(distilbert: Path, graded: Path, tmp_path: Path) -> Refusal:
    """Train into ``out``, to be told the one line why not, with nothing left behind."""

    def refused(*options: object, model: object = distilbert, source: object = graded) -> str:
        before = sorted(tmp_path.rglob("*"))
        outcome = train(model, source, "-o", tmp_path / "out", *options)
        assert sorted(tmp_path.rglob("*")) == before
        return told(outcome)

    return refused


def told(outcome: Outcome) -> str:
    """The one line of a refusal."""
    assert outcome.code == USAGE
    (line,) = outcome.err.splitlines()
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--dims 128,64", "dims 128,64: this model's vectors have 64 numbers, a dim is from 1 to 64"),
        ("--dims 64,0", "dims 64,0: this model's vectors have 64 numbers, a dim is from 1 to 64"),
        ("--dims 32,64", "dims 32,64 must descend without repeats, as in 384,128,64"),
        ("--dims 64,64", "dims 64,64 must descend without repeats, as in 384,128,64"),
        ("--dims 32,16", "dims 32,16 must begin with the width, 64: it is what the others learn from"),
        ("--dims 64,many", "--dims 64,many: expected whole numbers separated by commas"),
        ("--dims 128 --recipe seed", "dims 128: this model's vectors have 64 numbers, a dim is from 1 to 64"),
        ("--layers 1,4", "layers 1,4: this model has layers 1 to 3"),
        ("--layers 0,3", "layers 0,3: this model has layers 1 to 3"),
        ("--layers 3,1", "layers 3,1 must ascend without repeats, as in 1,3,6"),
        ("--layers 1,2", "layers 1,2 must end with the depth, 3: it is what the others learn from"),
        ("--layers ,", "--layers ,: expected whole numbers separated by commas"),
        ("--layers 1,3 --recipe seed", "--layers goes with the grid recipe: the seed recipe draws from all layers"),
        ("--weighting uniform", "--weighting goes with --recipe seed"),
        ("--columns a,b", "--columns a,b: expected three different names, two sentences and a score"),
        ("--columns a,b,a", "--columns a,b,a: expected three different names, two sentences and a score"),
        ("--scale 5", "--scale 5: expected two numbers, as in 0,5"),
        ("--scale 5,0", "--scale 5,0: expected two finite numbers, the smaller one first"),
        ("--scale 0,inf", "--scale 0,inf: expected two finite numbers, the smaller one first"),
        ("--scale nan,1", "--scale nan,1: expected two finite numbers, the smaller one first"),
        ("--device cpu --precision fp16", "fp16 is for CUDA: on a CPU, train in fp32 or bf16"),
    ],
)
def test_options_that_ask_for_what_is_not_there(refused: Refusal, options: str, message: str) -> None:
    assert refused(*options.split()) == message


@pytest.mark.parametrize(
    "options", ["--seed -1", f"--seed {2**32}", "--batch-size 1", "--epochs 0", "--learning-rate 0", "--eval-steps 0"]
)
def test_numbers_out_of_range(refused: Refusal, options: str) -> None:
    assert f"Invalid value for '{options.split()[0]}'" in refused(*options.split())


def test_cuda_where_there_is_none(refused: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refused("--device", "cuda") == "torch sees no CUDA device here: leave --device out to train on the CPU"


def test_without_its_packages_the_extra_is_named(refused: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert refused().endswith("Install it with: pip install 'm2d-export[train]'")


def test_a_model_that_is_no_encoder(refused: Refusal, tmp_path: Path) -> None:
    folder = tmp_path / "t5"
    folder.mkdir()
    assert refused(model=folder).startswith(f"{folder} is no checkpoint: it has no config.json.")
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": True}))
    assert refused(model=folder) == f"{folder} is an encoder-decoder (t5): only encoders have exits"
    assert refused(model=tmp_path / "none").startswith(f"{tmp_path / 'none'} is neither a folder nor a Hub id")


def test_data_that_cannot_be_used(refused: Refusal, tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    assert refused(source=folder).startswith(f"{folder} has no train and no dev split: expected train, dev")
    for name in ("train", "dev"):
        write(folder / f"{name}.csv", [(*row[:2], 3 * row[2]) for row in made_up(8, 0)])
    assert refused("--scale", "0,1", source=folder).endswith("say the right range with --scale LOW,HIGH")


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_an_output_that_exists(refused: Refusal, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out"
    if kind == "folder":
        target.mkdir()
    elif kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to(tmp_path / "nowhere")
    assert refused() == f"{target} exists: choose another --output, or remove it yourself"


def test_an_output_that_cannot_be_written(distilbert: Path, graded: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "out"
    assert told(train(distilbert, graded, "-o", target)).startswith(f"cannot write {target}.training: Not a directory")
    assert told(train(distilbert, graded, "-o", "/")) == "/ exists: choose another --output, or remove it yourself"
