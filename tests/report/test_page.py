"""The page of a report, in a real browser."""

import json
import math
import random
import re
import shlex
from dataclasses import asdict, replace

import pytest

pytest.importorskip("plotly", reason="the extra `report` is not installed")
pytest.importorskip("matplotlib", reason="the extra `report` is not installed")

from m2d_export.bench import cost
from m2d_export.bench.metrics import candidates
from m2d_export.bench.views import sts_labels, times, view_of
from m2d_export.report.formatting import WRITERS
from m2d_export.report.page import write_report
from m2d_export.select.budgets import Budgets
from m2d_export.select.rule import select
from m2d_export.select.tasks import Task
from m2d_export.spec import Cell
from tests.cli.commands import call, run_in
from tests.report.pages import full_sweep, picked
from tests.support.made_up import DIMS, cascade, failed, latency, score

DRAWN = """return [...document.querySelectorAll("figure:not([hidden]) .chart")].map(chart =>
    chart.matches(".js-plotly-plot") && chart.querySelectorAll("svg path").length > 3 && chart.clientWidth > 200)"""
SET = """const slider = document.getElementById(arguments[0]); slider.value = arguments[1];
    slider.dispatchEvent(new Event("input", {bubbles: true}))"""


@pytest.mark.slow
def test_the_page_draws_every_chart_without_an_error(open_page):
    browser = open_page()
    assert browser.execute_script(DRAWN) == [True] * 13
    assert len(browser.find_elements("css selector", "figure details table")) == 13  # every chart as a table too
    assert len(browser.find_elements("css selector", "#cells tbody tr")) == 61
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    heads = "return [...document.querySelectorAll('[data-figure=heat-score] tbody th')].map(head => head.textContent)"
    assert browser.execute_script(heads) == ["6", "5", "4*", "3", "2", "1"]  # layer 4 was not trained
    for index in range(len(browser.find_elements("css selector", "select"))):  # every choice, then back
        browser.execute_script(
            """const list = document.querySelectorAll("select")[arguments[0]];
            for (const value of [list.options.length - 1, 0]) {
                list.selectedIndex = value; list.dispatchEvent(new Event("change")) }""",
            index,
        )
    assert browser.get_log("browser") == []


@pytest.mark.slow
def test_a_slider_changes_the_pick(open_page):
    browser = open_page()

    def named():
        return browser.find_element("css selector", "#picked .name").text.replace(" × ", "x")

    assert named() == str(picked(0.97).cell)
    browser.execute_script(SET, "min_retention", 180)
    assert named() == str(picked(0.9).cell)
    assert browser.find_element("css selector", "#min_retention-value").text == "90.0 %"
    assert browser.find_element("css selector", "tr.picked-row th").text.startswith(named().replace("x", " × "))
    browser.execute_script(SET, "min_retention", 0)
    assert named() == "6x384"
    browser.execute_script(SET, "min_retention", 200)
    browser.execute_script(SET, "max_latency_ms", 0)
    assert named() == "No cell"
    says = browser.find_element("id", "picked").text
    assert re.search(r"Latency at most: from [\d.]+ to [\d.]+ would allow 6 × 384, int8", says) is None
    assert re.search(r"Latency at most: from [\d.]+ to [\d.]+ would allow 6 × 384, fp32", says)
    assert browser.get_log("browser") == []


@pytest.mark.slow
def test_the_page_writes_values_as_python_does(open_page):
    browser = open_page()
    values = (
        0.0,
        0.04,
        0.6,
        1.26,
        9.996,
        12.34,
        99.5,
        150.0,
        1234.6,
        98765.4,
        None,
    )  # no ties, which round differently
    for name, write in WRITERS.items():
        for value in values if name not in ("named", "text") else ():
            shown = browser.execute_script("return WRITERS[arguments[0]](arguments[1])", name, value)
            assert shown.replace("\u00a0", " ") == write(value), (name, value)
    assert set(browser.execute_script("return Object.keys(WRITERS)")) == WRITERS.keys()


