"""The folder of a report: its Markdown, its pictures, and what it replaces."""

import re

import pytest

pytest.importorskip("plotly", reason="the extra `report` is not installed")
pytest.importorskip("matplotlib", reason="the extra `report` is not installed")

from m2d_export.bench.metrics import candidates
from m2d_export.bench.records import groups
from m2d_export.errors import DataError, OutputError
from m2d_export.report.columns import TABLE
from m2d_export.report.data import group_data
from m2d_export.report.page import page, template, write_report
from m2d_export.report.pareto import front
from m2d_export.select.budgets import Budgets
from m2d_export.select.rule import select
from tests.report.pages import full_sweep, picked
from tests.support.made_up import DIMS, LAYERS, MACHINE, TOY, cascade, failed, latency, score, storage

PNG = b"\x89PNG"
PICTURES = {"score.png", "retention.png", "front.png", "latency.png", "cascade.png", "storage.png", "search.png"}


def test_the_picks_in_the_markdown_have_their_warnings(report):
    text = (report / "report.md").read_text(encoding="utf-8")
    for floor in (0.99, 0.97, 0.95, 0.9):
        choice = select(candidates(full_sweep()), Budgets(min_retention=floor))
        assert choice.warnings
        for warning in choice.warnings:
            assert re.search(rf"^- {re.escape(warning)} \(at .*{floor * 100:.1f} %", text, re.MULTILINE)


def test_the_folder_holds_a_page_markdown_and_pictures(report):
    assert {path.name for path in report.iterdir()} == {"index.html", "report.md", *PICTURES}
    assert all((report / name).read_bytes().startswith(PNG) for name in PICTURES)
    text = (report / "index.html").read_text(encoding="utf-8")
    assert len(text.encode()) < 6e6
    own = text[: text.index("plotly.js v")] + text[text.rindex('<script>\n"use strict"') :]
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", own)  # nothing is fetched
    assert not re.search(r"\$\{?(css|data|plotly|script|sections|about)\b", own)


def test_the_markdown_has_the_numbers_of_the_page(report):
    text = (report / "report.md").read_text(encoding="utf-8")
    for picture in PICTURES:
        assert f"]({picture})" in text
    chosen = picked(0.97)
    speeds = f"{chosen.latency_ms:.2f} ms noisy | {chosen.sentences_per_second:,.0f} |"
    assert f"| 97.0 % | {chosen.cell} | int8 · onnxrt | {chosen.score:.1f} [" in text
    assert speeds in text
    assert "Times of 16 tokens, text to vector: latency at batch 1, throughput at batch 32." in text
    assert "Scores on STS-B test." in text
    assert "m2d-export bench minilm.m2d --sts stsb" in text
    assert "out of memory" in text
    grid = text[text.index("fp32 · onnxrt: score (retention)") :]
    assert [line.split(" | ")[0] for line in grid.splitlines()[4:10]] == ["| 6", "| 5", "| 4*", "| 3", "| 2", "| 1"]
    assert "\\* a layer or dim that was not trained." in grid
    assert "accuracy" not in text.lower()


def test_the_markdown_has_every_value_of_every_cell(report):
    text = (report / "report.md").read_text(encoding="utf-8")
    section = text[text.index("## All cells") :].partition("\n## ")[0]
    header, _, *lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    named = [dict(zip(header, line, strict=True)) for line in lines]
    found = {(row["cell"].rstrip("*◆ "), row["setup"]): row for row in named}
    cells = candidates(full_sweep())
    assert len(found) == len(lines) == len(cells)
    for cell in cells:
        row = found[str(cell.cell), f"{cell.setup.precision} · onnxrt"]
        assert row["score on STS-B test"].startswith(f"{cell.score:.1f} [{cell.interval[0]:.1f}, ")
        agreed, searched = "on abstracts.txt", "on scifact"
        names = (f"agreement {agreed}", f"overlap@10 {agreed}")
        names = (*names, f"nDCG@10 {searched}; BM25 (english) 57.0", f"recall@100 {searched}")
        values = (cell.agreement, cell.overlap_at_10, cell.ndcg, cell.recall_at_100)
        assert [row[name] for name in names] == [f"{value:.1f}" for value in values]
        assert row["peak memory"] == f"{cell.peak_mb:.0f} MB"
        assert row["sentences/s batch 32 x 16 tokens, text to vector"] == f"{cell.sentences_per_second:,.0f}"
        assert ("*" in row["cell"]) == (cell.cell.layer == 4 or cell.cell.dim == 256)
    assert [name.partition(" on ")[0].partition(" batch")[0] for name in header[2:]] == [c.title for c in TABLE]
    assert sum("◆" in row["cell"] for row in found.values()) == len(front(cells))


