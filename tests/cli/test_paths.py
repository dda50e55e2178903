"""Paths with unusual names, and paths that lead nowhere or in a circle."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.commands import QUICK, USAGE, Run, encoded, refuse
from tests.cli.test_outputs import program
from tests.support.checkpoints import WIDTH

NAMES = ["new\nline", "-x", " ", "~", "%s a*b;$(x)'\"é", "x" * 200]


@pytest.mark.parametrize("name", NAMES)
def test_unusual_names_are_names_as_others(run: Run, folder: Path, name: str) -> None:
    (folder / "tiny.m2d").rename(folder / name)
    (folder / "texts.txt").rename(folder / f"{name}.txt")
    assert run("verify", f"./{name}/").code == 0
    assert run("encode", "-o", f"./{name}.npy", "--", f"./{name}", f"./{name}.txt").code == 0
    assert encoded(folder, f"{name}.npy").shape == (2, WIDTH)
    assert run("onnx", f"./{name}/.", "--cell", "1x64", "-o", f"./{name}.onnx").code == 0
    if name.startswith("%"):
        assert run("bench", f"./{name}", *QUICK.split(), "-o", f"./{name}.jsonl").code == 0
        assert run("report", f"./{name}.jsonl", "-o", f"./{name}.report").code == 0


def test_a_bundle_is_the_working_folder(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "tiny.m2d")
    assert run("encode", ".", "../texts.txt", "-o", "../o.npy").code == 0
    assert encoded(folder).shape == (2, WIDTH)
    monkeypatch.chdir("graphs")
    assert run("verify", "..").code == 0


def test_a_link_that_leads_to_itself_is_refused(run: Run, folder: Path) -> None:
    (folder / "loop").symlink_to("loop")
    for command in (
        "show loop",
        "encode loop texts.txt -o o.npy",
        "encode tiny.m2d loop -o o.npy",
        "encode tiny.m2d texts.txt -o loop --force",
        "bench tiny.m2d --retrieval loop -o r.jsonl",
        "bench tiny.m2d --sts pairs.csv -o loop",
        "report loop -o report",
        "onnx tiny.m2d -o loop",
        "build loop -o new.m2d",
        "build tiny.m2d -o loop --force",
    ):
        refuse(run, folder, command, "loop")


def test_a_name_that_is_no_utf_8_works_or_is_named(folder: Path, make_checkpoint: Callable[..., Path]) -> None:
    """ONNX Runtime and safetensors open UTF-8 names only."""
    inner = folder / os.fsdecode(b"caf\xe9")
    inner.mkdir()
    (folder / "tiny.m2d").rename(inner / "tiny.m2d")
    shutil.copytree(make_checkpoint(), inner / "made")
    done = program("cd caf*; $M encode tiny.m2d ../texts.txt --runtime openvino -o o.npy")
    assert (done.returncode, encoded(inner).shape, done.stderr) == (0, (2, WIDTH), b"")
    for command in (
        "encode tiny.m2d ../texts.txt -o o2.npy",
        "onnx tiny.m2d -o onnx",
        "build made -o ../new.m2d",
        f"build {folder.parent}/made -o new.m2d",
    ):
        done = program(f"cd caf*; HF_HUB_OFFLINE=1 $M {command}")
        (line,) = done.stderr.splitlines()
        assert done.returncode == USAGE
        assert line.startswith(b"Error: ")
        assert b"UTF-8" in line
        assert rb"caf\udce9" in line
    assert sorted(path.name for path in inner.iterdir()) == ["made", "o.npy", "tiny.m2d"]
