"""``build`` and ``slice`` on the command line."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from m2d_export import Bundle, pipeline
from m2d_export.cli import main
from tests.cli.commands import Run, contents, refuse


def test_a_dry_run_says_what_would_be_built_and_writes_nothing(run: Run, folder: Path, checkpoint: Path) -> None:
    before = contents(folder)
    outcome = run("build", checkpoint, "-o", "new.m2d", "--layers", "1,2", "--dims", "32,64", "--dry-run")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("would build new.m2d: 2 exits of BertModel (layers 1, 2 of 3), fp32, dims 64, 32, ")
    assert contents(folder) == before


def test_what_is_built_is_a_bundle(run: Run, folder: Path, checkpoint: Path, bundle: Bundle, monkeypatch: Any) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(pipeline, "build", lambda planned, **options: asked.append((planned, options)))
    outcome = run("build", checkpoint, "-o", "new.m2d", "--layers", "2", "--dims", "7")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("built new.m2d: 1 exits of BertModel")
    ((planned, options),) = asked
    assert planned.target == folder / "new.m2d"
    assert (planned.grid.layers, planned.grid.dims, options["force"]) == ((2,), (7,), False)


def test_engines_are_built_once_and_each_step_names_one(
    run: Run, folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed (extra: trt-rtx)")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    options = "--layers 1,2 --precision fp16 --engine trt-rtx --gpu sm86 --shapes 1x1:8x16:16x32"
    first = run("build", checkpoint, "-o", "new.m2d", *options.split())
    assert (first.code, first.out.endswith("; trt-rtx engines of fp16\n")) == (0, True)
    assert "note: --shapes ends at 32 tokens, the checkpoint reads 48: engines refuse longer texts" in first.err
    for layer in (1, 2):
        assert f"building the engine of layer {layer}, fp16, trt-rtx" in first.err
        assert f" engine of layer {layer}, fp16, trt-rtx: " in first.err  # a phase of it
    engines = Bundle.open(folder / "new.m2d").manifest.engines
    assert [(entry.layer, entry.key.targets) for entry in engines] == [(1, ("sm86",)), (2, ("sm86",))]
    again = run("build", checkpoint, "-o", "new.m2d", *options.split(), "--force")
    assert again.code == 0
    assert all(f"keeping the engine of layer {layer}, fp16, trt-rtx: " in again.err for layer in (1, 2))
    assert "building the engine" not in again.err
    assert Bundle.open(folder / "new.m2d").manifest.engines == engines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("./none -o new.m2d", "./none is neither a folder nor a Hub id"),
        ("none/at-all -o new.m2d", "no folder none/at-all here, and the Hub has not given it"),
        ("texts.txt -o new.m2d", "texts.txt is neither a folder nor a Hub id"),
        ("tiny.m2d -o new.m2d", "tiny.m2d is no checkpoint: it has no config.json"),
        ("foreign -o new.m2d", "cannot be loaded"),
        ("CHECKPOINT -o tiny.m2d", "tiny.m2d exists: use --force to replace it"),
        ("CHECKPOINT -o texts.txt", "texts.txt exists and is not a bundle"),
        ("CHECKPOINT -o foreign --force", "foreign exists and is not a bundle"),
        ("CHECKPOINT -o new.m2d --layers 0", "layer 0 does not exist: this checkpoint has layers 1 to 3"),
        ("CHECKPOINT -o new.m2d --layers 1,9", "layer 9 does not exist"),
        ("CHECKPOINT -o new.m2d --layers -1", "layer -1 does not exist"),
        ("CHECKPOINT -o new.m2d --dims 0", "dim 0 is out of range"),
        ("CHECKPOINT -o new.m2d --dims 32,9999", "dim 9999 is out of range: this checkpoint's vectors have 1 to 64"),
        ("CHECKPOINT -o new.m2d --revision main", "is a local folder: a revision goes with a Hub id"),
    ],
)
def test_what_cannot_be_built_is_refused(
    run: Run, folder: Path, checkpoint: Path, arguments: str, message: str
) -> None:
    (folder / "foreign").mkdir()
    (folder / "foreign" / "config.json").write_text('{"model_type": "no such model"}')
    outcome = refuse(run, folder, f"build {arguments.replace('CHECKPOINT', str(checkpoint))}", message)
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize("error", [MemoryError, AssertionError])
def test_an_unforeseen_error_is_not_dressed_up(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr(Bundle, "open", fail)
    monkeypatch.setattr(sys, "argv", ["m2d-export", "show", "tiny.m2d"])
    with pytest.raises(error):
        main()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--layer 0 -o new", "no exit at layer 0: this grid has layers 1, 2, 3"),
        ("--layer 9 -o new", "no exit at layer 9"),
        ("--layer 1 --dim 0 -o new", "dim 0 is out of range"),
        ("--layer 1 --dim 65 -o new", "dim 65 is out of range"),
        ("--layer 1 -o texts.txt", "texts.txt exists"),
        ("--layer 1 -o tiny.m2d", "tiny.m2d exists"),
    ],
)
def test_what_cannot_be_sliced_is_refused(
    run: Run, folder: Path, checkpoint: Path, arguments: str, message: str
) -> None:
    outcome = refuse(run, folder, f"slice {checkpoint} {arguments}", message)
    assert len(outcome.err.splitlines()) == 1


def test_a_slice_is_written(run: Run, folder: Path, checkpoint: Path) -> None:
    outcome = run("slice", checkpoint, "--layer", 2, "--dim", 32, "-o", "new")
    assert (outcome.code, outcome.out) == (0, "wrote new: a sentence-transformers folder of layer 2\n")
    assert json.loads((folder / "new" / "config.json").read_text())["num_hidden_layers"] == 2
