"""The comparison with peers, without their environments."""

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.common import RESULTS
from benchmarks.peers import __main__ as command
from benchmarks.peers import measure
from benchmarks.peers.child import CannotRunError
from benchmarks.peers.measure import SINGLE_TURNS, Comparison, Place
from benchmarks.peers.systems import OURS, SYSTEMS
from m2d_export.bench.sts import load_pairs

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "benchmarks" / "peers"


def refused(tmp_path: Path, *arguments: object) -> str:
    command = [sys.executable, "-m", "benchmarks.peers", "--work", tmp_path / "work", *arguments]
    ended = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert not (tmp_path / "work").exists()
    return ended.stderr.splitlines()[-1].partition("error: ")[2]


@pytest.mark.parametrize(
    ("option", "value"), [("--threads", 0), ("--rounds", "x"), ("--limit", 21), ("--limit", 0), ("--only", "parrot")]
)
def test_a_wrong_option_is_refused_before_any_work(tmp_path: Path, option: str, value: object) -> None:
    assert option in refused(tmp_path, "-o", tmp_path / "peers.json", option, value)


def test_a_trial_is_not_published(tmp_path: Path) -> None:
    output = RESULTS / "trial.json"
    assert "benchmarks/results" in refused(tmp_path, "-o", output, "--limit", 20)
    assert not output.exists()


def test_each_environment_is_pinned_and_each_system_has_its_own_name() -> None:
    assert len({system.name for system in SYSTEMS}) == len(SYSTEMS)
    for environment in {system.environment for system in SYSTEMS} - {OURS}:
        lines = (PEERS / f"{environment}.txt").read_text(encoding="utf-8").splitlines()
        assert all("==" in line or line.startswith(("#", "-")) for line in lines if line), environment


class MadeUp:
    """A worker that answers at once. It fails after ``last`` requests."""

    computes = ""

    def __init__(self, asked: list[tuple[int, str]], number: int, last: int) -> None:
        self.asked, self.number, self.last = asked, number, last

    def ask(self, **request: Any) -> dict[str, Any]:
        if self.last == 0:
            raise CannotRunError("gone")
        self.last -= 1
        texts = json.loads(Path(request["texts"]).read_text())
        if "vectors" in request:
            np.save(request["vectors"], np.random.default_rng(0).random((len(texts), 4), dtype=np.float32))
            return {}
        self.asked.append((self.number, Path(request["texts"]).stem))
        return {"seconds": [self.number, self.number] if request["single"] else [10.0 * self.number]}

    def close(self) -> None:
        pass


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    numbers = random.Random(0)
    lines = [f"a cat {number},a dog {number},{numbers.uniform(0, 5):.2f}" for number in range(20)]
    (tmp_path / "test.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "test.csv"


def compared(pairs: Path, monkeypatch: pytest.MonkeyPatch, lasts: list[int]) -> tuple[Comparison, list[Any]]:
    """A comparison of made-up systems, and a list that their requests go into."""
    asked: list[Any] = []
    opened = {system: MadeUp(asked, number + 1, lasts[number]) for number, system in enumerate(SYSTEMS[: len(lasts)])}
    monkeypatch.setattr(measure, "opened", lambda system, place: opened[system])
    monkeypatch.setattr(measure.time, "sleep", lambda seconds: None)
    place = Place(pairs.parent / "work", pairs.parent, pairs.parent, 1)
    comparison = Comparison(place, load_pairs(str(pairs)), None)
    for system in opened:
        comparison.open(system)
    asked.clear()
    return comparison, asked


def test_in_a_round_each_system_has_one_long_turn_and_many_short_ones(
    pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison, asked = compared(pairs_file, monkeypatch, [-1, -1, -1])
    for _ in range(2):
        comparison.round()
    for row in comparison.rows.values():
        assert {name: len(seconds) for name, seconds in row["seconds"].items()} == {
            "short": 2,
            "long": 2,
            "single": 2 * SINGLE_TURNS,
        }
    singles = [system for system, name in asked if name == "single"]
    turns = [tuple(singles[start : start + 3]) for start in range(0, len(singles), 3)]
    assert all(sorted(turn) == [1, 2, 3] for turn in turns)
    assert len(set(turns)) > 3  # no system always follows the same one


def test_a_system_that_fails_in_a_round_is_left_out_and_stops_a_published_run(
    pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison, _ = compared(pairs_file, monkeypatch, [-1, 5, -1])  # three to open it, two in the first round
    comparison.round()
    assert comparison.not_run == {SYSTEMS[1].name: "gone"}
    assert SYSTEMS[1].name not in comparison.rows
    assert len(comparison.rows) == 2
    published = argparse.Namespace(published=True)
    with pytest.raises(SystemExit, match="not published"):
        command.refuse_failures(published, comparison)


@pytest.mark.parametrize("file", ["peers.json", "peers_avx2.json"])
def test_committed_results_are_of_whole_runs_at_equal_score(file: str) -> None:
    found = json.loads((RESULTS / file).read_text(encoding="utf-8"))
    assert (found["rounds"] >= 5, found["limit"]) == (True, None)
    systems: dict[str, Any] = found["systems"]
    full = [
        row for name, row in systems.items() if row["environment"] == "m2d-export" and not name.endswith("at exit 3")
    ]
    assert full
    assert {"st", "st5", "fastembed"} <= {row["environment"] for row in systems.values()}
    fp32 = systems["sentence-transformers torch fp32"]["score"]
    assert all(abs(row["score"] - fp32) <= 0.3 for row in full)
