"""``encode`` on the command line."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2d_export import Bundle, Encoder
from tests.cli.commands import PROGRAM, Outcome, Run, encoded, refuse
from tests.support.checkpoints import WIDTH


def test_encode_writes_the_vectors_of_the_encoder(run: Run, folder: Path, bundle: Bundle) -> None:
    outcome = run("encode", "tiny.m2d", "texts.txt", "--cell", "2x32", "-o", "o.npy", "--threads", 1)
    assert outcome == Outcome(0, "wrote o.npy: 2 vectors of 32 float32 numbers, cell 2x32\n", "")
    with Encoder(bundle, 2, 32) as encoder:
        np.testing.assert_allclose(encoded(folder), encoder.encode(["a cat", "the dog"]), atol=1e-6)


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (b"a cat\nthe dog\n", ["a cat", "the dog"]),
        (b"a cat\nthe dog", ["a cat", "the dog"]),
        (b"a cat\r\nthe dog\r\n", ["a cat", "the dog"]),
        (b"\xef\xbb\xbfa cat\r\nthe dog\r\n", ["a cat", "the dog"]),
        (b"a cat\n\nthe dog\n\n", ["a cat", "", "the dog", ""]),
        ("naïve\u2028café\x85\x0cmat\n東京\n".encode(), ["naïve\u2028café\x85\x0cmat", "東京"]),
        (b"", []),
        (b"\n", [""]),
    ],
)
@pytest.mark.parametrize("source", ["file", "-", "nothing"])
def test_every_line_is_a_text_with_any_line_end_and_from_any_source(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, texts: list[str], source: str
) -> None:
    stream = Encoder.stream
    seen: list[str] = []

    def spy(encoder: Encoder, lines: Iterator[str], **prompts: Any) -> Any:
        seen.extend(lines)
        return stream(encoder, seen, **prompts)

    monkeypatch.setattr(Encoder, "stream", spy)
    (folder / "file").write_bytes(data)
    named = {"file": ["file"], "-": ["-"], "nothing": []}[source]
    outcome = run("encode", "tiny.m2d", *named, "-o", "o.npy", stdin=b"" if source == "file" else data)
    assert (outcome.code, outcome.err) == (0, "")
    assert seen == texts
    assert encoded(folder).shape == (len(texts), WIDTH)


def test_progress_is_shown_every_10000_texts(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("m2d_export.cli.bundles.steps", lambda: contextlib.nullcontext(shown.append))
    (folder / "many.txt").write_text("a cat\n" * 20_000)
    assert run("encode", "tiny.m2d", "many.txt", "--cell", "1x64", "-o", "o.npy").code == 0
    assert [line for line in shown if line.endswith(" texts")] == ["10000 texts", "20000 texts"]


def test_a_pipe_is_read_as_utf_8_in_every_locale(folder: Path, bundle: Bundle) -> None:
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [*PROGRAM, "encode", "tiny.m2d", "-o", "o.npy"]
    done = subprocess.run(command, input="naïve, 東京".encode(), env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    with Encoder(bundle) as encoder:
        np.testing.assert_allclose(encoded(folder), encoder.encode(["naïve, 東京"]), atol=1e-6)


def test_an_output_is_replaced_only_with_force_and_never_the_input(run: Run, folder: Path) -> None:
    (folder / "o.npy").write_bytes(b"old" * 1000)
    refuse(run, folder, "encode tiny.m2d texts.txt -o o.npy", "o.npy exists: use --force")
    for arguments in ("texts.txt -o texts.txt --force", "texts.txt -o texts.txt"):
        refuse(run, folder, f"encode tiny.m2d {arguments}", "texts.txt is the input")
    assert run("encode", "tiny.m2d", "texts.txt", "-o", "o.npy", "--force").code == 0
    assert encoded(folder).shape == (2, WIDTH)
    assert sorted(path.name for path in folder.iterdir()) == ["o.npy", "pairs.csv", "texts.txt", "tiny.m2d"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("tiny.m2d texts.txt --cell 0x64 -o o.npy", "no exit at layer 0: this grid has layers 1, 2, 3"),
        ("tiny.m2d texts.txt --cell 9x64 -o o.npy", "no exit at layer 9"),
        ("tiny.m2d texts.txt --cell 1x0 -o o.npy", "dim 0 is out of range"),
        ("tiny.m2d texts.txt --cell 1x9999 -o o.npy", "dim 9999 is out of range"),
        ("tiny.m2d texts.txt --prompt-name qurey -o o.npy", "'qurey'"),
        ("tiny.m2d texts.txt --prompt a --prompt-name b -o o.npy", "prompt_name"),
        ("tiny.m2d texts.txt --prompt \udcff -o o.npy", "surrogate"),
        ("none.m2d texts.txt -o o.npy", "m2d-export build"),
        ("texts.txt texts.txt -o o.npy", "texts.txt"),
        ("tiny.m2d texts.txt -o none/o.npy", "cannot write none/o.npy"),
        ("tiny.m2d texts.txt -o tiny.m2d", "cannot write tiny.m2d: Is a directory"),
        ("tiny.m2d latin.txt -o o.npy", "latin.txt, line 2 is not UTF-8"),
        ("tiny.m2d utf16.txt -o o.npy", "utf16.txt, line 1 is not UTF-8"),
    ],
)
def test_wrong_use_of_encode_is_refused_in_one_line(run: Run, folder: Path, arguments: str, message: str) -> None:
    (folder / "latin.txt").write_bytes("a cat\ncafé\n".encode("latin-1"))
    (folder / "utf16.txt").write_bytes("a cat\n".encode("utf-16"))
    outcome = refuse(run, folder, f"encode {arguments}", message)
    assert len(outcome.err.splitlines()) == 1


def test_standard_input_that_is_not_utf_8_is_refused_naming_the_line(run: Run, folder: Path) -> None:
    refuse(
        run, folder, "encode tiny.m2d -o o.npy", "<stdin>, line 5001 is not UTF-8", stdin=b"a cat\n" * 5000 + b"\xff\n"
    )


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        ("encode tiny.m2d texts.txt -o o.npy", "onnxruntime", "cpu"),
        ("encode tiny.m2d texts.txt --runtime openvino -o o.npy", "openvino", "openvino"),
        ("bench tiny.m2d --sts pairs.csv", "onnxruntime", "cpu"),
        ("bench tiny.m2d --sts pairs.csv", "scipy.stats", "bench"),
        ("bench tiny.m2d --sts stsb", "datasets", "hub"),
        ("encode tiny.m2d texts.txt --runtime pytorch -o o.npy", "torch", "build"),
        ("build CHECKPOINT -o new.m2d", "onnxruntime", "cpu"),
        ("slice CHECKPOINT --cell 1x64 -o new", "sentence_transformers", "build"),
    ],
)
def test_a_missing_package_is_refused_in_one_line_that_names_the_extra(
    run: Run,
    folder: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    package: str,
    extra: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    command = command.replace("CHECKPOINT", str(checkpoint))
    outcome = refuse(run, folder, command, f"pip install 'm2d-export[{extra}]'")
    assert len(outcome.err.splitlines()) == 1
