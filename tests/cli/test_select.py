"""``select`` and ``report`` on the command line."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from m2d_export import Bundle
from m2d_export.bench.metrics import candidates
from m2d_export.bench.records import read_records
from m2d_export.report.columns import text_of
from m2d_export.select.warnings import WORDS
from tests.cli.commands import (
    PROGRAM,
    QUICK,
    ROOT,
    USAGE,
    Outcome,
    Run,
    altered,
    contents,
    encoded,
    lines_of,
    refuse,
    rows_of,
)
from tests.support import made_up


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


def test_select_prints_the_pick_the_runners_up_and_a_command_that_runs(
    run: Run, benched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    outcome = run("select", "tiny.m2d", "--max-latency-ms", 10000)
    assert outcome.code == 0
    cells = candidates(read_records(benched / "results.jsonl"))
    picked, *behind = rows_of(outcome.out)
    best = next(cell for cell in cells if str(cell.cell) == picked[0])
    assert best.score == max(cell.score for cell in cells if cell.score is not None)
    assert picked[1:3] == [f"{best.score:.1f}", f"{100 * best.retention:.1f} %"]
    assert picked[3:] == [text_of("latency_ms", best), f"{best.sentences_per_second:,.0f}", "picked"]
    assert len(behind) == 3
    assert all(line.startswith("warning: ") for line in outcome.err.splitlines())
    assert WORDS["sts-only"] in outcome.err
    command = outcome.out.splitlines()[-1].partition("m2d-export ")[2]
    assert command.startswith(f"encode tiny.m2d texts.txt --cell {best.cell} ")
    assert run(*command.split()).code == 0
    assert encoded(benched, "vectors.npy").shape == (2, best.cell.dim)


def test_select_as_json_has_the_same_choice(run: Run, benched: Path) -> None:
    table = run("select", "tiny.m2d", "--min-retention", 0.01)
    outcome = run("select", "tiny.m2d", "--min-retention", 0.01, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    choice = json.loads(outcome.out)
    cell = choice["picked"]["cell"]
    assert rows_of(table.out)[0][0] == f"{cell['layer']}x{cell['dim']}"
    assert f"{choice['command']}\n" in table.out
    assert (choice["task"], choice["budgets"]["min_retention"]) == ("sts", 0.01)
    assert len(choice["runners_up"]) == 3
    assert choice["warnings"]


@pytest.mark.parametrize(
    ("budget", "named"),
    [
        ("--max-latency-ms 0.000001", "max_latency_ms from 0.000001 to "),
        ("--min-throughput 1e9", "min_throughput from 1,000,000,000 to "),
        ("--max-index-gb 1 --vectors 1e9", "max_index_gb from 1 to 128 would allow "),
    ],
)
def test_an_error_names_the_budget_to_relax_where_no_cell_fits(
    run: Run, benched: Path, budget: str, named: str
) -> None:
    before = contents(benched)
    for options in ("", " --json"):
        outcome = run("select", "tiny.m2d", *(budget + options).split())
        assert outcome.code == USAGE
        assert outcome.err.startswith("Error: ")
        assert named in outcome.err
        assert len(outcome.err.splitlines()) == 1
        assert "m2d-export encode" not in outcome.out
    assert json.loads(outcome.out)["picked"] is None
    assert json.loads(outcome.out)["command"] is None
    assert contents(benched) == before


def test_the_command_runs_a_cell_as_it_was_measured(run: Run, benched: Path) -> None:
    altered(benched / "results.jsonl", runtime="pytorch", threads=1, cores=4)
    (benched / "tiny.m2d").rename(benched / "my model.m2d")
    command = json.loads(run("select", "my model.m2d", "--json").out)["command"]
    assert command.startswith("m2d-export encode 'my model.m2d' texts.txt --cell ")
    assert command.endswith(" --runtime pytorch --threads 1 -o vectors.npy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("select tiny.m2d --results none.jsonl", "none.jsonl"),
        ("select tiny.m2d --results empty.jsonl", "run `m2d-export bench BUNDLE -o"),
        ("select tiny.m2d --results other.jsonl", "no results of tiny.m2d"),
        ("select tiny.m2d --results pairs.csv", "pairs.csv, line 1"),
        ("select tiny.m2d --task retrieval", "--retrieval FOLDER"),
        ("select tiny.m2d --sts stsb", "pairs.csv"),
        ("select tiny.m2d --batch-size 7", "choose one of 1"),
        ("select tiny.m2d --vectors 1e6", "max_index_gb"),
        ("select tiny.m2d --index-cell 3x64", "--retrieval FOLDER"),
        ("select tiny.m2d --index-cell 3x64 --task agreement", "--texts FILE"),
        ("select tiny.m2d --index-cell 3x64 --task sts", "--task retrieval or agreement"),
        ("select tiny.m2d --index own", "run m2d-export bench"),
        ("select tiny.m2d --task agreement", "--texts FILE"),
        ("select tiny.m2d --min-retention 97", "min_retention"),
        ("select tiny.m2d --max-index-gb 2", "vectors"),
        ("select tiny.m2d --max-latency-ms 0", "max_latency_ms"),
        ("select none.m2d", "none.m2d"),
        ("report none.jsonl -o new", "none.jsonl"),
        ("report empty.jsonl -o new", "empty.jsonl"),
    ],
)
def test_missing_results_and_impossible_budgets_are_refused(
    run: Run, benched: Path, arguments: str, message: str
) -> None:
    shutil.copy(benched / "results.jsonl", benched / "other.jsonl")
    altered(benched / "other.jsonl", bundle="0" * 64)
    (benched / "empty.jsonl").touch()
    outcome = refuse(run, benched, arguments, message)
    assert len(outcome.err.splitlines()) == 1


def test_select_uses_the_machine_that_measured_last_and_notes_it(run: Run, benched: Path, results: str) -> None:
    path = benched / "results.jsonl"
    altered(path, cpu="another")
    others = path.read_text().splitlines(keepends=True)
    slow = [json.loads(line) for line in results.splitlines()]
    for record in slow:
        if record["kind"] == "latency":
            record |= {"p50_ms": 5e6, "sentences_per_second": 1e-3}
    # Its first record comes before the other machine's, its last one after them.
    mine = [json.dumps(record) + "\n" for record in slow]
    path.write_text("".join([*mine[:1], *others, *mine[1:]]))
    outcome = run("select", "tiny.m2d", "--json")
    assert outcome.code == 0
    assert "2 machines" in outcome.err
    assert json.loads(outcome.out)["picked"]["latency_ms"] == 5e6


def test_select_uses_the_set_that_is_asked_for_and_notes_the_default(run: Run, benched: Path, results: str) -> None:
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
    default = run("select", "tiny.m2d", "--json")
    assert default.out == first.out
    assert "pairs.csv is used; --sts chooses another" in default.err


def made_up_results(folder: Path, bundle: Bundle, records: Sequence[dict[str, Any]]) -> None:
    """Results that were made up, as if measured of the bundle."""
    lines = [json.dumps({**record, "bundle": bundle.id}) + "\n" for record in records]
    (folder / "results.jsonl").write_text("".join(lines))


def test_select_names_the_shapes_of_its_times_and_takes_others(
    run: Run, folder: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    made_up_results(folder, bundle, made_up.sweep())
    outcome = run("select", "tiny.m2d")
    assert "times: 16 tokens, text to vector: latency at batch 1, throughput at batch 32\n" in outcome.out
    header = [name.strip() for name in outcome.out.splitlines()[1].strip("┃").split("┃")]
    assert header == ["cell", "setup", "sts", "retention", "p50", "sentences/s", "why"]
    assert rows_of(outcome.out)[0][1] == "fp32 · onnxrt"  # fp32 and int8 were measured
    json_out = json.loads(run("select", "tiny.m2d", "--batch-size", 8, "--scope", "graph", "--json").out)
    assert json_out["view"]["shape"] == json_out["view"]["throughput"]
    assert json_out["view"]["shape"] == {"batch_size": 8, "tokens": 16, "scope": "graph"}
    bound = run("select", "tiny.m2d", "--max-index-gb", 0.2, "--vectors", 1e6, "--bytes-per-value", 1)
    header = [name.strip() for name in bound.out.splitlines()[1].strip("┃").split("┃")]
    assert (header[2], header[6]) == ("sts as int8", "index")
    assert rows_of(bound.out)[0][6] == "0.128 GB"


def test_select_uses_the_texts_or_the_collection_that_is_asked_for(run: Run, folder: Path, bundle: Bundle) -> None:
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
        default = run("select", "tiny.m2d", "--task", task, "--json")
        assert f"{first} is used; {option} chooses another" in default.err
        asked = run("select", "tiny.m2d", "--task", task, option, second, "--json")
        assert asked.err == ""
        assert [json.loads(outcome.out)["picked"]["cell"]["layer"] for outcome in (default, asked)] == [6, 1]


def test_select_picks_the_query_side_by_its_share_in_an_index(run: Run, folder: Path, bundle: Bundle) -> None:
    made_up_results(folder, bundle, made_up.sweep())
    for floor, expected in ((0.9, 3), (0.99, 6), (0.8, 1)):
        chosen = run("select", "tiny.m2d", "--index-cell", "6x128", "--min-retention", floor, "--json")
        picked = json.loads(chosen.out)["picked"]
        assert picked["cell"] == {"layer": expected, "dim": 128}
        assert picked["index_share"] >= floor
    refused = run("select", "tiny.m2d", "--index-cell", "5x128")
    assert "choose one of 6x" in refused.err
    near = run("select", "tiny.m2d", "--index-cell", "6x128", "--task", "agreement", "--min-retention", 0.9, "--json")
    assert json.loads(near.out)["picked"]["index_overlap"] >= 90


def test_the_command_for_queries_has_their_prompt(run: Run, folder: Path, prompted: Bundle) -> None:
    shutil.copytree(prompted.root, folder / "asking.m2d")
    made_up_results(folder, prompted, [made_up.index_retrieval(layer, 64) for layer in (1, 2)])
    command = json.loads(run("select", "asking.m2d", "--index-cell", "6x64", "--json").out)["command"]
    assert " --prompt-name query " in command
    (folder / "texts.txt").write_text("a cat\n")
    assert run(*command.split()[1:]).code == 0


def test_select_notes_results_of_other_bundles(run: Run, folder: Path, bundle: Bundle) -> None:
    made_up_results(folder, bundle, made_up.sweep())
    path = folder / "results.jsonl"
    path.write_text(path.read_text() + json.dumps(made_up.score(6, 384)) + "\n")
    outcome = run("select", "tiny.m2d", "--json")
    assert "results.jsonl has 1 results of other bundles" in outcome.err


def test_an_edited_file_of_pairs_is_measured_again_with_a_warning(
    run: Run, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run("bench", "tiny.m2d", *QUICK.split())
    before = len(lines_of(folder / "results.jsonl"))
    (folder / "pairs.csv").write_text((folder / "pairs.csv").read_text() + "the mat,a mat,4\n")
    assert run("bench", "tiny.m2d", *QUICK.split()).code == 0
    new = lines_of(folder / "results.jsonl")[before:]
    assert {record["kind"] for record in new} == {"score", "storage"}
    (message,) = caplog.messages
    assert "20 results" in message
    assert "pairs.csv" in message


def test_a_report_has_a_page_markdown_and_pictures(run: Run, benched: Path) -> None:
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
