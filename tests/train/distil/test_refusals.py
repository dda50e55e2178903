"""A distillation refuses what it cannot do in one line, and leaves nothing behind."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from m2d_train.distil.judge import Judge, shown
from safetensors.torch import load_file, save_file

from m2d_export.report.formatting import MISSING
from tests.support.checkpoints import save_checkpoint
from tests.support.distillations import SMALL, write_texts
from tests.train.distil.conftest import Distil

USAGE = 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--dims 0", "dim 0"),
        ("--dims 65", "dim 65"),
        ("--layers 4", "layer 4"),
        ("--steps 1 --minutes 1", "--steps and --minutes"),
        ("--minutes nan", "nan"),
        ("--minutes -1", "--minutes"),
        ("--max-texts 100", "--max-texts"),
        ("--max-tokens 2", "--max-tokens"),
        ("--max-drift 0", "--max-drift"),
        ("--max-drift nan", "--max-drift"),
        ("--mix nothing.txt", "--mix nothing.txt"),
        ("--pooling cls", "Pooling of its own"),
        ("--pooling middle", "--pooling"),
        ("--seed -1", "--seed"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(start: Distil, tmp_path: Path, options: str, named: str) -> None:
    ended = start(*options.split())
    assert ended.code == USAGE
    assert named in ended.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "0 texts, of which 0 differ"),
        (b"a cat\n" * 5000, "5,000 texts, of which 1 differ"),
        (b"".join(b"a cat %d\n" % number for number in range(10)), "10 texts, of which 10 differ"),
        (b"\x7fELF\x02\x01\x01\xff\xfe", "not UTF-8"),
    ],
)
def test_texts_that_are_too_few_or_none(start: Distil, tmp_path: Path, content: bytes, named: str) -> None:
    source = tmp_path / "texts"
    source.write_bytes(content)
    ended = start(source=source)
    assert ended.code == USAGE
    assert named in ended.error
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]


def test_the_least_of_max_texts_is_enough_beside_the_mix(
    start: Distil, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    source = write_texts(tmp_path / "many.txt", 2400)
    assert start("--minutes", 0, "--max-texts", 200, source=source).code == 0
    assert [record.message for record in caplog.records if "--max-texts 200" in record.message]


def test_few_texts_are_warned_of_and_enough_are_not(
    start: Distil, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    options = ("--minutes", 0, "--max-texts", 2400, "--mix", "none")
    assert start(*options, source=write_texts(tmp_path / "few.txt", 300)).code == 0
    assert [record.message for record in caplog.records if "300 texts, of which 300 differ" in record.message]
    caplog.clear()
    shutil.rmtree(tmp_path / "out")
    assert start(*options, source=write_texts(tmp_path / "many.txt", 2400)).code == 0
    assert not caplog.records


def test_weights_that_are_no_numbers_are_named(start: Distil, plain: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(plain, tmp_path / "base"))
    tensors = load_file(base / "model.safetensors")
    name = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    tensors[name][3, 5] = float("nan")
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    ended = start(*SMALL, base=base)
    assert ended.code == USAGE
    assert "nan" in ended.error


@pytest.mark.parametrize(("factor", "named"), [(0.0, "same vector"), (1e30, "not finite")])
def test_a_base_whose_vectors_say_nothing_is_refused(
    start: Distil, plain: Path, tmp_path: Path, factor: float, named: str
) -> None:
    base = Path(shutil.copytree(plain, tmp_path / "base"))
    tensors = load_file(base / "model.safetensors")
    scaled = {name: value * factor if "layer.1" in name or factor == 0 else value for name, value in tensors.items()}
    save_file(scaled, base / "model.safetensors", metadata={"format": "pt"})
    ended = start(*SMALL, "--layers", "0,1,3", base=base)
    assert ended.code == USAGE
    assert named in ended.error
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_an_undefined_agreement_is_no_number_on_the_screen() -> None:
    judge = Judge(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)))
    same = torch.ones(40, 8)
    assert judge.measured(same) is None
    assert shown(judge.agreement(same)) == MISSING


def test_an_output_that_exists_is_left_alone(start: Distil, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    ended = start(*SMALL)
    assert ended.code == USAGE
    assert str(tmp_path / "out") in ended.error
    assert list((tmp_path / "out").iterdir()) == []


def test_a_disk_without_room_is_named_before_the_work(
    start: Distil, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    ended = start(*SMALL)
    assert ended.code == USAGE
    assert f"{tmp_path / 'out'} needs" in ended.error
    assert list(tmp_path.iterdir()) == []


def test_a_pooling_that_nothing_states_is_said(start: Distil, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "made")
    base = tmp_path / "made-plain"
    assert start("--minutes", 0, *SMALL, base=base).code == 0
    assert [record.message for record in caplog.records if "mean is assumed" in record.message]
    caplog.clear()
    shutil.rmtree(tmp_path / "out")
    (base / "m2d.json").write_text(json.dumps({"format": 1, "pooling": "max"}))
    ended = start("--minutes", 0, *SMALL, base=base)
    assert (ended.code, "pooling max" in ended.err) == (0, True)
    assert not [record.message for record in caplog.records if "assumed" in record.message]


def test_an_output_whose_name_is_not_utf_8_is_refused(start: Distil, tmp_path: Path) -> None:
    ended = start("-o", os.fsdecode(bytes(tmp_path) + b"/\xff"), "--minutes", 0, *SMALL)
    assert ended.code == USAGE
    assert "UTF-8" in ended.error
    assert list(tmp_path.iterdir()) == []
