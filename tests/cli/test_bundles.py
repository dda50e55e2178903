"""``show`` and ``verify``, and how each command fails on a damaged bundle."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from m2d_export import Bundle
from tests.cli.commands import GATE, KINDS, QUICK, USAGE, Run, flip, lines_of, refuse
from tests.support.checkpoints import LAYERS

DAMAGES: dict[str, tuple[Callable[[Path], object], str, int]] = {
    "no folder": (shutil.rmtree, "m2d-export build", USAGE),
    "no manifest": (lambda root: (root / "manifest.json").unlink(), "manifest.json", USAGE),
    "no JSON": (lambda root: (root / "manifest.json").write_text("{"), "manifest.json", GATE),
    "not UTF-8": (lambda root: (root / "manifest.json").write_bytes(b"\xff"), "manifest.json", GATE),
    "newer format": (lambda root: (root / "manifest.json").write_text('{"format": 2}'), "format 2", GATE),
    "weights": (lambda root: flip(root / "graphs" / "weights.fp32.bin"), "weights.fp32.bin was changed", GATE),
    "graph": (lambda root: flip(root / "graphs" / "layer-03.fp32.onnx"), "layer-03.fp32.onnx was changed", GATE),
    "tokenizer": (lambda root: flip(root / "tokenizer.json"), "tokenizer.json was changed", GATE),
    "no graph": (lambda root: (root / "graphs" / "layer-03.fp32.onnx").unlink(), "03.fp32.onnx is missing", GATE),
}
OF_THE_MANIFEST = ("no folder", "no manifest", "no JSON", "not UTF-8", "newer format")


@pytest.mark.parametrize("command", ["encode tiny.m2d texts.txt -o o.npy", "verify tiny.m2d"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_encode_and_verify_refuse_a_damaged_bundle(run: Run, folder: Path, damage: str, command: str) -> None:
    hurt, message, code = DAMAGES[damage]
    hurt(folder / "tiny.m2d")
    outcome = refuse(run, folder, command, message, code)
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["show tiny.m2d", "bench tiny.m2d"])
@pytest.mark.parametrize("damage", OF_THE_MANIFEST)
def test_show_and_bench_refuse_a_damaged_manifest(run: Run, folder: Path, damage: str, command: str) -> None:
    hurt, message, code = DAMAGES[damage]
    hurt(folder / "tiny.m2d")
    refuse(run, folder, command, message, code)


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage not in OF_THE_MANIFEST])
def test_bench_measures_the_intact_part_of_a_damaged_bundle_and_fails(run: Run, folder: Path, damage: str) -> None:
    hurt, message, code = DAMAGES[damage]
    hurt(folder / "tiny.m2d")
    outcome = run("bench", "tiny.m2d", *QUICK.split())
    assert outcome.code == code
    assert message in outcome.err
    (line,) = outcome.err.splitlines()
    found = lines_of(folder / "results.jsonl")
    failed = [record for record in found if record["status"] == "failed"]
    assert line.startswith(f"Error: {len(failed)} results could not be measured")
    assert len(found) == len(KINDS)
    timed = [record["layer"] for record in found if (record["kind"], record["status"]) == ("latency", "ok")]
    assert timed == ([1] * 4 if "graph" in damage else [])


def test_show_prints_settings_and_graphs(run: Run, folder: Path, bundle: Bundle) -> None:
    outcome = run("show", "tiny.m2d")
    assert (outcome.code, outcome.err) == (0, "")
    for told in (bundle.id[:12], "BertModel, 3 layers, width 64", "mean; vectors normalised", "up to 48 tokens"):
        assert told in outcome.out
    assert "layer 1" in outcome.out  # its head
    rows = [line.split("│")[1:3] for line in outcome.out.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [[str(k), "fp32"] for k in range(1, LAYERS + 1)]


def test_show_prints_the_manifest_as_json(run: Run, folder: Path) -> None:
    outcome = run("show", "tiny.m2d", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert json.loads(outcome.out) == json.loads((folder / "tiny.m2d" / "manifest.json").read_text())


def test_verify_counts_the_files_of_an_intact_bundle(run: Run, folder: Path, bundle: Bundle) -> None:
    count = len(bundle.manifest.files)
    outcome = run("verify", "tiny.m2d")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"tiny.m2d is intact: {count} files, ")
    outcome = run("verify", "tiny.m2d", "--json")
    assert json.loads(outcome.out) == {"bundle": bundle.id, "files": count, "problems": []}


def test_verify_lists_every_problem_and_fails(run: Run, folder: Path, bundle: Bundle) -> None:
    flip(folder / "tiny.m2d" / "graphs" / "layer-01.fp32.onnx")
    (folder / "tiny.m2d" / "graphs" / "layer-02.fp32.onnx").unlink()
    (folder / "tiny.m2d" / "extra.txt").touch()
    outcome = run("verify", "tiny.m2d", "--json")
    assert outcome.code == GATE
    problems = json.loads(outcome.out)["problems"]
    assert [problem.split()[0] for problem in problems] == [
        *("graphs/layer-01.fp32.onnx", "graphs/layer-02.fp32.onnx", "extra.txt")
    ]
    assert outcome.err.startswith("Error: ")
    assert all(problem in outcome.err for problem in problems)
