"""``bench --retrieval`` and ``bench --index`` on the command line."""

import json
import shutil
from pathlib import Path

import pytest

from m2d_export import Bundle
from tests.cli.commands import (
    QUICK,
    Run,
    lines_of,
    refuse,
    rows_of,
)
from tests.support.rotations import rotated


def beir(folder: Path) -> Path:
    (folder / "beir" / "qrels").mkdir(parents=True)
    (folder / "beir" / "corpus.jsonl").write_text('{"_id": "1", "text": "a cat"}\n{"_id": "2", "text": "a dog"}\n')
    (folder / "beir" / "queries.jsonl").write_text('{"_id": "q", "text": "the cat"}\n')
    (folder / "beir" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t1\n")
    return folder / "beir"


def test_agreement_retrieval_and_cascades_are_measured_on_request(run: Run, folder: Path) -> None:
    (folder / "own.txt").write_text("".join(f"a cat and {number} dogs\n" for number in range(20)))
    beir(folder)
    outcome = run("bench", "tiny.m2d", *QUICK.split(), "--texts", "own.txt", "--retrieval", "beir", "--all")
    assert (outcome.code, outcome.err) == (0, "")
    for heading in ("own.txt", "overlap@10", "on beir; BM25 (english)", "Cascade on beir"):
        assert heading in outcome.out
    kinds = [line["kind"] for line in lines_of(folder / "results.jsonl")]
    counts = {"agreement": 4, "retrieval": 4, "cascade": 3, "index_retrieval": 4, "index_agreement": 4, "bm25": 1}
    assert {kind: kinds.count(kind) for kind in counts} == counts
    assert "BM25 (english)" in outcome.out
    assert "queries with no prompt, documents with no prompt" in " ".join(outcome.out.split())
    again = run("bench", "tiny.m2d", *QUICK.split(), "--texts", "own.txt", "--retrieval", "beir")
    assert "nothing was measured" in again.out
    assert max(map(len, again.out.splitlines())) <= 100


def test_queries_search_in_the_index_of_another_bundle_of_that_space(run: Run, folder: Path) -> None:
    beir(folder)
    shallow = "bench tiny.m2d --sts pairs.csv --layers 1 --dims 64,7 --batch-size 1 --tokens 8 --retrieval beir"
    shutil.copytree(folder / "tiny.m2d", folder / "base.m2d")
    manifest = json.loads((folder / "base.m2d" / "manifest.json").read_text())
    manifest["truncate_dim"] = 64  # another bundle, with the same vectors
    (folder / "base.m2d" / "manifest.json").write_text(json.dumps(manifest))
    assert run(*shallow.split(), "--index", "base.m2d", "--bm25", "off").code == 0
    found = [line for line in lines_of(folder / "results.jsonl") if line["kind"] == "index_retrieval"]
    assert [(line["index_name"], line["index_cell"]) for line in found] == [("base.m2d", [3, 7]), ("base.m2d", [3, 64])]
    assert "--index base.m2d" in found[0]["command"]
    assert not [line for line in lines_of(folder / "results.jsonl") if line["kind"] == "bm25"]
    assert run(*shallow.split(), "--bm25", "german").code == 0  # adds the bundle's own index, and BM25
    lines = lines_of(folder / "results.jsonl")
    assert [line["language"] for line in lines if line["kind"] == "bm25"] == ["german"]
    for option, name in (("", "exit 3 of base.m2d"), (" --index own", "exit 3\n")):
        chosen = run(*f"select tiny.m2d --index-cell 3x7{option}".split())
        assert f"queries in an index of 3x7, made by {name}" in chosen.out
        assert rows_of(chosen.out)[0][0] == "1x7"


def test_differently_rotated_bundles_are_compared_at_full_width_with_a_note(
    run: Run, folder: Path, bundle: Bundle
) -> None:
    beir(folder)
    rotated(bundle, folder, 1)
    bench = "bench tiny.m2d --sts pairs.csv --layers 1 --batch-size 1 --tokens 8 --retrieval beir --index rotated-1.m2d"
    outcome = run(*bench.split(), "--dims", "64,7", "--json")
    assert outcome.code == 0
    assert "all 64 dims only" in outcome.err
    found = [json.loads(line) for line in outcome.out.splitlines()]
    assert [record["dim"] for record in found if record["kind"] == "index_retrieval"] == [64]
    refuse(run, folder, f"{bench} --dims 7", "add 64 to --dims")


def test_an_index_that_cannot_be_searched_is_refused(run: Run, folder: Path, prompted: Bundle) -> None:
    beir(folder)
    shutil.copytree(prompted.root, folder / "other.m2d")
    for arguments, value in (
        ("--retrieval beir --index other.m2d", "another space"),
        ("--retrieval beir --index none.m2d", "none.m2d"),
        ("--retrieval beir --index beir", "not a bundle"),
        ("--index tiny.m2d", "--retrieval FOLDER or --texts FILE"),
        ("--retrieval beir --bm25 klingon", "english"),
        ("--bm25 english", "--retrieval FOLDER"),
    ):
        refuse(run, folder, f"bench tiny.m2d {arguments}", value)


QRELS = "query-id\tcorpus-id\tscore\n"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("qrels/test.tsv", f"{QRELS}q\t9\t1\n", "line 2: corpus.jsonl has no document '9'"),
        ("qrels/test.tsv", f"{QRELS}z\t1\t1\n", "line 2: queries.jsonl has no query 'z'"),
        ("corpus.jsonl", "", "corpus.jsonl is empty"),
        ("queries.jsonl", "{", "queries.jsonl, line 1 is not JSON"),
    ],
)
def test_an_inconsistent_collection_is_refused(run: Run, folder: Path, name: str, text: str, value: str) -> None:
    (beir(folder) / name).write_text(text)
    outcome = refuse(run, folder, "bench tiny.m2d --retrieval beir", value)
    assert len(outcome.err.splitlines()) == 1
