"""The screen of a training, its picture, its log and its energy."""

import io
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from m2d_export.errors import TrainingError
from m2d_export.spec import Cell
from train.energy import measure_energy
from train.log import Entry, check_divergence
from train.picture import draw
from train.screen import grid_table, open_screen


def entry(step: int, *scores: float | None, loss: float = 1.0) -> Entry:
    cells = [Cell(1, 16), Cell(1, 64), Cell(2, 16), Cell(2, 64)]
    return Entry(step, loss, dict(zip(cells, scores, strict=True)))


def test_a_terminal_shows_a_bar_and_the_change_of_each_score(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "60"}.items():
        monkeypatch.setenv(name, value)
    with open_screen() as watching:
        watching.print("scores [0..1] from a rather long line that no terminal of sixty columns may cut in two")
        watching.evaluated(entry(100, 50.0, 60.04, None, 70.0))
        watching.evaluated(entry(200, 51.5, 59.0, 65.0, 70.0))
        watching.step(200, 300, 3.14159)
    captured = capsys.readouterr()
    assert captured.out == ""
    shown = Text.from_ansi(captured.err).plain
    assert "scores [0..1] from a rather long line that no terminal of sixty columns may cut in two\n" in shown
    first, second = shown.split("dev after step 200")
    rows = [
        [cell.split() for cell in line.strip("│").split("│")] for line in (first + second).splitlines() if "│" in line
    ]
    assert rows == [
        [["2"], ["70.0"], ["–"]],
        [["1"], ["60.0"], ["50.0"]],
        [["2"], ["70.0", "0.0"], ["65.0"]],
        [["1"], ["59.0", "-1.0"], ["51.5", "+1.5"]],
    ]
    assert re.search(r"training .* 200/300 loss 3\.142 ", shown)


def test_brackets_in_a_title_are_not_markup() -> None:
    console = Console(file=io.StringIO(), record=True)
    console.print(grid_table(entry(1, 1, 2, 3, 4).scores, None, "dev [red]"))
    assert "dev [red]" in console.export_text()


@pytest.mark.parametrize("log", [[entry(1, 1, 2, 3, 4)], [entry(1, None, 2, 3, 4), entry(2, None, 2, None, 4)]])
def test_a_picture_with_one_evaluation_or_undefined_scores(tmp_path: Path, log: list[Entry]) -> None:
    draw(log, tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_an_entry_is_read_back_as_it_was_written() -> None:
    written = entry(7, 1.5, None, 3, 4, loss=0.25)
    assert Entry.from_json(written.to_json()) == written


@pytest.mark.parametrize("full", [(-30.0,), (50.0, 31.0), (None, 50.0), (10.0, -9.0), (50.0, 90.0, 71.0)])
def test_scores_that_are_no_divergence(full: tuple[float | None, ...]) -> None:
    check_divergence([entry(step, 0, 0, 0, score) for step, score in enumerate(full)])


@pytest.mark.parametrize(
    ("full", "values"),
    [
        ((None,), "undefined"),
        ((50.0, None), "undefined"),
        ((50.0, 29.9), r"29\.9 .*50\.0"),
        ((50.0, 90.0, None, 69.0), r"69\.0 .*90\.0"),
    ],
)
def test_an_undefined_score_or_a_fall_of_20_points_is_divergence(full: tuple[float | None, ...], values: str) -> None:
    with pytest.raises(TrainingError, match=values):
        check_divergence([entry(step, 0, 0, 0, score) for step, score in enumerate(full)])


class Tracker:
    """The parts of codecarbon's tracker that are used."""

    def __init__(self, **options: Any) -> None:
        assert options["save_to_file"] is False
        self.running = False

    def start(self) -> None:
        self.running = True

    def stop(self) -> float:
        assert self.running
        self.running = False
        self.final_emissions_data = type("Data", (), {"energy_consumed": 0.5, "emissions": 0.125})()
        return 0.125


def codecarbon(monkeypatch: pytest.MonkeyPatch, tracker: type | None) -> None:
    module = ModuleType("codecarbon")
    if tracker is not None:
        monkeypatch.setattr(module, "EmissionsTracker", tracker, raising=False)
    monkeypatch.setitem(sys.modules, "codecarbon", module)


def test_energy_is_measured_if_codecarbon_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    codecarbon(monkeypatch, Tracker)
    with measure_energy() as energy:
        assert energy.kwh is None
    assert (energy.kwh, energy.co2_kg) == (0.5, 0.125)
    assert energy.note.startswith("codecarbon")


def test_energy_is_not_measured_without_codecarbon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with measure_energy() as energy:
        pass
    assert (energy.kwh, energy.co2_kg) == (None, None)
    assert "codecarbon" in energy.note


@pytest.mark.parametrize("method", ["__init__", "start", "stop"])
def test_a_meter_that_fails_does_not_stop_the_training(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError("no sensor\nat all")

    codecarbon(monkeypatch, type("Broken", (Tracker,), {method: fail}))
    with measure_energy() as energy:
        done = True
    assert done
    assert (energy.kwh, energy.co2_kg) == (None, None)
    assert "(no sensor)" in energy.note


@pytest.mark.parametrize("error", [TrainingError("lost"), KeyboardInterrupt()])
def test_a_training_error_passes_through_the_meter(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    codecarbon(monkeypatch, Tracker)
    with pytest.raises(type(error)), measure_energy() as energy:
        raise error
    assert energy.kwh == 0.5
