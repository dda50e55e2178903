"""The comparison of two checkouts: pairs of processes, and the ratio with its interval."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import before_after, common
from benchmarks.before_after import commit_of, main, prepared, variables


def test_pairs_alternate_and_the_ratio_is_the_time_before_over_the_time_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def seconds(checkout: Path, settings: dict[str, Any], texts: dict[str, Path], log: Path) -> dict[str, float]:
        started.append(checkout.name)
        assert settings["path"] == str(tmp_path / f"{checkout.name}.m2d")
        assert {name: len(json.loads(path.read_text())) for name, path in texts.items()} == {"many": 4, "single": 4}
        return {"many": 3.0 if checkout.name == "old" else 2.0, "single": 0.001}

    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    (tmp_path / "test.csv").write_text("a cat,a dog,3\na man,no man,4\nthe mat,a mat,5\n")
    monkeypatch.setenv("M2D_STSB", str(tmp_path))
    monkeypatch.setattr(before_after, "seconds", seconds)
    monkeypatch.setattr(before_after, "prepared", lambda checkout, *rest: tmp_path / f"{checkout.name}.m2d")
    monkeypatch.setattr(before_after, "commit_of", lambda checkout: checkout.name)
    command = ["--before", "old", "--after", "new", "--pairs", "4", "--runtime", "onnxrt", "--precision", "fp32"]
    paths = [str(tmp_path / word) if word in ("old", "new") else word for word in command]
    output = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["", *paths, "--work", str(tmp_path), "-o", str(output), "--limit", "4"])
    main()
    assert started == ["old", "new", "new", "old"] * 2
    found = json.loads(output.read_text())
    many, single = found["rows"]
    assert (many["workload"], many["ratio"]["mean"]) == ("many", pytest.approx(1.5))
    assert single["ratio"] == pytest.approx({"mean": 1, "low": 1, "high": 1})
    assert found["commits"] == {"before": "old", "after": "new"}


def test_a_process_imports_the_code_of_its_checkout(tmp_path: Path) -> None:
    assert variables(common.ROOT, 2)["PYTHONPATH"] == str(common.ROOT)
    assert commit_of(common.ROOT)
    with pytest.raises(SystemExit, match="not a checkout"):
        prepared(tmp_path, tmp_path, tmp_path / "bundle.m2d", 1)
