"""Every script starts, pages show the results, and the pictures can be drawn."""

import importlib
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import common, pictures, render
from benchmarks.tables import result, summary
from train.distil.corpus import MEASURED

FOLDER = render.ROOT / "benchmarks"
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")
SCRIPTS = sorted(
    {path.stem for path in FOLDER.glob("*.py")} | {path.parent.name for path in FOLDER.glob("*/__main__.py")}
)


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "common"])
def test_a_script_explains_itself(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = (FOLDER / script / "__main__.py").exists()
    module = importlib.import_module(f"benchmarks.{script}.__main__" if package else f"benchmarks.{script}")
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"python -m benchmarks.{script}" in shown
    if script not in ("render", "pictures", "prototype"):
        assert shown.split("\n\n")[1].rstrip().endswith("?")  # a script is one question
        assert f"python -m benchmarks.{script} " in PAGE


def test_pages_show_the_committed_results() -> None:
    stale = [page.name for page in render.pages() if render.rendered(text := page.read_text("utf-8")) != text]
    assert stale == []


def test_each_block_but_those_of_the_readme_is_on_the_page_of_the_benchmarks() -> None:
    shown = {found[1] for found in render.BLOCK.findall(PAGE)}
    assert shown == set(render.BLOCKS) - {"headline", "results"}


def test_the_warning_of_few_texts_has_the_measured_scores() -> None:
    found = result("few_texts.json")["checkpoints"]
    scores = [f"{row['exits']['3']['384']['sts']['test']:.1f}" for row in found.values()]
    assert re.findall(r"\d+\.\d", MEASURED) == scores


def test_a_block_is_filled_and_an_unknown_block_is_an_error() -> None:
    page = "a\n<!-- not run: a reason -->\n<!-- cost: a file -->\nold\n<!-- /cost -->\nb\n"
    filled = render.rendered(page)
    assert filled.startswith("a\n<!-- not run: a reason -->\n<!-- cost: a file -->\n| step |")
    assert filled.endswith("\n<!-- /cost -->\nb\n")
    assert render.rendered(filled) == filled
    with pytest.raises(KeyError, match="parrot"):
        render.rendered("<!-- parrot: a file -->\n<!-- /parrot -->\n")


def test_the_readme_quotes_three_facts_and_six_results_with_links_to_their_sections() -> None:
    assert len([line for line in summary.headline().splitlines() if line.startswith("- ")]) == 3
    rows = summary.results().splitlines()[2:]
    assert len(rows) == 6
    sections = {line.removeprefix("## ").lower().replace(" ", "-").replace("'", "") for line in PAGE.splitlines()}
    for row in rows:
        assert row.partition("README.md#")[2].partition(")")[0] in sections


DRAWN = ["grid.png", "speed.png", *(["texts_seen.png"] if (common.RESULTS / "distil.json").exists() else [])]


@pytest.mark.parametrize("name", DRAWN)
def test_the_pictures_can_be_drawn_and_the_committed_ones_show_the_results(name: str, tmp_path: Path) -> None:
    pictures.main(["--folder", str(tmp_path)])
    drawn, committed = (Image.open(folder / name) for folder in (tmp_path, render.ROOT / "docs"))
    assert drawn.size == committed.size
    assert drawn.info["Description"]
    assert drawn.info["Description"] == committed.info["Description"]  # else run python -m benchmarks.pictures


def test_the_bars_are_at_most_eight_systems_that_score_no_less_fastest_first() -> None:
    found = result("peers.json")
    shown = pictures.bars(found)
    assert 4 <= len(shown) <= 8
    assert [bar.per_second for bar in shown] == sorted((bar.per_second for bar in shown), reverse=True)
    assert {bar.ours for bar in shown} == {True, False}
    assert not any("model2vec" in bar.name for bar in shown)  # its score is far lower
    assert sum("exit 3" in bar.name for bar in shown) == 1