@pytest.mark.slow
def test_the_command_on_the_page_has_the_limits_of_the_sliders(open_page):
    browser = open_page()
    browser.execute_script(SET, "max_latency_ms", 40)
    command = browser.find_element("id", "command").text
    assert " --sts stsb " in command  # there are two sets
    limit = float(re.search(r"--max-latency-ms (\S+)", command)[1])
    choice = select(candidates(full_sweep()), Budgets(min_retention=0.97, max_latency_ms=limit))
    shown = browser.find_element("css selector", "#picked .name").text
    assert shown == (str(choice.picked.cell).replace("x", " × ") if choice.picked else "No cell")


def asked(chance, task):
    """Random budgets, sometimes with an index."""
    floors = {"sts": (60, 83), "retrieval": (40, 65), "agreement": (75, 100)}
    floor = floors[task.removeprefix("index-")]
    whole = {
        "min_retention": chance.uniform(0.7, 1),
        "min_score": chance.uniform(*floor),
        "max_latency_ms": chance.uniform(0.3, 1.6),
        "min_throughput": math.exp(chance.uniform(6, 9)),
        "max_index_gb": chance.uniform(0.02, 2),
    }
    budgets = {name: value for name, value in whole.items() if chance.random() < 0.4}
    if "max_index_gb" in budgets:
        budgets |= {"vectors": chance.choice([1e6, 2.5e6]), "bytes_per_value": chance.choice([4, 2, 1, 0.125, 0.5])}
    return budgets


@pytest.mark.slow
def test_the_page_picks_warns_and_relaxes_as_select_does(open_page):
    browser = open_page()
    chance = random.Random(7)
    sets, pairs = [*sts_labels(full_sweep())], times(full_sweep())
    picks, warned, relaxed = set(), set(), 0
    for _ in range(16):
        place = {"sts": chance.randrange(len(sets)), "times": chance.randrange(len(pairs))}
        task = chance.choice(["sts", *Task])
        shape, throughput = pairs[place["times"]]
        view = replace(view_of(full_sweep()), sts=sets[place["sts"]], shape=shape, throughput=throughput)
        cells = candidates(full_sweep(), view)
        browser.execute_script("window.m2dSee(arguments[0])", {**place, "task": task})
        asked_for = []
        for _ in range(40):
            budgets = asked(chance, task)
            asked_for.append(
                budgets | ({"index_cell": str(Cell(6, chance.choice(DIMS)))} if Task(task).in_index else {})
            )
        answers = browser.execute_script("return arguments[0].map(budgets => window.m2dPick(budgets))", asked_for)
        for budgets, found in zip(asked_for, answers, strict=True):
            limits = {name: value for name, value in budgets.items() if name != "index_cell"}
            index_cell = Cell.parse(budgets["index_cell"]) if "index_cell" in budgets else None
            choice = select(cells, Budgets(**limits), Task(task), view, index_cell)
            cell = choice.picked
            expected = cell and {**asdict(cell.cell), "precision": cell.setup.precision, "runtime": cell.setup.runtime}
            assert found["picked"] == expected, (budgets, place, task)
            assert found["warnings"] == list(choice.warnings), (budgets, place, task)
            assert found["relaxations"] == list(map(str, choice.relaxations)), (budgets, place, task)
            picks.add(cell and cell.cell)
            warned |= set(choice.warnings)
            relaxed += len(choice.relaxations)
    assert len(picks) > 12  # the budgets did choose
    assert len(warned) > 8
    assert relaxed > 20
    assert browser.get_log("browser") == []


@pytest.mark.slow
def test_the_command_of_every_view_makes_select_use_that_view(open_page, tmp_path):
    """``view_of`` reads the options, because ``select`` itself needs a bundle."""
    browser = open_page()
    pairs = times(full_sweep())
    for place, (shape, throughput) in enumerate(pairs):
        browser.execute_script("window.m2dSee({times: arguments[0]})", place)
        command = browser.find_element("id", "command").text
        options = dict(re.findall(r"--(batch-size|tokens|scope) (\S+)", command))
        numbers = {name.replace("-", "_"): int(text) for name, text in options.items() if name != "scope"}
        view = view_of(full_sweep(), **numbers, scope=options.get("scope"))
        assert (view.shape, view.throughput) == (shape, throughput)
    browser.execute_script("window.m2dSee({times: 0, task: 'agreement'})")
    assert " --task agreement " in browser.find_element("id", "command").text


