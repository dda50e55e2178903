"""Records on a terminal: a summary that fits the screen, and tables of everything."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from m2d_export.bench.metrics import candidates, latencies
from m2d_export.bench.sts import TOY_LABEL
from m2d_export.bench.values import View
from m2d_export.bench.views import prompts_text, view_of
from m2d_export.report.columns import TIMES, text_of
from m2d_export.report.formatting import milliseconds, share
from m2d_export.report.heat_map import SHADES
from m2d_export.report.terminal import summary, tables
from m2d_export.select.budgets import Budgets
from m2d_export.select.rule import select
from tests.support import made_up

Record = dict[str, Any]
SCORES = {(3, 64): 88.25, (3, 32): 81.04, (3, 7): 40.0, (1, 64): 12.34, (1, 32): -3.21, (1, 7): 0.06}
TRAINED = (64, 32)


def score(layer: int, dim: int, spearman: float | None, sts: str = "toy", label: str = TOY_LABEL) -> Record:
    record = made_up.score(layer, dim, sts=sts, label=label)
    record["spearman"]["cosine"] = spearman
    return record | {"trained_layer": layer != 2, "trained_dim": dim in TRAINED, "depth": 3, "width": 64}


def latency(layer: int, batch_size: int, tokens: int, scope: str = "graph", **more: Any) -> Record:
    own = layer + batch_size / 100 + tokens / 10_000  # every value of every row is different
    times = {"p50_ms": own, "p95_ms": own + 10, "p99_ms": own + 20, "sentences_per_second": own * 1000}
    seconds = [0.1] * (layer + 5)
    return made_up.latency(layer, batch_size, tokens, scope=scope) | {"seconds": seconds, "noisy": False} | times | more


def rendered(records: list[Record], width: int = 120) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(tables(records))
    return captured.get()


def rows(text: str) -> list[list[str]]:
    """The cells of every row of every table, without text in brackets and second lines."""
    found = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    return [[cell.partition(" (")[0] for cell in row] for row in found if row[0]]


def part(text: str, heading: str) -> str:
    """The text from a heading to the end of its table."""
    return text[text.index(heading) :].partition("└")[0]


def header(text: str) -> list[str]:
    """The columns of the last table."""
    line = [line for line in text.splitlines() if "layer" in line and "┃" in line][-1]
    return [cell.strip() for cell in line.strip("┃ ").split("┃")]


def test_the_heat_map_shows_every_cell_deepest_and_widest_first() -> None:
    text = rendered([score(*cell, value) for cell, value in SCORES.items()])
    assert rows(text) == [["3", "88.2", "81.0", "40.0"], ["1", "12.3", "-3.2", "0.1"]]
    assert header(text) == ["layer \\ dim", "64", "32", "7*"]
    assert "* a layer or dim that this checkpoint was not trained for" in text


def test_the_order_of_the_records_does_not_matter() -> None:
    records = [score(*cell, value) for cell, value in SCORES.items()] + [latency(1, 1, 16), latency(2, 1, 16)]
    assert rendered(records) == rendered(records[::-1])


@pytest.mark.parametrize("width", [40, 80, 120])
def test_scores_on_the_toy_set_have_its_label(width: int) -> None:
    text = rendered([score(1, 64, 50.0)], width)
    assert " ".join(text.split()).startswith(f"Score: Spearman × 100 on {TOY_LABEL}")


def test_every_set_has_its_own_heat_map() -> None:
    text = rendered([score(1, 64, 50.0), score(1, 64, 61.0, "own.csv", "own.csv")])
    assert text.index(TOY_LABEL) < text.index("50.0") < text.index("on own.csv") < text.index("61.0")


def test_only_untrained_layers_are_marked() -> None:
    assert "*" not in rendered([score(1, 64, 50.0)])
    text = rendered([score(1, 64, 50.0), score(2, 64, 60.0)])
    assert rows(text) == [["2*", "60.0"], ["1", "50.0"]]
    assert "* a layer or dim that this checkpoint was not trained for" in text


def test_the_name_of_a_file_is_shown_as_it_is() -> None:
    name = "odd[/]name[bold].csv"
    assert f"on {name}" in rendered([score(1, 64, 50.0, name, name)])
    assert f"on {name} (" in rendered([made_up.agreement(1, 64) | {"texts": name}])
    assert f"on {name} (" in rendered([made_up.retrieval(1, 64) | {"collection": name}])


def test_a_cell_without_a_score_is_not_available() -> None:
    assert rows(rendered([score(1, 64, 50.0), score(1, 1, None)])) == [["1", "50.0", "n/a"]]
    assert rows(rendered([score(1, 1, None)])) == []
    assert rows(rendered([score(1, 64, 50.0), score(2, 32, 60.0)])) == [["2*", "n/a", "60.0"], ["1", "50.0", "n/a"]]


def test_failed_and_interrupted_records_are_not_shown() -> None:
    failed = [made_up.failed(score(2, 64, 9.0)), made_up.failed(latency(2, 1, 16), "interrupted")]
    assert rows(rendered([score(1, 64, 50.0), *failed])) == [["1", "50.0"]]
    assert rendered(failed).strip() == ""


def test_the_latency_table_has_the_numbers_of_the_records() -> None:
    scopes, shapes = ("graph", "text"), [(size, tokens) for size in (1, 32) for tokens in (16, 128)]
    records = [latency(layer, *shape, scope) for layer in (1, 3) for shape in shapes for scope in scopes]
    text = rendered(records)
    assert header(text) == ["layer", "batch", "tokens", "scope", *(column.title for column in TIMES)]
    assert rows(text) == [
        [
            *(str(layer), str(size), str(tokens), scope),
            *(milliseconds(record[name]) for name in ("p50_ms", "p95_ms", "p99_ms")),
            *(str(len(record["seconds"])), share(record["spread"]), f"{record['sentences_per_second']:,.0f}"),
        ]
        for size, tokens in shapes
        for scope in scopes
        for layer in (3, 1)
        for record in [latency(layer, size, tokens, scope)]
    ]
    assert "noisy" not in text


def test_noisy_times_are_marked_and_the_mark_is_explained() -> None:
    text = rendered([latency(1, 1, 16, noisy=True), latency(2, 1, 16)])
    assert [row[4].endswith("noisy") for row in rows(text)] == [False, True]
    assert "noisy: the times of the middle half" in " ".join(text.split())


def test_several_setups_are_named() -> None:
    records = [made_up.score(1, 64), made_up.score(1, 64, "int8"), latency(1, 1, 16), latency(1, 1, 16, threads=1)]
    text = rendered(records)
    assert "on STS-B test (retention), fp32 · onnxrt" in text
    assert "on STS-B test (retention), int8 · onnxrt" in text
    shown = [made_up.score(1, 64, precision)["spearman"]["cosine"] for precision in ("fp32", "int8")]
    assert rows(text)[:2] == [["1", f"{value:.1f}"] for value in shown]
    assert header(text)[0] == "setup"
    assert {row[0] for row in rows(text)[2:]} == {"fp32 · onnxrt · 1 threads", "fp32 · onnxrt · 2 threads"}


def test_low_scores_are_light_and_high_ones_dark() -> None:
    console = Console(width=120, color_system="truecolor", force_terminal=True)
    with console.capture() as captured:
        console.print(tables([score(1, 64, 10.0), score(2, 64, 90.0), score(3, 64, 50.0)]))
    shades = {name: tuple(int(name[place : place + 2], 16) for place in (1, 3, 5)) for name, _ in SHADES}
    for value, (name, _) in (("10.0", SHADES[0]), ("50.0", SHADES[2]), ("90.0", SHADES[4])):
        (line,) = [line for line in captured.get().splitlines() if f"{value} (" in line or f"{value}\x1b" in line]
        assert "48;2;{};{};{}m".format(*shades[name]) in line


def test_the_tables_show_the_numbers_of_the_candidates() -> None:
    records = [record for record in made_up.sweep() if record["precision"] == "fp32"]
    view = View("stsb", texts="abstracts.txt", collection="scifact")
    found = {(cell.cell.layer, cell.cell.dim): cell for cell in candidates(records, view)}
    shown = rendered(records)
    headings = {"score": "Score:", "agreement": "Agreement:", "ndcg": "Retrieval:"}
    for name, heading in headings.items():
        expected = [
            [f"{layer}" + "*" * (layer == 4), *(f"{getattr(found[layer, dim], name):.1f}" for dim in made_up.DIMS)]
            for layer in made_up.LAYERS[::-1]
        ]
        assert rows(part(shown, heading)) == expected
    timings = {
        (str(t.layer), str(t.shape.batch_size), str(t.shape.tokens), t.shape.scope): t for t in latencies(records)
    }
    timed = rows(part(shown, "Latency of a batch"))
    assert len(timed) == len(timings)
    for row in timed:
        timing = timings[row[0], row[1], row[2], row[3]]
        assert row[4:] == [text_of(column, timing) for column in TIMES]


def test_shares_and_intervals_fit_100_columns() -> None:
    records = [record for record in made_up.sweep() if record["precision"] == "fp32"]
    text, cells = rendered(records, 100), {(c.cell.layer, c.cell.dim): c for c in candidates(records)}
    assert max(map(len, text.splitlines())) <= 100
    for cell in cells.values():
        assert cell.interval
        assert cell.retention
        assert f"{cell.score:.1f} ({100 * cell.retention:.1f} %)" in part(text, "Score:")
        assert f"[{cell.interval[0]:.1f}, {cell.interval[1]:.1f}]" in part(text, "Score:")
        assert f"{cell.agreement:.1f} ({cell.overlap_at_10:.1f})" in part(text, "Agreement:")
        assert f"{cell.ndcg:.1f} ({cell.recall_at_100:.1f})" in part(text, "Retrieval:")
    assert "95 % bootstrap interval" in text


def test_many_dims_are_split_over_several_tables() -> None:
    text = rendered([made_up.score(1, dim) for dim in (768, 512, 384, 256, 128, 64, 32)], 100)
    heads = [line.split("┃")[2:-1] for line in text.splitlines() if "layer" in line and "┃" in line]
    assert [[head.strip(" *") for head in line] for line in heads] == [
        ["768", "512", "384", "256", "128"],
        ["64", "32"],
    ]
    assert len(rows(text)) == 2


@pytest.mark.parametrize(
    ("kind", "heading"),
    [("agreement", "similarities × 100 on {} "), ("retrieval", "nDCG@10 × 100 on {} ")],
)
def test_every_file_of_texts_and_every_collection_is_shown(kind: str, heading: str) -> None:
    field, value = {"agreement": ("texts", "spearman"), "retrieval": ("collection", "ndcg_at_10")}[kind]
    plain = getattr(made_up, kind)(1, 64)
    text = rendered([plain | {field: "a", value: 11.5}, plain | {field: "b", value: 22.5}])
    assert rows(part(text, heading.format("a"))) == [["1", "11.5"]]
    assert rows(part(text, heading.format("b"))) == [["1", "22.5"]]


def test_the_storage_table_is_of_the_deepest_layer_in_the_most_exact_setup() -> None:
    text = part(rendered(made_up.sweep(), 100), "Storage of layer 6: score on STS-B test")
    cells = [cell for cell in candidates(made_up.sweep()) if cell.cell.layer == 6 and cell.setup.precision == "fp32"]
    own = [item for cell in cells for item in cell.stored.values()]
    assert [row[0] for row in rows(text)] == ["fp32", "fp16", "int8", "binary"]
    assert len(own) == 20
    for item in own:
        assert f"{item.score:.1f} ({100 * (item.retention or 0):.1f} %)" in text
        assert f" {item.bytes_per_vector:,.0f} MB" in text


def test_the_cascade_table_has_the_cheapest_way_to_each_recall() -> None:
    ways = {(1, 64): ([80.0, 92.0], [1.0, 3.0]), (2, 64): ([91.0, 96.0], [2.0, 5.0])}
    values = {"shortlist": [10, 1000], "deep_ms": 4.5}
    records = [
        made_up.cascade(cheap) | values | {"recall_at_10": recall, "cost_ms": cost}
        for cheap, (recall, cost) in ways.items()
    ]
    text = rendered(records, 100)
    assert rows(part(text, "Cascade on scifact")) == [
        ["90.0", "2x64", "10", "91.0", "2.00 ms", "4.50 ms"],
        ["95.0", "2x64", "1,000", "96.0", "5.00 ms", "4.50 ms"],
        ["99.0", "none", "", "", "", ""],
    ]


def test_peak_memory_is_listed_from_the_deepest_layer() -> None:
    records = [*(made_up.score(layer, 64) for layer in (1, 3)), made_up.memory(1), made_up.memory(3)]
    assert "Peak memory with one layer open: layer 3 134 MB, layer 1 104 MB" in rendered(records)


def summarised(records: list[Record]) -> str:
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(summary(records, Path("my model.m2d"), Path("results.jsonl")))
    return captured.get()


def test_the_summary_of_everything_fits_a_screen() -> None:
    for records in (made_up.sweep(), made_up.sweep(sts="toy", label=TOY_LABEL)):
        lines = summarised(records).splitlines()
        assert len(lines) <= 39  # and the prompt
        assert max(map(len, lines)) <= 100


def test_the_summary_shows_the_pick_of_select_in_its_grid() -> None:
    records = made_up.sweep()
    picked = select(candidates(records), Budgets(min_retention=0.97)).picked
    text = summarised(records)
    assert picked is not None
    assert f"{picked.cell}, {picked.setup.precision} · onnxrt" in text
    assert f"> {picked.score:.1f} (" in text
    assert text.count("> ") == 1
    own = [cell for cell in candidates(records) if cell.setup == picked.setup]
    grid = [line.replace("> ", "") for line in part(text, "Score:").splitlines()]
    for cell in own:
        (line,) = [line for line in grid if line.startswith("│") and line.split()[1].strip("*") == str(cell.cell.layer)]
        assert f"{cell.score:.1f} ({100 * (cell.retention or 0):.1f} %)" in line


def test_the_summary_has_the_commands_to_go_on() -> None:
    text = summarised(made_up.sweep())
    assert "m2d-export select 'my model.m2d' --results results.jsonl --min-retention 0.97" in text
    assert "m2d-export encode 'my model.m2d' texts.txt --cell " in text


@pytest.mark.parametrize(("kind", "option"), [("agreement", "agreement"), ("retrieval", "retrieval")])
def test_without_scores_the_summary_uses_another_quality(kind: str, option: str) -> None:
    text = summarised([getattr(made_up, kind)(layer, dim) for layer in (5, 6) for dim in (384, 64)])
    assert f"--task {option}" in text
    assert len(rows(text)) == 2


def test_the_summary_of_times_has_no_pick() -> None:
    text = summarised([latency(2, 1, 16), latency(1, 1, 16)])
    assert [row[0] for row in rows(text)] == ["2", "1"]
    assert "m2d-export select" not in text


def test_the_summary_of_many_dims_is_one_grid_of_plain_scores() -> None:
    text = summarised([made_up.score(1, dim) for dim in (768, 512, 384, 256, 128, 64, 32)])
    (row,) = rows(text)
    assert len(row) == 8
    assert "%" not in part(text, "Score:")


def test_names_in_results_are_no_markup_of_the_terminal() -> None:
    found = [made_up.score(1, 64) | {"provider": name} for name in ("[/red]", "[bold]x")]
    times = [latency(1, 1, 16) | {"provider": name} for name in ("[/red]", "[bold]x")]
    text = rendered([*found, *times], 160)
    assert "[/red]" in text
    assert "[bold]x" in text


@pytest.mark.parametrize("show", [summary, tables])
def test_bm25_and_the_prompts_stand_beside_every_retrieval(show: Callable[[Sequence[Record]], RenderableType]) -> None:
    def shown(records: Sequence[Record]) -> str:
        console = Console(width=100, color_system=None)
        with console.capture() as captured:
            console.print(show(records))
        return " ".join(captured.get().split())

    cells = [(layer, 384, precision) for layer in made_up.LAYERS for precision in ("fp32", "int8")]
    found = [*made_up.sweep(), *(made_up.index_retrieval(*cell, name="base.m2d") for cell in cells)]
    text = shown(found)
    assert "BM25 (english) 57.0" in text
    assert "exit 6 of base.m2d" in text  # an index of another bundle is shown before the bundle's own
    assert "queries with prompt query, documents with no prompt" in text
    assert "BM25" not in shown([record for record in found if record["kind"] != "bm25"])


def test_a_heat_map_of_shares_has_the_share_of_bm25() -> None:
    found = made_up.index_retrieval(6, 384, name="base.m2d")
    records = [found, made_up.index_retrieval(3, 384, name="base.m2d"), made_up.bm25(0.75 * found["own_ndcg_at_10"])]
    text = " ".join(rendered(records).split())
    assert "index of exit 6 of base.m2d; BM25 (english) 75.0 %" in text
    assert "│ 75.0 %" in text  # in the row of BM25 too


def test_the_index_of_another_bundle_has_the_prompts_of_that_bundle() -> None:
    records = [made_up.retrieval(3, 384), made_up.index_retrieval(3, 384, name="base.m2d")]
    assert "in the index" not in prompts_text(records, view_of(records), "retrieval", "index_retrieval")
    records[1]["document_prompt"] = "passage"
    text = " ".join(rendered(records, 300).split())
    assert "documents with no prompt; in the index: queries with prompt query, documents with prompt passage" in text


def test_queries_of_texts_in_an_index_have_a_heat_map() -> None:
    own = [made_up.index_agreement(layer, 384) for layer in (3, 6)]
    text = rendered([*own, made_up.agreement(6, 384)])
    assert rows(part(text, "overlap@10 with what")) == [
        [f"{r['layer']}", f"{r['overlap_at_10']:.1f}"] for r in own[::-1]
    ]
