"""The comparison with peers, which needs their environments, up to where it would set them up."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
    ("arguments", "said"),
    [
        (("--threads", 0), "argument --threads: invalid positive value: '0'"),
        (("--rounds", "x"), "argument --rounds: invalid positive value: 'x'"),
        (("--limit", 21), "--limit is an even number from 20"),
        (("--only", "parrot"), "no system parrot; there are: "),
    ],
)
def test_what_cannot_be_compared_is_said_at_once(tmp_path: Path, arguments: tuple[object, ...], said: str) -> None:
    assert refused(tmp_path, "-o", tmp_path / "peers.json", *arguments).startswith(said)


def test_a_trial_is_not_published(tmp_path: Path) -> None:
    results = ROOT / "benchmarks" / "results" / "trial.json"
    assert refused(tmp_path, "-o", results, "--limit", 20).startswith("only a run of all systems and texts")
    assert not results.exists()


def test_every_peer_has_its_pins_and_every_system_its_own_name() -> None:
    assert len({system.name for system in SYSTEMS}) == len(SYSTEMS)
    for environment in {system.environment for system in SYSTEMS} - {OURS}:
        lines = (PEERS / f"{environment}.txt").read_text(encoding="utf-8").splitlines()
        assert all("==" in line or line.startswith(("#", "-")) for line in lines if line), environment


class MadeUp:
    """A worker that answers at once, until it is asked for the ``last`` time."""

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
    """A comparison of made-up systems, and what they will have been asked for in rounds."""
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


def test_in_a_round_all_take_turns_many_of_them_with_one_text_at_a_time(
    pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison, asked = compared(pairs_file, monkeypatch, [-1, -1, -1])
    for number in range(2):
        comparison.round(number)
    for row in comparison.rows.values():
        assert {name: len(seconds) for name, seconds in row["seconds"].items()} == {
            "short": 2,
            "long": 2,
            "single": 2 * SINGLE_TURNS,
        }
    singles = [system for system, name in asked if name == "single"]
    turns = [tuple(singles[start : start + 3]) for start in range(0, len(singles), 3)]
    assert all(sorted(turn) == [1, 2, 3] for turn in turns)
    assert len(set(turns)) > 3  # nobody always follows the same one


def test_who_fails_in_a_round_is_left_out_with_the_reason_and_nothing_is_published(
    pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison, _ = compared(pairs_file, monkeypatch, [-1, 5, -1])  # three to open it, two more of the first round
    comparison.round(0)
    assert comparison.not_run == {SYSTEMS[1].name: "gone"}
    assert SYSTEMS[1].name not in comparison.rows
    assert len(comparison.rows) == 2
    published = command.argparse.Namespace(published=True)
    with pytest.raises(SystemExit, match="a run with failures does not go into benchmarks/results"):
        command.refuse_failures(published, comparison)


@pytest.mark.parametrize("file", ["peers.json", "peers_avx2.json"])
def test_what_was_measured_is_what_was_asked_for(file: str) -> None:
    """Issue 5: on short texts 1.7 x the best peer, exit 3 3.2 x, on long ones 1.2 x; one text in 0.75 of its time.

    The older run met the last turn by turn alone: that machine is fast or slow for a second or so, and a ratio of
    medians jumps between the two.
    """
    found = json.loads((command.RESULTS / file).read_text(encoding="utf-8"))
    assert (found["rounds"] >= 5, found["limit"]) == (True, None)
    systems: dict[str, Any] = found["systems"]
    ours = {name: row for name, row in systems.items() if row["environment"] == "m2d-export"}
    exit_3 = [row for name, row in ours.items() if name.endswith("at exit 3")]
    full = [row for row in ours.values() if row not in exit_3]
    peers = [row for row in systems.values() if row["environment"] not in ("m2d-export", "model2vec")]
    best = {key: max(row[key] for row in peers) for key in ("short_per_second", "long_per_second")}
    assert max(row["short_per_second"] for row in full) >= 1.7 * best["short_per_second"]
    assert max(row["long_per_second"] for row in full) >= 1.2 * best["long_per_second"]
    assert max(row["short_per_second"] for row in exit_3) >= 3.2 * best["short_per_second"]
    own, other = (min(rows, key=lambda row: row["single_p50_ms"])["seconds"]["single"] for rows in (full, peers))
    assert np.median(np.divide(own, other)) <= 0.75
    if file == "peers_avx2.json":
        assert np.median(own) <= 0.75 * np.median(other)
    fp32 = systems["sentence-transformers torch fp32"]["score"]
    assert all(abs(row["score"] - fp32) <= 0.3 for row in full)