@pytest.mark.slow
def test_the_pick_has_its_warnings_and_each_task_its_budgets(open_page):
    browser = open_page()
    browser.execute_script(SET, "min_retention", 0)
    choice = select(candidates(full_sweep()), Budgets())
    shown = [item.text for item in browser.find_elements("css selector", "#warnings li")]
    assert shown == list(choice.warnings) != []
    browser.execute_script(
        """const list = document.querySelector("#task select"); list.selectedIndex = 1;
        list.dispatchEvent(new Event("change"))"""
    )
    labels = [label.text for label in browser.find_elements("css selector", ".budget label")]
    assert labels[:2] == ["Share of the full cell’s nDCG@10 at least\n97.0 %", "Least nDCG@10\nany"]
    best = select(candidates(full_sweep()), Budgets(min_retention=0.97), Task.RETRIEVAL).picked
    assert browser.find_element("css selector", "#picked .name").text == str(best.cell).replace("x", " × ")


@pytest.mark.slow
def test_few_cascades_are_drawn_until_a_layer_is_chosen(open_page, tmp_path):
    other = [cascade((layer, dim), "nq") for layer in (1, 2) for dim in DIMS]
    write_report([*full_sweep(), *other], tmp_path / "report")
    browser = open_page(tmp_path / "report")
    lines = "return document.querySelector('[data-figure=cascade-cost_ms] .chart').data.map(line => line.name)"
    few_lines = browser.execute_script(lines)
    assert 1 < len(few_lines) <= 5
    browser.execute_script(
        """const list = document.querySelector("#cascade select"); list.selectedIndex = 2;
        list.dispatchEvent(new Event("change"))"""
    )
    assert browser.execute_script(lines) == [f"2 × {dim} → 6 × 384" for dim in sorted(DIMS)]
    browser.execute_script("window.m2dSee({collection: 1, chosen: {}})")
    note = browser.find_element("css selector", "[data-figure=cascade-cost_ms] figcaption p").text
    assert note.startswith("nq, ")
    assert browser.get_log("browser") == []


@pytest.mark.slow
def test_the_keyboard_sorts_the_table_by_its_headings(open_page):
    browser = open_page()
    heading = browser.find_element("css selector", '[data-sort="sentences_per_second"]')
    heading.send_keys("\n")
    assert browser.switch_to.active_element.get_attribute("data-sort") == "sentences_per_second"
    assert browser.find_element("css selector", "#cells tbody th").text.startswith("1 × ")
    assert browser.find_element("css selector", "#cells th[aria-sort]").get_attribute("aria-sort") == "descending"
    browser.switch_to.active_element.send_keys("\n")
    assert browser.find_element("css selector", "#cells tbody th").text.startswith("6 × ")


@pytest.mark.slow
def test_a_phone_does_not_scroll_sideways(open_page):
    browser = open_page(width=390)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert browser.execute_script("return innerWidth") == 390
    for text in browser.execute_script("return [...document.querySelectorAll('.picked td')].map(td => td.textContent)"):
        assert not re.search(r"\d (ms|%|GB|MB)", text), text  # a number and its unit stay together
    inside = "return document.querySelector('.picked').scrollWidth - document.querySelector('.picked').clientWidth"
    assert browser.execute_script(inside) == 0  # nor is any of the pick cut off
    ends = """const box = (at) => document.querySelector(at).getBoundingClientRect();
        return [box("nav").right, box("#theme").left, box("#theme").right]"""
    nav, button, end = browser.execute_script(ends)
    assert nav <= button < end <= 390
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert (
        browser.execute_script(
            "return Math.max(...[...document.querySelectorAll('.chart svg')].map(s => s.getBoundingClientRect().right))"
        )
        <= 390
    )
    assert browser.execute_script(DRAWN) == [True] * 13
    assert browser.get_log("browser") == []


