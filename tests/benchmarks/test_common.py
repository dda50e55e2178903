"""What all benchmarks share: arguments, turns, ratios and results files."""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import common


def parsed(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> argparse.Namespace:
    monkeypatch.setattr(sys, "argv", ["script", *arguments])
    parser = common.parser("script", "A question.", rounds=5)
    parser.add_argument("bundle", type=Path)
    return parser.parse_args()


def test_results_hold_the_command_without_folders_and_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.m2d").mkdir()
    arguments = parsed(monkeypatch, str(tmp_path / "a.m2d"), "-o", str(tmp_path / "out.json"), "--rounds", "7")
    common.write_results(arguments, {"value": 1})
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["command"] == "python -m benchmarks.script a.m2d -o out.json --rounds 7"
    assert found["value"] == 1
    assert found["machine"]["cores"] > 0
    assert list(tmp_path.glob(".*")) == []


def test_a_results_file_of_the_repository_keeps_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = parsed(monkeypatch, "a.m2d", "-o", str(common.RESULTS / "new.json"))
    assert arguments.command.endswith("-o benchmarks/results/new.json")


def test_results_that_are_no_json_leave_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out.json"
    output.write_text("old")
    with pytest.raises(ValueError, match="JSON"):
        common.write_results(parsed(monkeypatch, "a.m2d", "-o", str(output)), {"value": float("nan")})
    assert output.read_text() == "old"


@pytest.mark.parametrize("folder", [None, "missing"])
def test_a_script_without_data_names_the_variable(
    folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("M2D_STSB", raising=False)
    if folder:
        monkeypatch.setenv("M2D_STSB", str(tmp_path / folder))
    with pytest.raises(SystemExit):
        common.stsb_folder(common.parser("script", "A question."))
    assert "M2D_STSB" in capsys.readouterr().err


def test_systems_take_turns_in_changing_orders_and_the_warm_up_does_not_count() -> None:
    order: list[str] = []

    def turn(name: str) -> float:
        order.append(name)
        return float(len(order))

    seconds = common.take_turns({name: lambda name=name: turn(name) for name in "abc"}, rounds=20, warm_up=2)
    rounds = [tuple(order[start : start + 3]) for start in range(0, len(order), 3)]
    assert len(rounds) == 22
    assert all(Counter(names) == Counter("abc") for names in rounds)
    assert len(set(rounds)) > 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 20, "b": 20, "c": 20}
    assert min(value for values in seconds.values() for value in values) == 7  # two rounds of three turns came first


def test_a_turn_waits_for_the_device_before_and_after_the_call() -> None:
    events: list[str] = []
    assert common.timed(lambda: events.append("call"), lambda: events.append("wait"))() >= 0
    assert events == ["wait", "call", "wait"]


def test_the_interval_of_a_ratio_holds_its_mean_and_is_narrow_for_equal_pairs() -> None:
    equal, unlike = common.ratio_of([2.0] * 10), common.ratio_of([0.5, 2.0] * 5)
    assert (equal.mean, equal.low, equal.high) == pytest.approx((2, 2, 2))
    assert unlike.mean == pytest.approx(1)
    assert 0.5 < unlike.low < 1 < unlike.high < 2


def test_texts_are_sentences_paragraphs_of_ten_and_a_spread_of_them() -> None:
    sentences = [str(number) for number in range(25)]
    assert common.paragraphs(sentences) == [" ".join(sentences[:10]), " ".join(sentences[10:20])]
    assert common.spread(sentences, 5) == ["0", "5", "10", "15", "20"]
    assert common.spread(sentences[:3], 5) == sentences[:3]
    assert common.middle_half([1, 2, 3, 4, 5]) == (2, 4)
