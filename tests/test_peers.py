"""The comparison with peers, which needs their environments, up to where it would set them up."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers.systems import OURS, SYSTEMS

ROOT = Path(__file__).parents[1]
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
