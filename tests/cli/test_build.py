"""``build`` and ``slice`` on the command line."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from m2d_export import Bundle, pipeline
from tests.cli.commands import Run, contents, refuse


@pytest.mark.slow
def test_a_dry_run_prints_what_would_be_built_and_writes_nothing(run: Run, folder: Path, checkpoint: Path) -> None:
    before = contents(folder)
    outcome = run("build", checkpoint, "-o", "new.m2d", "--layers", "1,2", "--dims", "32,64", "--dry-run")
    assert (outcome.code, outcome.err) == (0, "")
    assert all(word in outcome.out for word in ("would build new.m2d", "BertModel", "layers 1, 2 of 3", "dims 64, 32"))
    assert contents(folder) == before


def test_build_passes_its_options_on(
    run: Run, folder: Path, checkpoint: Path, bundle: Bundle, monkeypatch: Any
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(pipeline, "build_planned", lambda planned, progress: asked.append(planned))
    outcome = run("build", checkpoint, "-o", "new.m2d", "--layers", "2", "--dims", "7")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("built new.m2d: BertModel")
    (planned,) = asked
    assert planned.target == folder / "new.m2d"
    assert (planned.grid.layers, planned.grid.dims, planned.force) == ((2,), (7,), False)


@pytest.mark.slow
def test_engines_are_built_once_and_each_step_names_its_engine(
    run: Run, folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed (extra: trt-rtx)")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    options = "--layers 1,2 --precision fp16 --engine trt-rtx --gpu sm86 --shapes 1x1:8x16:16x32"
    first = run("build", checkpoint, "-o", "new.m2d", *options.split())
    assert (first.code, first.out.endswith("; trt-rtx engines of fp16\n")) == (0, True)
    assert "note: --shapes ends at 32 tokens, but the checkpoint reads 48" in first.err
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
        ("./none -o new.m2d", "./none"),
        ("none/at-all -o new.m2d", "none/at-all"),
        ("texts.txt -o new.m2d", "texts.txt"),
        ("tiny.m2d -o new.m2d", "config.json"),
        ("foreign -o new.m2d", "foreign"),
        ("CHECKPOINT -o tiny.m2d", "tiny.m2d exists: use --force"),
        ("CHECKPOINT -o texts.txt", "texts.txt exists and is not a bundle"),
        ("CHECKPOINT -o foreign --force", "foreign exists and is not a bundle"),
        ("CHECKPOINT -o new.m2d --layers 0", "no exit 0"),
        ("CHECKPOINT -o new.m2d --layers 1,9", "layer 9 does not exist"),
        ("CHECKPOINT -o new.m2d --layers -1", "layer -1 does not exist"),
        ("CHECKPOINT -o new.m2d --dims 0", "dim 0 is out of range"),
        ("CHECKPOINT -o new.m2d --dims 32,9999", "dim 9999 is out of range"),
        ("CHECKPOINT -o new.m2d --dims 32,x", "--dims takes whole numbers"),
        ("CHECKPOINT -o new.m2d --precision fp8", "fp8"),
        ("CHECKPOINT -o new.m2d --calibration texts.txt", "int8"),
        ("CHECKPOINT -o new.m2d --revision main", "revision"),
    ],
)
def test_a_build_that_cannot_work_is_refused_in_one_line(
    run: Run, folder: Path, checkpoint: Path, arguments: str, message: str
) -> None:
    (folder / "foreign").mkdir()
    (folder / "foreign" / "config.json").write_text('{"model_type": "no such model"}')
    outcome = refuse(run, folder, f"build {arguments.replace('CHECKPOINT', str(checkpoint))}", message)
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--cell 0x64 -o new", "no exit 0, because it has no table"),
        ("--cell 9x64 -o new", "no exit at layer 9"),
        ("--cell 1x0 -o new", "dim 0 is out of range"),
        ("--cell 1x65 -o new", "dim 65 is out of range"),
        ("--cell 1 -o new", "LAYERxDIM"),
        ("-o new", "Missing option '--cell'"),
        ("--cell 1x64 -o texts.txt", "texts.txt exists"),
        ("--cell 1x64 -o tiny.m2d", "tiny.m2d exists"),
    ],
)
def test_a_slice_that_cannot_work_is_refused_in_one_line(
    run: Run, folder: Path, checkpoint: Path, arguments: str, message: str
) -> None:
    outcome = refuse(run, folder, f"slice {checkpoint} {arguments}", message)
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(("cell", "truncate_dim"), [("2x32", 32), ("2x64", None)])
def test_a_slice_has_the_layers_and_the_dim_of_its_cell(
    run: Run, folder: Path, checkpoint: Path, cell: str, truncate_dim: int | None
) -> None:
    outcome = run("slice", checkpoint, "--cell", cell, "-o", "new")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"cell {cell}" in outcome.out
    assert json.loads((folder / "new" / "config.json").read_text())["num_hidden_layers"] == 2
    settings = json.loads((folder / "new" / "config_sentence_transformers.json").read_text())
    assert settings.get("truncate_dim") == truncate_dim
