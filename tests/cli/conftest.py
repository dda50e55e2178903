"""Fixtures: the command line in this process, and its working folder."""

import io
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from m2d_export import Bundle
from m2d_export.bench import cost
from m2d_export.cli import main
from tests.cli.commands import ROOT, Outcome, Run, Stdin, memory


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run the command line in this process, with ``stdin`` as its standard input."""
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "argv", ["m2d-export", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Stdin(stdin)))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return Outcome(ended.value.code, *capsys.readouterr())

    yield run
    signal.signal(signal.SIGTERM, handler)


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
    monkeypatch.setattr(cost, "SECONDS_PER_SHAPE", 0.0)
    monkeypatch.setattr(cost, "memory", memory)
    return folder
