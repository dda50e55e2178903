"""A training refuses what it cannot do before it begins, in one line, and leaves nothing behind."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from m2d_export.errors import SpecError
from tests.support.in_process import Ended
from tests.support.trainings import USAGE, made_up, train, write
from train.recipes import check_dims, check_layers

Refusal = Callable[..., str]


@pytest.fixture
def refused(distilbert: Path, graded: Path, tmp_path: Path) -> Refusal:
    """Train into ``out`` and return the one line of the refusal; nothing may be left behind."""

    def refused(*options: object, model: object = distilbert, source: object = graded) -> str:
        before = sorted(tmp_path.rglob("*"))
        outcome = train(model, source, "-o", tmp_path / "out", *options)
        assert sorted(tmp_path.rglob("*")) == before
        return line_of(outcome)

    return refused


def line_of(outcome: Ended) -> str:
    """The one line of a refusal."""
    assert outcome.code == USAGE
    (line,) = outcome.err.splitlines()
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--dims 128,64", "dim 128 "),
        ("--dims 64,many", "64,many"),
        ("--dims 128 --recipe seed", "dim 128 "),
        ("--layers 1,4", "layer 4 "),
        ("--layers ,", "'--layers'"),
        ("--layers 1,3 --recipe seed", "--layers is for --recipe grid or multitask"),
        ("--unlabelled none.txt --recipe seed", "--unlabelled is for --recipe grid"),
        ("--unlabelled none.txt", "none.txt"),
        ("--weighting uniform", "--recipe seed"),
        ("--base tiny", "--base is for --recipe multitask"),
        ("--texts none.txt --recipe seed", "--texts is for --recipe multitask"),
        ("--pairs-weight 1", "--pairs-weight is for --recipe multitask"),
        ("--recipe multitask --texts none.txt", "--base"),
        ("--recipe multitask --base tiny", "--texts"),
        (
            "--recipe multitask --base tiny --texts none.txt --precision fp32",
            "--precision is for --recipe grid or seed",
        ),
        ("--recipe multitask --base tiny --texts none.txt --pairs-weight nan", "--pairs-weight nan"),
        ("--learning-rate nan", "--learning-rate nan"),
        ("--columns a,b", "--columns a,b:"),
        ("--columns a,b,a", "--columns a,b:"),
        ("--scale 5", "--scale 5:"),
        ("--scale 5,0", "--scale 5,0:"),
        ("--scale 0,inf", "--scale 0,inf:"),
        ("--scale nan,1", "--scale nan,1:"),
        ("--device cpu --precision fp16", "--precision fp32 or bf16"),
        ("--seed -1", "'--seed'"),
        (f"--seed {2**32}", "'--seed'"),
        ("--batch-size 1", "'--batch-size'"),
        ("--epochs 0", "'--epochs'"),
        ("--learning-rate 0", "'--learning-rate'"),
        ("--eval-steps 0", "'--eval-steps'"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(refused: Refusal, options: str, named: str) -> None:
    assert named in refused(*options.split())


@pytest.mark.parametrize(("dims", "named"), [((128, 64), "128"), ((64, 0), "dim 0"), ((32, 16), "64"), ((), "64")])
def test_dims_are_from_1_to_the_width_and_include_it(dims: tuple[int, ...], named: str) -> None:
    with pytest.raises(SpecError, match=named):
        check_dims(dims, 64)


@pytest.mark.parametrize(("layers", "named"), [((1, 4), "layer 4"), ((0, 3), "layer 0"), ((1, 2), "3"), ((), "3")])
def test_layers_are_from_1_to_the_depth_and_include_it(layers: tuple[int, ...], named: str) -> None:
    with pytest.raises(SpecError, match=named):
        check_layers(layers, 3)


def test_dims_and_layers_may_come_in_any_order() -> None:
    assert check_dims((16, 64, 32, 64), 64) == (64, 32, 16)
    assert check_layers((3, 1, 1), 3) == (1, 3)


def test_cuda_without_a_gpu(refused: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device" in refused("--device", "cuda")


def test_a_missing_package_names_its_extra(refused: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "m2d-export[train]" in refused()


def test_a_model_that_is_not_an_encoder(refused: Refusal, tmp_path: Path) -> None:
    folder = tmp_path / "t5"
    folder.mkdir()
    assert "config.json" in refused(model=folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert "no weights" in refused(model=folder)
    assert str(tmp_path / "none") in refused(model=tmp_path / "none")


def test_data_that_cannot_be_used(refused: Refusal, tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    assert refused(source=folder).startswith(str(folder))
    for name in ("train", "dev"):
        write(folder / f"{name}.csv", [(*row[:2], 3 * row[2]) for row in made_up(8, 0)])
    assert "--scale LOW,HIGH" in refused("--scale", "0,1", source=folder)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_an_output_that_exists(refused: Refusal, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out"
    if kind == "folder":
        target.mkdir()
    else:
        target.write_text("mine")
    assert refused().startswith(f"{target} exists:")


def test_an_output_that_cannot_be_written(distilbert: Path, graded: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "out"
    assert str(target) in line_of(train(distilbert, graded, "-o", target))
    assert line_of(train(distilbert, graded, "-o", "/")).startswith("/ exists:")
