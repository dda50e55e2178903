"""The command line: what it prints, what it writes, how it ends. Most of it in-process, through ``main``."""

import contextlib
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2d_export import Bundle, Encoder, __version__, machine
from m2d_export import build as pipeline
from m2d_export.bench import cost
from m2d_export.bench.figures import candidates
from m2d_export.bench.records import read_records
from m2d_export.bench.sts import load_pairs
from m2d_export.cli import main, measures
from m2d_export.cli.common import steps
from tests import made_up
from tests.conftest import LAYERS, WIDTH, heed_signals

ROOT = Path(__file__).parent.parent
PROGRAM = [sys.executable, "-m", "m2d_export"]
GATE, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


class Stdin(io.BytesIO):
    """Bytes that call themselves what standard input does."""

    name = "<stdin>"


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
    """The working directory: a bundle, texts and pairs."""
    folder = tmp_path / "work"
    folder.mkdir()
    shutil.copytree(bundle.root, folder / "tiny.m2d")
    (folder / "texts.txt").write_text("a cat\nthe dog\n")
    (folder / "pairs.csv").write_text("a cat,a dog,3\na cat,the cat,4.5\nno,interest rates rose,0\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for what runs as a program of its own
    monkeypatch.setattr(cost, "SECONDS_PER_SHAPE", 0.0)
    monkeypatch.setattr(cost, "memory", memory)
    return folder


def memory(bundle: Bundle, layer: int, texts: Sequence[str], options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """In the place of a process that takes a second for each layer."""
    yield {"kind": "memory", "layer": layer, "peak_mb": 100.0, "provider": "CPUExecutionProvider"}


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes, every folder with None."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refuse(run: Run, folder: Path, arguments: str, message: str, code: int = USAGE, stdin: bytes = b"") -> Outcome:
    """Check that a command fails in one line on standard error, and that it writes nothing."""
    before = contents(folder)
    outcome = run(*arguments.split(), stdin=stdin)
    assert outcome.code == code
    assert outcome.out == ""
    assert outcome.err.endswith("\n")
    (line,) = outcome.err.splitlines()
    assert line.startswith("Error: ")
    assert message in line
    assert contents(folder) == before
    return outcome


# --- the program itself


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["build", "--help"], ["encode", "-h"]])
def test_help_is_on_standard_output(run: Run, arguments: list[str]) -> None:
    outcome = run(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    assert "Usage:" in outcome.out


def test_the_version_is_the_packages(run: Run) -> None:
    assert run("--version") == Outcome(0, f"m2d-export, version {__version__}\n", "")


def test_no_command_at_all_is_wrong_use_and_shows_the_help(run: Run) -> None:
    outcome = run()
    assert (outcome.code, outcome.out) == (USAGE, "")
    assert "Commands:" in outcome.err


def test_the_module_is_the_program(folder: Path) -> None:
    done = subprocess.run([*PROGRAM, "verify", "tiny.m2d"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("tiny.m2d is sound")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("bundle", "No such command 'bundle'"),
        ("show", "Missing argument 'BUNDLE'"),
        ("show tiny.m2d --jsno", "No such option"),
        ("encode tiny.m2d texts.txt", "Missing option '-o' / '--output'"),
        ("encode tiny.m2d texts.txt -o o.npy --layer two", "'two' is not a valid integer"),
        ("encode tiny.m2d texts.txt -o o.npy --runtime tensorrt", "'tensorrt' is not one of"),
        ("encode tiny.m2d texts.txt -o o.npy --precision fp8", "'fp8' is not"),
        ("encode tiny.m2d texts.txt -o o.npy --threads 0", "0 is not in the range x>=1"),
        ("encode tiny.m2d texts.txt -o o.npy --threads x", "'x' is not a valid integer range"),
        ("encode tiny.m2d texts.txt -o o.npy --compute fp8", "'fp8' is not one of 'fp32', 'bf16'"),
        ("encode tiny.m2d none.txt -o o.npy", "'none.txt': No such file or directory"),
        ("bench tiny.m2d --layers 1,x", "--layers takes whole numbers separated by commas"),
        ("bench tiny.m2d --dims all", "--dims takes whole numbers separated by commas"),
        ("bench tiny.m2d --batch-size 1.5", "--batch-size takes whole numbers separated by commas"),
        ("build x -o y --layers ALL", "--layers takes whole numbers separated by commas"),
    ],
)
def test_wrong_use_is_said_with_where_to_read_more(run: Run, folder: Path, arguments: str, message: str) -> None:
    outcome = refuse(run, folder, arguments, message)
    assert outcome.err.endswith(" --help says more)\n")


# --- interruption and pipes


@pytest.mark.parametrize("command", ["show tiny.m2d", "verify tiny.m2d", "encode tiny.m2d texts.txt -o o.npy"])
def test_an_interrupted_command_ends_with_130(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bundle, "open", interrupted)
    before = contents(folder)
    outcome = run(*command.split())
    assert (outcome.code, outcome.out, outcome.err.strip()) == (INTERRUPTED, "", "interrupted")
    assert contents(folder) == before


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)])
def test_a_signal_ends_a_waiting_command_and_leaves_nothing(folder: Path, sent: signal.Signals, code: int) -> None:
    before = contents(folder)
    command = [*PROGRAM, "encode", "tiny.m2d", "-o", "vectors.npy"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, preexec_fn=heed_signals, **pipes) as process:
        # It reads standard input once the model is loaded, so it is waiting when that library is mapped.
        maps = Path(f"/proc/{process.pid}/maps")
        deadline = time.monotonic() + 30
        while "onnxruntime" not in maps.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(sent)
        out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert out == b""
    assert b"Traceback" not in err
    assert contents(folder) == before