@pytest.mark.slow
def test_the_system_and_the_button_choose_dark_colours(open_page):
    def brightness():
        colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    browser = open_page(scheme="dark")
    assert brightness() < 60
    tick = "return getComputedStyle(document.querySelector('.xtick text')).fill"
    dark = browser.execute_script(tick)
    browser.find_element("id", "theme").click()
    assert brightness() > 200
    assert browser.execute_script(tick) != dark
    browser.find_element("id", "theme").click()
    assert brightness() < 60
    assert browser.get_log("browser") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("found", "charts"),
    [
        ([score(6, 384)], 2),
        ([latency(6, 1, 16)], 1),
        ([cascade((1, 64))], 2),
        ([failed(score(6, 384))], 0),
        ([score(6, 384, label="<i>&</i> " + "long " * 40), latency(6, 1, 16)], 4),
    ],
)
def test_few_records_draw_only_their_charts(open_page, tmp_path, found, charts):
    write_report(found, tmp_path / "report")
    browser = open_page(tmp_path / "report", width=390)
    assert browser.execute_script(DRAWN) == [True] * charts
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert browser.get_log("browser") == []


def m2d_export(arguments, folder):
    """What a command prints, run in ``folder`` with the fewest rounds; it must succeed."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cost, "SECONDS_PER_SHAPE", 0.0)
        done = run_in(folder, lambda: call(*shlex.split(arguments)))
    assert done.code == 0, done.err
    return done.out


@pytest.fixture(scope="module")
def benched_minilm(minilm_bundle, tmp_path_factory):
    """A folder with minilm.m2d, what a small bench has measured of it, and its report."""
    folder = tmp_path_factory.mktemp("minilm-report")
    (folder / "minilm.m2d").symlink_to(minilm_bundle.root)
    words = ["cat", "dog", "parrot", "rate", "guitar"]
    texts = [f"The {word} {doing}." for word in words for doing in ("sings", "rose", "sat on the mat", "is not here")]
    (folder / "texts.txt").write_text("\n".join([*texts, "Nobody is talking."]) + "\n")
    (folder / "beir" / "qrels").mkdir(parents=True)
    for name, lines in (("corpus", texts), ("queries", words)):
        records = [json.dumps({"_id": f"{name[0]}{place}", "text": text}) for place, text in enumerate(lines)]
        (folder / "beir" / f"{name}.jsonl").write_text("\n".join(records))
    judged = [f"q{place // 4}\tc{place}\t1" for place in range(len(texts))]
    (folder / "beir" / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
    grid = "--layers 2,6 --dims 384,64 --batch-size 1,4 --tokens 8,32"
    m2d_export(f"bench minilm.m2d {grid} --texts texts.txt --retrieval beir", folder)
    m2d_export("report results.jsonl -o report", folder)
    return folder


@pytest.mark.slow
def test_the_report_of_a_real_bundle_picks_the_cell_that_select_picks(open_page, benched_minilm):
    assert (benched_minilm / "report" / "index.html").stat().st_size < 6e6
    browser = open_page(benched_minilm / "report")
    assert browser.execute_script(DRAWN) == [True] * 13
    heads = "return [...document.querySelectorAll('[data-figure=heat-score] tbody th')].map(head => head.textContent)"
    assert browser.execute_script(heads) == ["6", "2*"]  # its exits were not trained
    picks = set()
    lowest = int(browser.find_element("id", "min_retention").get_attribute("min"))
    for slider, position in (("min_retention", 200), ("min_retention", lowest + 1), ("max_latency_ms", 0)):
        browser.execute_script(SET, slider, position)
        shown = browser.find_element("css selector", "#picked .name").text.replace(" × ", "x")
        command = browser.find_element("id", "command").text.replace("BUNDLE", "minilm.m2d")
        assert command.startswith("m2d-export select minilm.m2d --results results.jsonl --min-retention ")
        choice = json.loads(m2d_export(f"{command.removeprefix('m2d-export ')} --json", benched_minilm))
        assert shown == "{layer}x{dim}".format(**choice["picked"]["cell"])
        picks.add(shown)
    assert len(picks) > 1  # the slider did choose
    assert browser.get_log("browser") == []
