"""``show`` and ``verify``, and what every command says of a bundle that is damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from m2d_export import Bundle
from tests.cli.commands import GATE, KINDS, QUICK, USAGE, Run, flip, lines_of, refuse
from tests.conftest import LAYERS

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