@pytest.mark.parametrize(
    "command",
    [
        *("--help", "show tiny.m2d", "show tiny.m2d --json", "verify tiny.m2d"),
        "bench tiny.m2d --sts pairs.csv --layers 1 --batch-size 1 --tokens 8 --json",
    ],
)
def test_a_reader_that_has_gone_is_no_traceback(folder: Path, command: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as "| head -0" does, but before the first byte
    done = subprocess.run([*PROGRAM, *command.split()], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode in (0, 1)
    assert done.stderr == ""


# --- build


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


# --- slice


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


# --- bundles that are not


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], str, int]] = {
    "gone": (shutil.rmtree, "no bundle at tiny.m2d: build one with", USAGE),
    "no manifest": (
        lambda root: (root / "manifest.json").unlink(),
        "not a bundle, or one that was never finished",
        USAGE,
    ),
    "no JSON": (lambda root: (root / "manifest.json").write_text("{"), "manifest.json cannot be used", GATE),
    "not UTF-8": (lambda root: (root / "manifest.json").write_bytes(b"\xff"), "manifest.json cannot be used", GATE),
    "of tomorrow": (lambda root: (root / "manifest.json").write_text('{"format": 2}'), "format 2 is unknown", GATE),
    "weights": (lambda root: flip(root / "graphs" / "weights.fp32.bin"), "weights.fp32.bin has been altered", GATE),
    "graph": (lambda root: flip(root / "graphs" / "layer-03.fp32.onnx"), "layer-03.fp32.onnx has been altered", GATE),
    "tokenizer": (lambda root: flip(root / "tokenizer.json"), "tokenizer.json has been altered", GATE),
    "lost graph": (lambda root: (root / "graphs" / "layer-03.fp32.onnx").unlink(), "03.fp32.onnx is missing", GATE),
}
OF_THE_MANIFEST = ("gone", "no manifest", "no JSON", "not UTF-8", "of tomorrow")


@pytest.mark.parametrize("command", ["encode tiny.m2d texts.txt -o o.npy", "verify tiny.m2d"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_bundle_is_refused_by_all_that_read_it(run: Run, folder: Path, damage: str, command: str) -> None:
    hurt, message, code = DAMAGES[damage]
    hurt(folder / "tiny.m2d")
    outcome = refuse(run, folder, command, message, code)
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["show tiny.m2d", "bench tiny.m2d"])
@pytest.mark.parametrize("damage", OF_THE_MANIFEST)
def test_a_manifest_that_cannot_be_read_is_refused(run: Run, folder: Path, damage: str, command: str) -> None:
    hurt, message, code = DAMAGES[damage]
    hurt(folder / "tiny.m2d")
    refuse(run, folder, command, message, code)


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage not in OF_THE_MANIFEST])
def test_a_damaged_bundle_is_benched_as_far_as_it_is_sound_and_fails_the_gate(
    run: Run, folder: Path, damage: str
) -> None:
    hurt, message, code = DAMAGES[damage]
    hurt(folder / "tiny.m2d")
    outcome = run("bench", "tiny.m2d", *QUICK.split())
    assert outcome.code == code
    assert message in outcome.err
    (line,) = outcome.err.splitlines()
    found = lines_of(folder / "results.jsonl")
    failed = [record for record in found if record["status"] == "failed"]
    assert line.startswith(f"Error: {len(failed)} results could not be measured; the next run tries again. First score")
    assert len(found) == len(KINDS)
    timed = [record["layer"] for record in found if (record["kind"], record["status"]) == ("latency", "ok")]
    assert timed == ([1] * 4 if "graph" in damage else [])


# --- show and verify


