"""Fixtures: the command line in this process, and its working folder."""

import shutil
from pathlib import Path

import pytest

from m2d_export import Bundle
from tests.cli.commands import ROOT, Outcome, Run, call, shorten_bench


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process, with ``stdin`` as its standard input."""

    def run(*arguments: object, stdin: bytes = b"") -> Outcome:
        capsys.readouterr()
        return Outcome(call(*arguments, stdin=stdin), *capsys.readouterr())

    return run


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a bundle, texts and pairs."""
    folder = tmp_path / "work"
    folder.mkdir()
    shutil.copytree(bundle.root, folder / "tiny.m2d")
    (folder / "texts.txt").write_text("a cat\nthe dog\n")
    (folder / "pairs.csv").write_text("a cat,a dog,3\na cat,the cat,4.5\nno,interest rates rose,0\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for commands that start a process
    shorten_bench(monkeypatch)
    return folder
