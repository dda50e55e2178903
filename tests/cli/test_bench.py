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