def test_show_tells_what_is_in_a_bundle(run: Run, folder: Path, bundle: Bundle) -> None:
    outcome = run("show", "tiny.m2d")
    assert (outcome.code, outcome.err) == (0, "")
    for told in (bundle.id[:12], "BertModel, 3 layers, width 64", "mean; vectors normalised", "up to 48 tokens"):
        assert told in outcome.out
    assert "layer 1" in outcome.out  # its head
    rows = [line.split("│")[1:3] for line in outcome.out.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [[str(k), "fp32"] for k in range(1, LAYERS + 1)]


def test_show_as_json_is_the_manifest(run: Run, folder: Path) -> None:
    outcome = run("show", "tiny.m2d", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert json.loads(outcome.out) == json.loads((folder / "tiny.m2d" / "manifest.json").read_text())


def test_verify_counts_the_files_of_a_sound_bundle(run: Run, folder: Path, bundle: Bundle) -> None:
    count = len(bundle.manifest.files)
    outcome = run("verify", "tiny.m2d")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"tiny.m2d is sound: {count} files, ")
    outcome = run("verify", "tiny.m2d", "--json")
    assert json.loads(outcome.out) == {"bundle": bundle.id, "files": count, "problems": []}


def test_verify_names_every_problem_and_fails(run: Run, folder: Path, bundle: Bundle) -> None:
    flip(folder / "tiny.m2d" / "graphs" / "layer-01.fp32.onnx")
    (folder / "tiny.m2d" / "graphs" / "layer-02.fp32.onnx").unlink()
    (folder / "tiny.m2d" / "extra.txt").touch()
    outcome = run("verify", "tiny.m2d", "--json")
    assert outcome.code == GATE
    problems = json.loads(outcome.out)["problems"]
    assert [problem.split()[0] for problem in problems] == [
        *("graphs/layer-01.fp32.onnx", "graphs/layer-02.fp32.onnx", "extra.txt")
    ]
    assert outcome.err == f"Error: tiny.m2d is not sound: {'; '.join(problems)}. Build it again, or copy it again\n"


# --- encode


def encoded(folder: Path, name: str = "o.npy") -> np.ndarray[Any, np.dtype[np.float32]]:
    vectors = np.load(folder / name, allow_pickle=False)
    assert vectors.dtype == np.float32
    return np.asarray(vectors)


def test_encode_writes_the_vectors_of_the_encoder(run: Run, folder: Path, bundle: Bundle) -> None:
    outcome = run("encode", "tiny.m2d", "texts.txt", "--layer", 2, "--dim", 32, "-o", "o.npy", "--threads", 1)
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
def test_a_line_is_a_text_whatever_ends_it_and_wherever_it_comes_from(
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


def test_a_long_file_shows_how_far_it_is(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("m2d_export.cli.bundles.steps", lambda: contextlib.nullcontext(shown.append))
    (folder / "many.txt").write_text("a cat\n" * 20_000)
    assert run("encode", "tiny.m2d", "many.txt", "--layer", "1", "-o", "o.npy").code == 0
    assert [line for line in shown if line.endswith(" texts")] == ["10000 texts", "20000 texts"]


def test_a_pipe_is_read_as_utf_8_in_every_locale(folder: Path, bundle: Bundle) -> None:
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [*PROGRAM, "encode", "tiny.m2d", "-o", "o.npy"]
    done = subprocess.run(command, input="naïve, 東京".encode(), env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    with Encoder(bundle) as encoder:
        np.testing.assert_allclose(encoded(folder), encoder.encode(["naïve, 東京"]), atol=1e-6)


def test_an_output_is_replaced_whole_and_only_when_asked(run: Run, folder: Path) -> None:
    (folder / "o.npy").write_bytes(b"old" * 1000)
    refuse(run, folder, "encode tiny.m2d texts.txt -o o.npy", "o.npy exists: use --force")
    refuse(run, folder, "encode tiny.m2d texts.txt -o texts.txt --force", "another path than the input's")
    assert run("encode", "tiny.m2d", "texts.txt", "-o", "o.npy", "--force").code == 0
    assert encoded(folder).shape == (2, WIDTH)
    assert sorted(path.name for path in folder.iterdir()) == ["o.npy", "pairs.csv", "texts.txt", "tiny.m2d"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("tiny.m2d texts.txt --layer 0 -o o.npy", "no exit at layer 0: this grid has layers 1, 2, 3"),
        ("tiny.m2d texts.txt --layer 9 -o o.npy", "no exit at layer 9"),
        ("tiny.m2d texts.txt --dim 0 -o o.npy", "dim 0 is out of range"),
        ("tiny.m2d texts.txt --dim 9999 -o o.npy", "dim 9999 is out of range: this checkpoint's vectors have 1 to 64"),
        ("tiny.m2d texts.txt --prompt-name qurey -o o.npy", "no prompt named 'qurey': this checkpoint has "),
        ("tiny.m2d texts.txt --prompt a --prompt-name b -o o.npy", "give either prompt or prompt_name"),
        ("tiny.m2d texts.txt --prompt \udcff -o o.npy", "the prompt holds a lone surrogate"),
        ("tiny.m2d texts.txt -o none/o.npy", "cannot write none/o.npy: No such file or directory"),
        ("tiny.m2d texts.txt -o tiny.m2d", "cannot write tiny.m2d: Is a directory"),
        ("tiny.m2d latin.txt -o o.npy", "latin.txt, line 2 is not UTF-8"),
        ("tiny.m2d utf16.txt -o o.npy", "utf16.txt, line 1 is not UTF-8"),
    ],
)
def test_what_cannot_be_encoded_is_refused(run: Run, folder: Path, arguments: str, message: str) -> None:
    (folder / "latin.txt").write_bytes("a cat\ncafé\n".encode("latin-1"))
    (folder / "utf16.txt").write_bytes("a cat\n".encode("utf-16"))
    outcome = refuse(run, folder, f"encode {arguments}", message)
    assert len(outcome.err.splitlines()) == 1


def test_bytes_that_are_no_utf_8_on_standard_input_are_refused_by_their_line(run: Run, folder: Path) -> None:
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
        ("build ./none -o new.m2d", "onnxruntime", "cpu"),
        ("slice ./none --layer 1 -o new", "sentence_transformers", "build"),
    ],
)
def test_a_missing_package_is_one_line_that_names_its_extra(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    outcome = refuse(run, folder, command, f"pip install 'm2d-export[{extra}]'")
    assert len(outcome.err.splitlines()) == 1


# --- bench

QUICK = "--sts pairs.csv --layers 1,3 --dims 64,7 --batch-size 1,2 --tokens 8"
KINDS = [*["score"] * 2, *["storage"] * 8] * 2 + ["latency"] * 8 + ["memory"] * 2


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def altered(path: Path, **fields: Any) -> None:
    """Give every record of a file other fields, its machine's among them."""
    machine = {name: fields.pop(name) for name in ("cpu", "cores") if name in fields}
    changed = [record | fields | {"machine": record["machine"] | machine} for record in lines_of(path)]
    path.write_text("".join(json.dumps(record) + "\n" for record in changed))


def rows_of(out: str) -> list[list[str]]:
    """The cells of every row of every table, without what stands in brackets and below."""
    found = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    return [[cell.partition(" (")[0] for cell in row] for row in found if row[0]]


def test_bench_prints_tables_and_adds_a_line_for_every_result(run: Run, folder: Path) -> None:
    outcome = run("bench", "tiny.m2d", *QUICK.split())
    assert (outcome.code, outcome.err) == (0, "")
    assert "Spearman x 100 on pairs.csv" in outcome.out
    assert "Latency" in outcome.out
    lines = lines_of(folder / "results.jsonl")
    assert [line["kind"] for line in lines] == KINDS
    assert {line["command"] for line in lines} == {f"m2d-export bench tiny.m2d {QUICK}"}
    run("bench", "tiny.m2d", *QUICK.split(), "-o", "other.jsonl")
    assert lines_of(folder / "results.jsonl") == lines
    assert [line["kind"] for line in lines_of(folder / "other.jsonl")] == KINDS


@pytest.mark.parametrize(
    ("typed", "recorded"),
    [
        ("./deep/tiny.m2d --sts toy,./a/pairs.csv", "tiny.m2d --sts toy,pairs.csv"),
        ("tiny.m2d --sts=./d/other.csv --fresh", "tiny.m2d --sts=other.csv --fresh"),
        ("--fresh /x/tiny.m2d --texts /home/me/a,b/c.txt", "--fresh tiny.m2d --texts c.txt"),
        ("tiny.m2d --retrieval sets/scifact/ -o/tmp/x.jsonl", "tiny.m2d --retrieval scifact -ox.jsonl"),
        ("tiny.m2d --columns left/right,b,s --sts a.csv", "tiny.m2d --columns left/right,b,s --sts a.csv"),
        ("tiny.m2d --layers 1,2 -o 'my results/all of it.jsonl'", "tiny.m2d --layers 1,2 -o 'all of it.jsonl'"),
    ],
)
def test_the_command_is_recorded_as_typed_but_for_folders(
    monkeypatch: pytest.MonkeyPatch, typed: str, recorded: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["m2d-export", "bench", *shlex.split(typed)])
    assert measures._command() == f"m2d-export bench {recorded}"


def test_the_tables_show_what_the_figures_say(run: Run, folder: Path) -> None:
    outcome = run("bench", "tiny.m2d", *QUICK.split())
    found = {(cell.cell.layer, cell.cell.dim): cell for cell in candidates(read_records(folder / "results.jsonl"))}
    scores = [[str(layer), *(f"{found[layer, dim].score:.1f}" for dim in (64, 7))] for layer in (3, 1)]
    assert rows_of(outcome.out)[:2] == scores


def test_lists_of_runtimes_precisions_and_computes_are_measured_in_one_run(run: Run, folder: Path) -> None:
    options = ("--layers", 1, "--dims", 7, "--batch-size", 1, "--tokens", 8)
    ways = ("--runtime", "onnxrt, pytorch", "--precision", "fp32", "--compute", "fp32")
    outcome = run("bench", "tiny.m2d", "--sts", "pairs.csv", *options, *ways)
    assert (outcome.code, outcome.err) == (0, "")
    lines = lines_of(folder / "results.jsonl")
    expected = ["score", *["storage"] * 4, "latency", "latency", "memory"]
    for runtime in ("onnxrt", "pytorch"):
        assert [line["kind"] for line in lines if line["runtime"] == runtime] == expected
    for runtime in ("onnxrt", "pytorch"):
        assert f"Spearman x 100 on pairs.csv, fp32 · {runtime}" in outcome.out


@pytest.fixture
def vnni(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool | None], None]:
    """Have the processor say whether it has int8 dot products."""
    return lambda has: monkeypatch.setattr(machine, "multiplies_int8", lambda: has)


def test_bench_measures_int8_and_openvino_as_further_columns(
    run: Run, folder: Path, quantized: Bundle, vnni: Callable[[bool | None], None]
) -> None:
    vnni(True)
    shutil.copytree(quantized.root, folder / "int8.m2d")
    options = ("--layers", 1, "--dims", 64, "--batch-size", 1, "--tokens", 8, "--sts", "pairs.csv")
    outcome = run("bench", "int8.m2d", *options, "--runtime", "onnxrt,openvino", "--precision", "fp32,int8")
    assert (outcome.code, outcome.err) == (0, "")
    ways = {(line["runtime"], line["precision"], line["provider"]) for line in lines_of(folder / "results.jsonl")}
    providers = {"onnxrt": "CPUExecutionProvider", "openvino": "CPU", "fake": "fake"}
    assert ways >= {(name, kind, providers[name]) for name in ("onnxrt", "openvino") for kind in ("fp32", "int8")}
    for name in ("fp32 · onnxrt", "int8 · onnxrt", "fp32 · openvino", "int8 · openvino"):
        assert name in outcome.out


@pytest.mark.parametrize(("has", "notes"), [(False, 1), (True, 0), (None, 0)])
def test_int8_without_instructions_for_it_works_and_says_so(
    run: Run, folder: Path, quantized: Bundle, vnni: Callable[[bool | None], None], has: bool | None, notes: int
) -> None:
    vnni(has)
    shutil.copytree(quantized.root, folder / "int8.m2d")
    outcome = run("encode", "int8.m2d", "texts.txt", "-o", "o.npy", "--precision", "int8")
    assert outcome.code == 0
    assert outcome.err.count("note: this processor has no int8 dot products (VNNI)") == notes
    assert run("encode", "int8.m2d", "texts.txt", "-o", "p.npy").err == ""


def test_int8_asked_of_what_cannot_is_one_line(run: Run, folder: Path, quantized: Bundle) -> None:
    shutil.copytree(quantized.root, folder / "int8.m2d")
    ask = "-o o.npy --precision int8 --runtime pytorch"
    outcome = run(*f"encode int8.m2d texts.txt {ask}".split())
    assert (outcome.code, outcome.out) == (USAGE, "")
    assert "pytorch does not run int8: it runs fp32; onnxrt, openvino can" in outcome.err.splitlines()[-1]


def test_cost_is_measured_on_the_same_texts_whatever_the_pairs(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def remembered(bundle: Bundle, layer: int, texts: Sequence[str], options: dict[str, Any]) -> Iterator[Any]:
        asked.append(tuple(texts))
        return memory(bundle, layer, texts, options)

    def batched(bundle: Bundle, texts: Sequence[str], batch_size: int, tokens: int) -> Any:
        asked.append(tuple(texts))
        return full_batch(bundle, texts, batch_size, tokens)

    full_batch = cost.full_batch
    monkeypatch.setattr(cost, "memory", remembered)
    monkeypatch.setattr(cost, "full_batch", batched)
    (folder / "other.csv").write_text("a mat,a stage,3\na man,the cat,4.5\nno,interest rates rose,0\n")
    for name in ("pairs.csv", "other.csv"):
        run("bench", "tiny.m2d", "--sts", name, *"--layers 1 --dims 64 --batch-size 1 --tokens 8 --fresh".split())
    assert len(asked) == 4
    assert set(asked) == {load_pairs("toy").texts}


def test_a_second_bench_measures_nothing_and_shows_the_same(run: Run, folder: Path) -> None:
    first = run("bench", "tiny.m2d", *QUICK.split())
    before = contents(folder)
    second = run("bench", "tiny.m2d", *QUICK.split())
    assert (second.code, second.err) == (0, "")
    assert second.out == first.out + "nothing was measured: results.jsonl has all of it. Measure again with --fresh\n"
    assert contents(folder) == before
    assert run("bench", "tiny.m2d", *QUICK.split(), "--json") == Outcome(0, "", "")


def test_a_fresh_bench_measures_all_again(run: Run, folder: Path) -> None:
    run("bench", "tiny.m2d", *QUICK.split())
    assert run("bench", "tiny.m2d", *QUICK.split(), "--fresh").code == 0
    assert [line["kind"] for line in lines_of(folder / "results.jsonl")] == KINDS * 2
    assert len(read_records(folder / "results.jsonl")) == len(KINDS)


def test_bench_as_json_prints_the_records_that_it_wrote(run: Run, folder: Path) -> None:
    outcome = run("bench", "tiny.m2d", *QUICK.split(), "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == (folder / "results.jsonl").read_text()
    records = [json.loads(line) for line in outcome.out.splitlines()]
    assert {record["sts"] for record in records if record["kind"] == "score"} == {"pairs.csv"}


def test_bench_walks_the_bundles_grid_by_default_within_what_it_reads(run: Run, folder: Path) -> None:
    outcome = run("bench", "tiny.m2d", "--json")
    assert outcome.code == 0
    records = [json.loads(line) for line in outcome.out.splitlines()]
    cells = {(record["layer"], record["dim"], record["sts"]) for record in records if record["kind"] == "score"}
    assert cells == {(layer, dim, "toy") for layer in (1, 2, 3) for dim in (64, 32)}
    shapes = {(record["batch_size"], record["tokens"]) for record in records if record["kind"] == "latency"}
    assert shapes == {(size, tokens) for size in (1, 32) for tokens in (16, 48)}  # 128 is more than it reads


def test_several_sets_are_scored_and_columns_are_for_the_files_among_them(run: Run, folder: Path) -> None:
    (folder / "b.csv").write_text("left,right,grade\na cat,a dog,3\na cat,the cat,4.5\nno,interest rates rose,0\n")
    options = ["--columns", "left,right,grade", "--layers", 1, "--dims", 64, "--batch-size", 1, "--tokens", 8]
    outcome = run("bench", "tiny.m2d", "--sts", "toy, b.csv", *options)
    assert (outcome.code, outcome.err) == (0, "")
    scores = [line for line in lines_of(folder / "results.jsonl") if line["kind"] == "score"]
    assert [(line["sts"], line["pairs"]) for line in scores] == [("toy", 200), ("b.csv", 3)]
    assert "on toy set, 200 pairs" in outcome.out
    assert "on b.csv" in outcome.out


def beir(folder: Path) -> Path:
    (folder / "beir" / "qrels").mkdir(parents=True)
    (folder / "beir" / "corpus.jsonl").write_text('{"_id": "1", "text": "a cat"}\n{"_id": "2", "text": "a dog"}\n')
    (folder / "beir" / "queries.jsonl").write_text('{"_id": "q", "text": "the cat"}\n')
    (folder / "beir" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t1\n")
    return folder / "beir"


def test_agreement_retrieval_and_cascades_are_measured_where_asked_for(run: Run, folder: Path) -> None:
    (folder / "own.txt").write_text("".join(f"a cat and {number} dogs\n" for number in range(20)))
    beir(folder)
    outcome = run("bench", "tiny.m2d", *QUICK.split(), "--texts", "own.txt", "--retrieval", "beir")
    assert (outcome.code, outcome.err) == (0, "")
    assert "Agreement with the full cell on own.txt" in outcome.out
    assert "Retrieval from beir" in outcome.out
    kinds = [line["kind"] for line in lines_of(folder / "results.jsonl")]
    assert [kinds.count(kind) for kind in ("agreement", "retrieval", "cascade")] == [4, 4, 3]


QRELS = "query-id\tcorpus-id\tscore\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("qrels/test.tsv", f"{QRELS}q\t9\t1\n", "line 2: '9' is no document in corpus.jsonl"),
        ("qrels/test.tsv", f"{QRELS}z\t1\t1\n", "line 2: 'z' is no query in queries.jsonl"),
        ("corpus.jsonl", "", "corpus.jsonl is empty"),
        ("queries.jsonl", "{", "queries.jsonl, line 1 is not JSON"),
    ],
)
def test_a_collection_that_does_not_hold_together_is_refused(
    run: Run, folder: Path, name: str, text: str, message: str
) -> None:
    (beir(folder) / name).write_text(text)
    outcome = refuse(run, folder, "bench tiny.m2d --retrieval beir", message)
    assert len(outcome.err.splitlines()) == 1


def test_an_interrupted_bench_keeps_the_results_it_had_and_the_next_goes_on(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cost, "measure", interrupted)
        outcome = run("bench", "tiny.m2d", *QUICK.split())
    assert (outcome.code, outcome.out, outcome.err.strip()) == (INTERRUPTED, "", "interrupted")
    stopped = lines_of(folder / "results.jsonl")
    assert [line["kind"] for line in stopped] == KINDS[:20] + ["latency"] * 4  # those of the shape it was at
    assert [line["status"] for line in stopped] == ["ok"] * 20 + ["interrupted"] * 4
    outcome = run("bench", "tiny.m2d", *QUICK.split())
    assert (outcome.code, outcome.err) == (0, "")
    assert [line["kind"] for line in lines_of(folder / "results.jsonl")[24:]] == KINDS[20:]
    assert {record["status"] for record in read_records(folder / "results.jsonl")} == {"ok"}


@pytest.mark.parametrize("options", ["", " --json"])
def test_what_could_not_be_measured_ends_the_bench_with_an_error_and_all_the_rest(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    def fail(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(cost, "memory", fail)
    outcome = run("bench", "tiny.m2d", *(QUICK + options).split())
    assert outcome.code == USAGE
    expected = "2 results could not be measured; the next run tries again. First memory of layer 1: MemoryError"
    assert outcome.err == f"Error: {expected}\n"
    assert outcome.out
    assert [line["status"] for line in lines_of(folder / "results.jsonl")] == ["ok"] * 28 + ["failed"] * 2


def test_results_of_other_machines_and_bundles_are_kept_apart_and_said(run: Run, folder: Path) -> None:
    alone = run("bench", "tiny.m2d", *QUICK.split())
    altered(folder / "results.jsonl", cpu="another")
    again = run("bench", "tiny.m2d", *QUICK.split())
    assert again.code == 0
    assert again.err == "results.jsonl has 30 results of other bundles or machines too: not in these tables\n"
    assert rows_of(again.out)[:2] == rows_of(alone.out)[:2]
    assert len(rows_of(again.out)) == len(rows_of(alone.out))
    lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 2 * len(KINDS)
    # All is done here, and the other machine's lines are the last: still this machine's are shown.
    (folder / "results.jsonl").write_text("".join(lines[30:] + lines[:30]))
    assert run("bench", "tiny.m2d", *QUICK.split()).out.startswith(again.out)


def test_a_half_written_line_is_warned_of_and_measured_again(run: Run, folder: Path) -> None:
    run("bench", "tiny.m2d", *QUICK.split())
    whole = (folder / "results.jsonl").read_text()
    (folder / "results.jsonl").write_text(whole[:-20])
    outcome = run("bench", "tiny.m2d", *QUICK.split(), "--json")
    assert outcome.code == 0
    assert [json.loads(line)["kind"] for line in outcome.out.splitlines()] == ["memory"]
    lines = (folder / "results.jsonl").read_text().splitlines()
    assert lines[:-1] == whole.splitlines()[:-1]
    assert len(lines) == len(KINDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--layers 0", "no exit at layer 0: this grid has layers 1, 2, 3"),
        ("--layers 1,9", "no exit at layer 9"),
        ("--dims 0", "dim 0 is out of range"),
        ("--dims 64,9999", "dim 9999 is out of range"),
        ("--batch-size 0", "batch size 0: at least 1"),
        ("--runtime onnxrt,tensorrt", "no runtime 'tensorrt': there are onnxrt, openvino, pytorch"),
        ("--runtime onnxrt,", "takes words separated by commas; got 'onnxrt,'"),
        ("--precision fp32,int8", "no int8 variant of layer 1"),
        ("--compute bf16", "onnxrt does not compute in 'bf16': it computes in fp32"),
        ("--tokens 128", "tokens 128: this checkpoint reads 3 to 48"),
        ("--tokens 0", "tokens 0: this checkpoint reads 3 to 48"),
        ("--sts none.csv", "none.csv cannot be read: No such file or directory"),
        ("--sts texts.txt", "texts.txt is not a .csv, .tsv or .jsonl file, nor toy or stsb"),
        ("--sts empty.csv", "empty.csv is empty"),
        ("--sts one.csv", "one.csv has 1 pair(s)"),
        ("--sts words.csv", "words.csv, line 2: the score 'good' is not a number"),
        ("--sts pairs.csv,none.csv", "none.csv cannot be read"),
        ("--sts pairs.csv,pairs.csv", "--sts names two sets called pairs.csv"),
        ("--texts none.txt", "none.txt cannot be read"),
        ("--texts texts.txt", "2 distinct texts in texts.txt: agreement needs at least 20"),
        ("--retrieval none", "corpus.jsonl cannot be read: No such file or directory. A BEIR folder holds"),
        ("-o foreign.jsonl", "foreign.jsonl, line 1: kind 'earlier' is unknown"),
        ("-o pairs.csv", "pairs.csv, line 1 is not a result"),
        ("--sts pairs.csv --columns a,b,c", "pairs.csv has no column a, b, c"),
        ("--sts pairs.csv --columns 1,2", "columns are three different names"),
        ("--columns 1,2,3", "columns go with a file of pairs"),
        ("-o none/results.jsonl", "cannot write none/results.jsonl: No such file or directory"),
        ("-o tiny.m2d", "tiny.m2d cannot be read: Is a directory"),
    ],
)
def test_what_cannot_be_benched_is_refused(run: Run, folder: Path, arguments: str, message: str) -> None:
    (folder / "foreign.jsonl").write_text('{"kind": "earlier"}\n')
    (folder / "empty.csv").touch()
    (folder / "one.csv").write_text("a,b,1\n")
    (folder / "words.csv").write_text("a,b,1\nc,d,good\n")
    outcome = refuse(run, folder, f"bench tiny.m2d {arguments}", message)
    assert len(outcome.err.splitlines()) == 1


def test_columns_may_be_written_with_spaces(run: Run, folder: Path) -> None:
    (folder / "named.csv").write_text("a,b,s\na cat,a dog,3\na cat,the cat,4.5\nno,interest rates rose,0\n")
    outcome = run("bench", "tiny.m2d", "--sts", "named.csv", "--columns", "b, a, s", "--layers", 1, "--tokens", 8)
    assert (outcome.code, outcome.err) == (0, "")


def test_a_file_named_like_markup_is_only_a_name(run: Run, folder: Path) -> None:
    shutil.copy(folder / "pairs.csv", folder / "pairs[bold].csv")
    outcome = run("bench", "tiny.m2d", "--sts", "pairs[bold].csv", "--layers", 1, "--tokens", 8)
    assert (outcome.code, outcome.err) == (0, "")
    assert "on pairs[bold].csv" in outcome.out


# --- select and report


@pytest.fixture(scope="module")
def results(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What bench has measured of the bundle."""
    folder = tmp_path_factory.mktemp("results")
    (folder / "pairs.csv").write_text("a cat,a dog,3\na cat,the cat,4.5\nno,interest rates rose,0\nmat,dog,1\n")
    arguments = f"bench {bundle.root} --sts pairs.csv --batch-size 1 --tokens 8 --json"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*PROGRAM, *arguments.split()], cwd=folder, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def benched(folder: Path, results: str) -> Path:
    """The working directory with results in it."""
    (folder / "results.jsonl").write_text(results)
    return folder


def test_select_prints_its_pick_those_behind_it_and_the_command_that_deploys_it(
    run: Run, benched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    outcome = run("select", "tiny.m2d", "--max-latency-ms", 10000)
    assert outcome.code == 0
    cells = candidates(read_records(benched / "results.jsonl"))
    picked, *behind = rows_of(outcome.out)
    best = next(cell for cell in cells if str(cell.cell) == picked[0])
    assert best.score == max(cell.score for cell in cells if cell.score is not None)
    assert picked[1:3] == [f"{best.score:.1f}", f"{best.retention:.3f}"]
    assert picked[3:] == [f"{best.latency_ms:.2f}", f"{best.sentences_per_second:,.0f}", "picked"]
    assert len(behind) == 3
    assert all(line.startswith("warning: ") for line in outcome.err.splitlines())
    assert "the choice rests on STS alone" in outcome.err
    told = outcome.out.splitlines()[-1]
    assert told.startswith("to run it: m2d-export encode tiny.m2d texts.txt --layer ")
    assert run(*told.partition("m2d-export ")[2].split()).code == 0
    assert encoded(benched, "vectors.npy").shape == (2, best.cell.dim)


def test_select_as_json_says_the_same(run: Run, benched: Path) -> None:
    table = run("select", "tiny.m2d", "--min-retention", 0.01)
    outcome = run("select", "tiny.m2d", "--min-retention", 0.01, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    choice = json.loads(outcome.out)
    cell = choice["picked"]["cell"]
    assert rows_of(table.out)[0][0] == f"{cell['layer']}x{cell['dim']}"
    assert f"to run it: {choice['deploy']}\n" in table.out
    assert (choice["task"], choice["budgets"]["min_retention"]) == ("sts", 0.01)
    assert len(choice["runners_up"]) == 3
    assert choice["warnings"]


@pytest.mark.parametrize(
    ("budget", "named"),
    [
        ("--max-latency-ms 0.000001", "max_latency_ms from 0.000001 to "),
        ("--min-throughput 1e9", "min_throughput from 1,000,000,000 to "),
        ("--max-index-gb 1 --vectors 1e9", "max_index_gb from 1 to 128 would admit "),
    ],
)
def test_budgets_that_nothing_meets_are_one_line_that_names_the_one_to_relax(
    run: Run, benched: Path, budget: str, named: str
) -> None:
    before = contents(benched)
    for options in ("", " --json"):
        outcome = run("select", "tiny.m2d", *(budget + options).split())
        assert outcome.code == USAGE
        assert outcome.err.startswith("Error: no cell meets the budgets: ")
        assert named in outcome.err
        assert len(outcome.err.splitlines()) == 1
        assert "to run it" not in outcome.out
    assert json.loads(outcome.out)["picked"] is None
    assert json.loads(outcome.out)["deploy"] is None
    assert contents(benched) == before


def test_a_cell_is_deployed_as_it_was_measured(run: Run, benched: Path) -> None:
    altered(benched / "results.jsonl", runtime="pytorch", threads=1, cores=4)
    (benched / "tiny.m2d").rename(benched / "my model.m2d")
    deploy = json.loads(run("select", "my model.m2d", "--json").out)["deploy"]
    assert deploy.startswith("m2d-export encode 'my model.m2d' texts.txt --layer ")
    assert deploy.endswith(" --runtime pytorch --threads 1 -o vectors.npy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("select tiny.m2d --results none.jsonl", "none.jsonl cannot be read: No such file or directory"),
        ("select tiny.m2d --results empty.jsonl", "empty.jsonl has no results: run `m2d-export bench BUNDLE -o"),
        ("select tiny.m2d --results other.jsonl", "other.jsonl has no results of tiny.m2d: run m2d-export bench"),
        ("select tiny.m2d --results pairs.csv", "pairs.csv, line 1 is not a result"),
        ("select tiny.m2d --task retrieval", "no ndcg was measured: run m2d-export bench with --retrieval FOLDER"),
        ("select tiny.m2d --sts stsb", "there are no scores on stsb: there are pairs.csv"),
        ("select tiny.m2d --batch-size 7", "there are no times at batch size 7: there are 1"),
        ("select tiny.m2d --vectors 1e6", "give that too"),
        ("select tiny.m2d --task agreement", "no agreement was measured: run m2d-export bench with --texts FILE"),
        ("select tiny.m2d --min-retention 97", "min_retention is a share of the full cell, such as 0.97, got 97.0"),
        ("select tiny.m2d --max-index-gb 2", "max_index_gb needs vectors"),
        ("select tiny.m2d --max-latency-ms 0", "max_latency_ms must be a number above 0"),
        ("select none.m2d", "no bundle at none.m2d"),
        ("report none.jsonl -o new", "none.jsonl cannot be read: No such file or directory"),
        ("report empty.jsonl -o new", "empty.jsonl has no results"),
    ],
)
def test_what_cannot_be_decided_or_reported_is_refused(run: Run, benched: Path, arguments: str, message: str) -> None:
    shutil.copy(benched / "results.jsonl", benched / "other.jsonl")
    altered(benched / "other.jsonl", bundle="0" * 64)
    (benched / "empty.jsonl").touch()
    outcome = refuse(run, benched, arguments, message)
    assert len(outcome.err.splitlines()) == 1


def test_select_goes_by_the_machine_that_measured_last_and_says_so(run: Run, benched: Path, results: str) -> None:
    path = benched / "results.jsonl"
    altered(path, cpu="another")
    others = path.read_text().splitlines(keepends=True)
    slow = [json.loads(line) for line in results.splitlines()]
    for record in slow:
        if record["kind"] == "latency":
            record |= {"p50_ms": 5e6, "sentences_per_second": 1e-3}
    # Its first record stands before the other's, its last one after them.
    mine = [json.dumps(record) + "\n" for record in slow]
    path.write_text("".join([*mine[:1], *others, *mine[1:]]))
    outcome = run("select", "tiny.m2d", "--json")
    assert outcome.code == 0
    assert outcome.err.startswith("results.jsonl has results of 2 machines: the last one measured counts\n")
    assert json.loads(outcome.out)["picked"]["latency_ms"] == 5e6


def test_select_goes_by_the_set_it_is_told_and_says_which_where_it_is_not(
    run: Run, benched: Path, results: str
) -> None:
    other = [json.loads(line) for line in results.splitlines() if '"score"' in line or '"storage"' in line]
    for record in other:
        record |= {"sts": "other.csv", "label": "other.csv"}
        if record["kind"] == "score":  # the other way round: the worst cell is the best
            record["spearman"] = record["spearman"] | {"cosine": -record["spearman"]["cosine"]}
    (benched / "results.jsonl").write_text(results + "".join(json.dumps(record) + "\n" for record in other))
    first, second = (run("select", "tiny.m2d", "--sts", name, "--json") for name in ("pairs.csv", "other.csv"))
    picked = [json.loads(outcome.out)["picked"] for outcome in (first, second)]
    assert picked[0]["cell"] != picked[1]["cell"]
    assert (first.err, second.err) == ("", "")
    assert json.loads(second.out)["view"]["sts"] == "other.csv"
    untold = run("select", "tiny.m2d", "--json")
    assert untold.out == first.out
    assert (
        untold.err == "results.jsonl has sts results on pairs.csv, other.csv: pairs.csv counts, --sts names another\n"
    )


def made_up_results(folder: Path, bundle: Bundle, records: Sequence[dict[str, Any]]) -> None:
    """Results that were made up, as if measured of the bundle."""
    lines = [json.dumps({**record, "bundle": bundle.id}) + "\n" for record in records]
    (folder / "results.jsonl").write_text("".join(lines))


def test_select_says_what_its_times_are_of_and_takes_others(
    run: Run, folder: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    made_up_results(folder, bundle, made_up.sweep())
    outcome = run("select", "tiny.m2d")
    assert "times: 16 tokens, text to vector: latency at batch 1, throughput at batch 32\n" in outcome.out
    header = [name.strip() for name in outcome.out.splitlines()[1].strip("┃").split("┃")]
    assert header == ["cell", "variant", "sts", "retention", "p50 ms", "sentences/s", "why"]
    assert rows_of(outcome.out)[0][1] == "fp32 · onnxrt"  # fp32 and int8 were measured
    json_out = json.loads(run("select", "tiny.m2d", "--batch-size", 8, "--scope", "graph", "--json").out)
    assert json_out["view"]["shape"] == json_out["view"]["throughput"]
    assert json_out["view"]["shape"] == {"batch_size": 8, "tokens": 16, "scope": "graph"}
    bound = run("select", "tiny.m2d", "--max-index-gb", 0.2, "--vectors", 1e6, "--bytes-per-value", 1)
    header = [name.strip() for name in bound.out.splitlines()[1].strip("┃").split("┃")]
    assert (header[2], header[6]) == ("sts as int8", "index GB")
    assert rows_of(bound.out)[0][6] == "0.128"


def test_select_goes_by_the_texts_or_the_collection_that_it_is_told(run: Run, folder: Path, bundle: Bundle) -> None:
    ranks = [made_up.agreement(layer, 384) for layer in made_up.LAYERS] + [
        made_up.retrieval(layer, 384) for layer in made_up.LAYERS
    ]
    other = [
        {**record, **{"texts": "other.txt", "collection": "nq"}, "layer": 7 - record["layer"]}  # the other way round
        for record in ranks
    ]
    made_up_results(folder, bundle, [*ranks, *other])
    for task, option, first, second in (
        ("agreement", "--texts", "abstracts.txt", "other.txt"),
        ("retrieval", "--retrieval", "scifact", "nq"),
    ):
        untold = run("select", "tiny.m2d", "--task", task, "--json")
        said = f"results.jsonl has {task} results on {first}, {second}: {first} counts, {option} names another\n"
        assert untold.err == said
        told = run("select", "tiny.m2d", "--task", task, option, second, "--json")
        assert told.err == ""
        assert [json.loads(outcome.out)["picked"]["cell"]["layer"] for outcome in (untold, told)] == [6, 1]


def test_select_says_that_a_file_has_results_of_other_bundles(run: Run, folder: Path, bundle: Bundle) -> None:
    made_up_results(folder, bundle, made_up.sweep())
    path = folder / "results.jsonl"
    path.write_text(path.read_text() + json.dumps(made_up.score(6, 384)) + "\n")
    outcome = run("select", "tiny.m2d", "--json")
    assert outcome.err == "results.jsonl has 1 results of other bundles or machines too: not in this choice\n"


def test_an_edited_file_of_pairs_is_benched_anew_and_what_is_set_aside_is_said(
    run: Run, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run("bench", "tiny.m2d", *QUICK.split())
    (folder / "pairs.csv").write_text((folder / "pairs.csv").read_text() + "the mat,a mat,4\n")
    outcome = run("bench", "tiny.m2d", *QUICK.split(), "--json")
    assert outcome.code == 0
    assert {json.loads(line)["kind"] for line in outcome.out.splitlines()} == {"score", "storage"}
    (told,) = caplog.messages
    assert told.startswith("results.jsonl has 20 results on another content of pairs.csv")


def test_a_report_is_a_page_markdown_and_pictures(run: Run, benched: Path) -> None:
    outcome = run("report", "results.jsonl", "-o", "report")
    assert outcome == Outcome(0, "wrote report: open report/index.html\n", "")
    names = {path.name for path in (benched / "report").rglob("*")}
    assert {"index.html", "report.md"} <= names
    assert any(name.endswith(".png") for name in names)


def test_a_report_warns_of_a_half_written_line(benched: Path, results: str) -> None:
    (benched / "results.jsonl").write_text(results + '{"kind": "sco')
    command = [*PROGRAM, "report", "results.jsonl", "-o", "report"]
    done = subprocess.run(command, capture_output=True, text=True)
    count = len(results.splitlines()) + 1
    assert done.returncode == 0
    assert done.stderr == f"warning: results.jsonl, line {count} is half-written and was ignored\n"


# --- steps


def test_steps_are_told_on_a_terminal_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with steps() as report:
        report("unfinished build of [/]odd[bold].m2d")
    captured = capsys.readouterr()
    assert "unfinished build of [/]odd[bold].m2d" in captured.err
    assert captured.out == ""


def test_steps_are_told_nowhere_else(capsys: pytest.CaptureFixture[str]) -> None:
    with steps() as report:
        report("loading the checkpoint")
    assert capsys.readouterr() == ("", "")