def test_the_markdown_leaves_out_columns_without_values(tmp_path):
    write_report([score(6, 384), score(5, 384)], tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    header = text[text.index("## All cells") :].splitlines()[2]
    assert "retention" in header
    assert not [name for name in ("agreement", "overlap", "nDCG", "recall", "p50", "memory") if name in header]


def test_sections_without_records_are_named_in_one_line(tmp_path):
    write_report([score(6, 384), score(5, 384)], tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "## Cascade" not in text
    assert "## Latency" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("Left out")]
    assert "cascade (needs bench --retrieval FOLDER)" in line
    assert {path.suffix for path in (tmp_path / "report").iterdir()} == {".html", ".md", ".png"}
    assert not (tmp_path / "report" / "latency.png").exists()


def test_the_label_of_the_toy_set_is_in_every_heading_of_its_scores(tmp_path):
    found = [score(6, 384, sts="toy", label=TOY), latency(6, 1, 16), storage(6, 384, "int8", sts="toy", label=TOY)]
    write_report(found, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert f"Scores on {TOY}." in text
    assert f"score on {TOY}" in text
    assert f"score (retention) on {TOY}" in text


def test_two_machines_are_shown_separately(tmp_path):
    elsewhere = [{**record, "machine": {**MACHINE, "cpu": "Another"}} for record in (score(6, 384), latency(6, 1, 16))]
    write_report([score(6, 384), latency(6, 1, 16), *elsewhere], tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "come from 2 machines" in text
    assert "on Another (2 cores)" in text
    assert (tmp_path / "report" / "score-1.png").exists()


def test_of_two_machines_the_page_knows_which_one_select_uses():
    elsewhere = {**score(6, 384), "machine": {**MACHINE, "cpu": "Another"}, "time": "2026-11-21T09:30:00Z"}
    other_bundle = {**elsewhere, "bundle": "b" * 64}
    text = page(groups([score(6, 384), elsewhere, other_bundle]))
    assert re.findall(r'"selectable":(\w+)', text) == ["true", "false", "true"]


def test_text_in_records_is_neither_html_nor_markdown(tmp_path):
    hostile = "</script><script>alert(1)</script> $\\frac$ | **b** [x](y) `c`\n\n# d \x1b[31m &amp; a_b __e__"
    machine = {**MACHINE, "cpu": hostile, "versions": {hostile: hostile}}
    records = [
        {**record, "machine": machine, "architecture": hostile, "bundle": hostile, "fingerprint": hostile}
        for record in (score(6, 384, sts=hostile, label=hostile), latency(6, 1, 16), failed(score(6, 64), hostile))
    ]
    write_report(
        [{**record, "command": f"m2d-export bench '{hostile}'\n```"} for record in records], tmp_path / "report"
    )
    page_text = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "</script><script>alert" not in page_text
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    outside = "\n".join(line for line in text.splitlines() if not line.startswith("    "))  # indented is code
    for markup in ("<script>", " **b**", "[x](y)", " `c`", "\n# d", "\x1b", " &amp; a", " __e__"):
        assert markup not in outside, markup
    assert "a_b" in outside
    tables = [line for line in outside.splitlines() if line.startswith("|")]
    assert len({re.sub(r"\\\|", "", line).count("|") for line in tables if "6x384" in line or "6x64" in line}) == 1


def test_failures_without_results_still_make_a_report(tmp_path):
    write_report([failed(score(6, 384)), failed(latency(6, 1, 16))], tmp_path / "report")
    assert "Failed or interrupted" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


def test_a_report_needs_records():
    with pytest.raises(DataError, match="m2d-export bench"):
        write_report([], "nowhere")


def test_an_earlier_report_is_replaced_but_no_other_folder(tmp_path):
    target = tmp_path / "report"
    write_report([score(6, 384), cascade((1, 64))], target)
    write_report([score(6, 384)], target)
    assert not (target / "cascade.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize("name", ["thesis.txt", "photo.png", "cascade.png", ".hidden"])
def test_a_report_with_a_file_that_it_did_not_write_is_not_replaced(tmp_path, name):
    target = tmp_path / "report"
    write_report([score(6, 384)], target)
    (target / name).write_text("mine")
    with pytest.raises(OutputError, match=f"has {re.escape(name)}"):
        write_report([score(6, 384)], target)
    assert (target / name).read_text() == "mine"
    assert (target / "index.html").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_link_to_a_report_is_followed_and_stays(tmp_path):
    write_report([score(6, 384), cascade((1, 64))], tmp_path / "report")
    (tmp_path / "link").symlink_to("report")
    write_report([score(6, 384)], tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert not (tmp_path / "report" / "cascade.png").exists()


@pytest.mark.parametrize("name", ["index.html", "photo.png"])
def test_a_folder_with_other_files_is_left_alone(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match="report"):
        write_report([score(6, 384)], tmp_path)


def test_pictures_are_drawn_without_a_warning(tmp_path, recwarn):
    many = [cascade((layer, dim), name) for name in ("nq", "fiqa") for layer in LAYERS for dim in DIMS]
    write_report([*full_sweep(), *many], tmp_path / "report")
    assert [str(warning.message) for warning in recwarn] == []


def test_the_page_has_every_value_of_a_row():
    data = group_data(groups(full_sweep())[0])
    values = {**data["values"], "index": data["values"]["index"][0][0]}
    parts = [part[0][0] for part in values.values()]
    row = {name: value for part in (*parts, data["cells"][0], data["setups"][0]) for name, value in part.items()}
    for name in ("provider", "threads", "time", "pairs", "p99_ms", "calls", "peak_mb", "bytes_per_vector"):
        assert row[name] is not None, name
    assert set(re.findall(r"row\.(\w+)", template("charts.js"))) <= row.keys()
