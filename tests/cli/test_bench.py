"""``bench`` on the command line."""

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from m2d_export import Bundle
from m2d_export.bench import cost
from m2d_export.bench.metrics import candidates
from m2d_export.bench.records import read_records
from m2d_export.bench.sts import load_pairs
from m2d_export.cli import measures
from m2d_export.host import machine
from tests.cli.commands import (
    INTERRUPTED,
    KINDS,
    QUICK,
    USAGE,
    Outcome,
    Run,
    altered,
    contents,
    lines_of,
    memory,
    refuse,
    rows_of,
)


def test_bench_prints_a_summary_and_adds_a_line_for_every_result(run: Run, folder: Path) -> None:
    outcome = run("bench", "tiny.m2d", *QUICK.split())
    assert (outcome.code, outcome.err) == (0, "")
    assert "pairs.csv" in outcome.out
    assert "m2d-export select tiny.m2d --results results.jsonl" in outcome.out
    lines = outcome.out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
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
def test_the_command_is_recorded_as_typed_without_folders(
    monkeypatch: pytest.MonkeyPatch, typed: str, recorded: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["m2d-export", "bench", *shlex.split(typed)])
    assert measures._command() == f"m2d-export bench {recorded}"


def test_all_prints_every_table(run: Run, folder: Path) -> None:
    outcome = run("bench", "tiny.m2d", *QUICK.split(), "--all")
    for heading in ("Score", "Storage", "Latency", "Peak memory"):
        assert heading in outcome.out
    found = {(cell.cell.layer, cell.cell.dim): cell for cell in candidates(read_records(folder / "results.jsonl"))}
    scores = [[str(layer), *(f"{found[layer, dim].score:.1f}" for dim in (64, 7))] for layer in (3, 1)]
    assert rows_of(outcome.out)[:2] == scores


def test_one_run_measures_lists_of_runtimes_precisions_and_computes(run: Run, folder: Path, checkpoint: Path) -> None:
    options = ("--layers", 1, "--dims", 7, "--batch-size", 1, "--tokens", 8)
    setups = ("--runtime", "onnxrt, pytorch", "--precision", "fp32", "--compute", "fp32", "--checkpoint", checkpoint)
    outcome = run("bench", "tiny.m2d", "--sts", "pairs.csv", *options, *setups, "--all")
    assert (outcome.code, outcome.err) == (0, "")
    lines = lines_of(folder / "results.jsonl")
    expected = ["score", *["storage"] * 4, "latency", "latency", "memory"]
    for runtime in ("onnxrt", "pytorch"):
        assert [line["kind"] for line in lines if line["runtime"] == runtime] == expected
    for runtime in ("onnxrt", "pytorch"):
        assert f"fp32 · {runtime}" in " ".join(outcome.out.split())


@pytest.fixture
def vnni(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool | None], None]:
    """Set whether the processor has int8 dot products."""
    return lambda has: monkeypatch.setattr(machine, "multiplies_int8", lambda: has)


def test_bench_measures_int8_and_openvino(
    run: Run, folder: Path, quantized: Bundle, vnni: Callable[[bool | None], None]
) -> None:
    vnni(True)
    shutil.copytree(quantized.root, folder / "int8.m2d")
    options = ("--layers", 1, "--dims", 64, "--batch-size", 1, "--tokens", 8, "--sts", "pairs.csv")
    outcome = run("bench", "int8.m2d", *options, "--runtime", "onnxrt,openvino", "--precision", "fp32,int8", "--all")
    assert (outcome.code, outcome.err) == (0, "")
    setups = {(line["runtime"], line["precision"], line["provider"]) for line in lines_of(folder / "results.jsonl")}
    providers = {"onnxrt": "CPUExecutionProvider", "openvino": "CPU", "fake": "fake"}
    assert setups >= {(name, kind, providers[name]) for name in ("onnxrt", "openvino") for kind in ("fp32", "int8")}
    for name in ("fp32 · onnxrt", "int8 · onnxrt", "fp32 · openvino", "int8 · openvino"):
        assert name in " ".join(outcome.out.split())


