"""The measurements of distilled exits: shares of what the base finds, a file that grows, tables and the picture."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import distil, pictures, tables
from benchmarks.tables import distil as distil_tables
from tests.support.checkpoints import save_checkpoint
from tests.support.distillations import SMALL, made_up_texts, write_texts
from tests.support.distillations import distil as run_distil
from tests.support.shared import Once

Measure = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def folders(once: Once) -> Path:
    """A tiny checkpoint, what a distillation made of it, pairs and a collection."""

    def make(folder: Path) -> None:
        base = save_checkpoint(folder / "tiny")
        texts = write_texts(folder / "texts.txt", 250)
        ended = run_distil(base, "--texts", texts, "-o", folder / "made", "--minutes", 0, "--layers", "0,1,3", *SMALL)
        assert ended.code == 0, ended.err
        rows = made_up_texts(60, seed=1)
        for split, first in (("dev", 0), ("test", 30)):
            pairs = zip(rows[first : first + 15], rows[first + 15 : first + 30], range(15), strict=True)
            (folder / f"{split}.csv").write_text(
                "".join(f"{left},{right},{score % 6}\n" for left, right, score in pairs)
            )
        collection = folder / "beir" / "little"
        (collection / "qrels").mkdir(parents=True)
        lines = [json.dumps({"_id": str(place), "text": text}) for place, text in enumerate(made_up_texts(40, seed=2))]
        (collection / "corpus.jsonl").write_text("\n".join(lines))
        (collection / "queries.jsonl").write_text("\n".join(line.replace('": "', '": "q', 1) for line in lines[:8]))
        judged = [f"q{place}\t{place}\t1" for place in range(8)]
        (collection / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))

    return once("measured-distillation", make)


@pytest.fixture
def measure(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Run the script with other arguments; returns what its file holds."""
    monkeypatch.setenv("M2D_STSB", str(folders))
    monkeypatch.setenv("M2D_RETRIEVAL", str(folders / "beir"))

    def run(*arguments: str, base: Path = folders / "tiny") -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["", str(base), *arguments, "-o", str(tmp_path / "distil.json")])
        distil.main()
        found: dict[str, Any] = json.loads((tmp_path / "distil.json").read_text())
        return found

    return run


@pytest.mark.slow
def test_checkpoints_are_measured_against_the_base_and_a_later_call_adds_to_the_file(
    measure: Measure, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = measure("--layers", "1")
    assert list(first["checkpoints"]) == ["untouched"]
    untouched = first["checkpoints"]["untouched"]
    assert untouched["mean_cosine"] == pytest.approx(1)
    assert list(untouched["exits"]) == ["1", "3"]
    deepest = untouched["exits"]["3"]["64"]
    assert [deepest[name] for name in ("share", "asym", "base_index")] == pytest.approx([1, 1, 1])
    assert first["bm25"]["share"] == pytest.approx(first["bm25"]["ndcg"]["little"] / first["ndcg"]["little"])

    both = measure("--distilled", f"heads={folders / 'made'}", "--layers", "0,1", "--split", "test")
    assert set(both["checkpoints"]) == {"untouched", "heads"}
    assert "heads=made --layers 0,1" in both["command"]
    made = both["checkpoints"]["heads"]
    assert (made["facts"]["steps"], made["facts"]["texts_seen"], made["facts"]["texts"]["own"]) == (0, 0, 250)
    assert made["mean_cosine"] == pytest.approx(1, abs=1e-5)  # a rotation is undone
    assert list(made["exits"]) == ["0", "1", "3"]
    for exits in (checkpoint["exits"] for checkpoint in both["checkpoints"].values()):
        assert set(exits["1"]["64"]["sts"]) == {"dev", "test"}  # the untouched one lacked test
    for name in ("share", "asym", "base_index"):
        assert made["exits"]["3"]["64"][name] == pytest.approx(1, abs=1e-5)

    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    shown = distil_tables.distil()
    assert "| exit | untouched | heads |" in shown
    assert "| 0 | – | " in shown
    with pytest.raises(SystemExit):  # the file has results of another base
        measure("--layers", "1", base=save_checkpoint(tmp_path / "other", normalize=False))
    assert "another base" in capsys.readouterr().err


def test_the_picture_shows_the_runs_that_have_steps(tmp_path: Path) -> None:
    cell = {"sts": {"test": 75.0}, "share": 0.6, "asym": 0.7}
    exits = {layer: {"384": cell} for layer in ("1", "3")}
    facts = [None, {"steps": 0, "texts_seen": 0, "batch": 64}, {"steps": 358, "texts_seen": 22_912, "batch": 64}]
    checkpoints = {str(place): {"facts": own, "exits": exits} for place, own in enumerate(facts)}
    pictures.texts_seen_picture(tmp_path / "a.png", {"base": {"width": 384}, "checkpoints": checkpoints})
    with Image.open(tmp_path / "a.png") as drawn:
        words = drawn.info["Description"]
    for word in ("STS-B test", "exit 1", "exit 3", "prototype", "batches of 64", "1,024"):
        assert word in words