@pytest.mark.parametrize(("has", "notes"), [(False, 1), (True, 0), (None, 0)])
def test_int8_without_its_instructions_works_with_a_note(
    run: Run, folder: Path, quantized: Bundle, vnni: Callable[[bool | None], None], has: bool | None, notes: int
) -> None:
    vnni(has)
    shutil.copytree(quantized.root, folder / "int8.m2d")
    outcome = run("encode", "int8.m2d", "texts.txt", "-o", "o.npy", "--precision", "int8")
    assert outcome.code == 0
    assert outcome.err.count("VNNI") == notes
    assert run("encode", "int8.m2d", "texts.txt", "-o", "p.npy").err == ""


def test_a_runtime_that_cannot_run_int8_is_refused(run: Run, folder: Path, quantized: Bundle) -> None:
    shutil.copytree(quantized.root, folder / "int8.m2d")
    ask = "-o o.npy --precision int8 --runtime pytorch"
    outcome = run(*f"encode int8.m2d texts.txt {ask}".split())
    assert (outcome.code, outcome.out) == (USAGE, "")
    line = outcome.err.splitlines()[-1]
    assert all(name in line for name in ("pytorch", "int8", "onnxrt, openvino"))


def test_cost_is_measured_on_the_same_texts_for_all_pairs(
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
    assert second.out.startswith(first.out)
    assert "--fresh" in second.out.removeprefix(first.out)
    assert contents(folder) == before
    assert run("bench", "tiny.m2d", *QUICK.split(), "--json") == Outcome(0, "", "")


def test_a_fresh_bench_measures_everything_again(run: Run, folder: Path) -> None:
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


def test_bench_measures_the_whole_grid_by_default_up_to_the_token_limit(run: Run, folder: Path) -> None:
    outcome = run("bench", "tiny.m2d", "--json")
    assert outcome.code == 0
    records = [json.loads(line) for line in outcome.out.splitlines()]
    cells = {(record["layer"], record["dim"], record["sts"]) for record in records if record["kind"] == "score"}
    assert cells == {(layer, dim, "toy") for layer in (1, 2, 3) for dim in (64, 32)}
    shapes = {(record["batch_size"], record["tokens"]) for record in records if record["kind"] == "latency"}
    assert shapes == {(size, tokens) for size in (1, 32) for tokens in (16, 48)}  # 48 is the limit, not 128


def test_several_sets_are_scored_and_columns_apply_to_the_files(run: Run, folder: Path) -> None:
    (folder / "b.csv").write_text("left,right,grade\na cat,a dog,3\na cat,the cat,4.5\nno,interest rates rose,0\n")
    options = ["--columns", "left,right,grade", "--layers", 1, "--dims", 64, "--batch-size", 1, "--tokens", 8]
    outcome = run("bench", "tiny.m2d", "--sts", "toy, b.csv", *options, "--all")
    assert (outcome.code, outcome.err) == (0, "")
    scores = [line for line in lines_of(folder / "results.jsonl") if line["kind"] == "score"]
    assert [(line["sts"], line["pairs"]) for line in scores] == [("toy", 200), ("b.csv", 3)]
    assert "on toy set" in outcome.out
    assert "on b.csv" in outcome.out


def test_an_interrupted_bench_keeps_its_results_and_the_next_one_continues(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cost, "measure", interrupted)
        outcome = run("bench", "tiny.m2d", *QUICK.split())
    assert (outcome.code, outcome.out, outcome.err.strip()) == (INTERRUPTED, "", "interrupted")
    stopped = lines_of(folder / "results.jsonl")
    assert [line["kind"] for line in stopped] == KINDS[:20] + ["latency"] * 4  # the shape that was measured
    assert [line["status"] for line in stopped] == ["ok"] * 20 + ["interrupted"] * 4
    outcome = run("bench", "tiny.m2d", *QUICK.split())
    assert (outcome.code, outcome.err) == (0, "")
    assert [line["kind"] for line in lines_of(folder / "results.jsonl")[24:]] == KINDS[20:]
    assert {record["status"] for record in read_records(folder / "results.jsonl")} == {"ok"}


@pytest.mark.parametrize("options", ["", " --json"])
def test_a_failed_measurement_is_an_error_after_all_others(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    def fail(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(cost, "memory", fail)
    outcome = run("bench", "tiny.m2d", *(QUICK + options).split())
    assert outcome.code == USAGE
    (line,) = outcome.err.splitlines()
    assert line.startswith("Error: 2 results")
    assert "memory of layer 1: MemoryError" in line
    assert outcome.out
    assert [line["status"] for line in lines_of(folder / "results.jsonl")] == ["ok"] * 28 + ["failed"] * 2


def test_results_of_other_machines_and_bundles_are_not_shown_but_noted(run: Run, folder: Path) -> None:
    alone = run("bench", "tiny.m2d", *QUICK.split(), "--all")
    altered(folder / "results.jsonl", cpu="another")
    again = run("bench", "tiny.m2d", *QUICK.split(), "--all")
    assert again.code == 0
    assert "results.jsonl has 30 results of other bundles" in again.err
    assert rows_of(again.out)[:2] == rows_of(alone.out)[:2]
    assert len(rows_of(again.out)) == len(rows_of(alone.out))
    lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 2 * len(KINDS)
    # Nothing is left to measure, and the last lines are of the other machine: this machine's are shown all the same.
    (folder / "results.jsonl").write_text("".join(lines[30:] + lines[:30]))
    assert run("bench", "tiny.m2d", *QUICK.split(), "--all").out.startswith(again.out)


def test_the_result_of_a_half_written_line_is_measured_again(run: Run, folder: Path) -> None:
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
    ("arguments", "value"),
    [
        ("--layers 0", "layer 0"),
        ("--layers 1,9", "layer 9"),
        ("--dims 0", "dim 0"),
        ("--dims 64,9999", "dim 9999"),
        ("--batch-size 0", "batch size 0"),
        ("--runtime onnxrt,tensorrt", "'tensorrt'"),
        ("--runtime onnxrt,", "got 'onnxrt,'"),
        ("--precision fp32,int8", "int8"),
        ("--compute bf16", "bf16"),
        ("--tokens 128", "tokens 128"),
        ("--tokens 0", "tokens 0"),
        ("--sts none.csv", "none.csv cannot be read"),
        ("--sts texts.txt", "got texts.txt"),
        ("--sts empty.csv", "empty.csv is empty"),
        ("--sts one.csv", "one.csv has 1 pair(s)"),
        ("--sts words.csv", "words.csv, line 2: the score 'good'"),
        ("--sts pairs.csv,none.csv", "none.csv cannot be read"),
        ("--sts pairs.csv,pairs.csv", "two sets named pairs.csv"),
        ("--texts none.txt", "none.txt cannot be read"),
        ("--texts texts.txt", "texts.txt"),
        ("--retrieval none", "corpus.jsonl cannot be read"),
        ("-o foreign.jsonl", "foreign.jsonl, line 1: kind 'earlier'"),
        ("-o pairs.csv", "pairs.csv, line 1"),
        ("--sts pairs.csv --columns a,b,c", "pairs.csv has no column a, b, c"),
        ("--sts pairs.csv --columns 1,2", "three different columns"),
        ("--columns 1,2,3", "--columns"),
        ("-o none/results.jsonl", "cannot write none/results.jsonl"),
        ("-o tiny.m2d", "cannot write tiny.m2d"),
    ],
)
def test_arguments_that_cannot_be_measured_are_refused(run: Run, folder: Path, arguments: str, value: str) -> None:
    (folder / "foreign.jsonl").write_text('{"kind": "earlier"}\n')
    (folder / "empty.csv").touch()
    (folder / "one.csv").write_text("a,b,1\n")
    (folder / "words.csv").write_text("a,b,1\nc,d,good\n")
    outcome = refuse(run, folder, f"bench tiny.m2d {arguments}", value)
    assert len(outcome.err.splitlines()) == 1


def test_columns_may_have_spaces_after_commas(run: Run, folder: Path) -> None:
    (folder / "named.csv").write_text("a,b,s\na cat,a dog,3\na cat,the cat,4.5\nno,interest rates rose,0\n")
    outcome = run("bench", "tiny.m2d", "--sts", "named.csv", "--columns", "b, a, s", "--layers", 1, "--tokens", 8)
    assert (outcome.code, outcome.err) == (0, "")


def test_the_name_of_a_file_is_not_markup(run: Run, folder: Path) -> None:
    shutil.copy(folder / "pairs.csv", folder / "pairs[bold].csv")
    outcome = run("bench", "tiny.m2d", "--sts", "pairs[bold].csv", "--layers", 1, "--tokens", 8)
    assert (outcome.code, outcome.err) == (0, "")
    assert "on pairs[bold].csv" in outcome.out
