"""Records as tables: every cell, every figure, the label of the pairs."""

from typing import Any

import pytest
from rich.console import Console

from m2d_export.bench.report import SHADES, tables
from m2d_export.bench.sts import TOY_LABEL, Pairs, load_pairs

SCORES = {(3, 64): 88.25, (3, 32): 81.04, (3, 7): 40.0, (1, 64): 12.34, (1, 32): -3.21, (1, 7): 0.06}
TRAINED = (64, 32)


def score(layer: int, dim: int, spearman: float | None) -> dict[str, Any]:
    return {"kind": "score", "layer": layer, "dim": dim, "trained_dim": dim in TRAINED, "spearman": spearman}


def latency(layer: int, batch_size: int, tokens: int) -> dict[str, Any]:
    own = layer + batch_size / 100 + tokens / 10_000  # every figure of every row is another one
    return {
        "kind": "latency",
        **{"layer": layer, "batch_size": batch_size, "tokens": tokens, "seconds": [0.1] * (layer + 5)},
        **{"p50_ms": own, "p95_ms": own + 10, "p99_ms": own + 20, "sentences_per_second": own * 1000},
    }


@pytest.fixture(scope="module")
def toy() -> Pairs:
    return load_pairs("toy")


def rendered(records: list[dict[str, Any]], pairs: Pairs, width: int = 120) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(tables(records, pairs))
    return captured.get()


def rows(text: str) -> list[list[str]]:
    """The cells of every row of every table."""
    return [[cell.strip() for cell in line.strip("│ ").split("│")] for line in text.splitlines() if "│" in line]


def test_the_heat_map_shows_every_cell_deepest_and_widest_first(toy: Pairs) -> None:
    text = rendered([score(*cell, value) for cell, value in SCORES.items()], toy)
    assert rows(text) == [["3", "88.2", "81.0", "40.0"], ["1", "12.3", "-3.2", "0.1"]]
    (header,) = [line for line in text.splitlines() if "layer" in line and "dim" in line and "┃" in line]
    assert [cell.strip() for cell in header.strip("┃ ").split("┃")] == ["layer \\ dim", "64", "32", "7*"]
    assert "* a dim that this checkpoint was not trained for" in text


def test_the_order_of_the_records_does_not_matter(toy: Pairs) -> None:
    records = [score(*cell, value) for cell, value in SCORES.items()] + [latency(1, 1, 16), latency(2, 1, 16)]
    assert rendered(records, toy) == rendered(records[::-1], toy)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_scores_on_the_toy_set_always_carry_its_label(toy: Pairs, width: int) -> None:
    text = rendered([score(1, 64, 50.0)], toy, width)
    assert " ".join(text.split()).startswith(f"Score: Spearman x 100 on {TOY_LABEL}")


def test_trained_dims_are_not_marked(toy: Pairs) -> None:
    assert "*" not in rendered([score(1, 64, 50.0)], toy)


def test_the_name_of_a_file_is_shown_as_it_is(toy: Pairs) -> None:
    pairs = Pairs("x", "odd[/]name[bold].csv", toy.texts, toy.left, toy.right, toy.scores)
    assert "on odd[/]name[bold].csv" in rendered([score(1, 64, 50.0)], pairs)


def test_a_cell_without_a_score_says_so(toy: Pairs) -> None:
    assert rows(rendered([score(1, 64, 50.0), score(1, 1, None)], toy)) == [["1", "50.0", "n/a"]]
    assert rows(rendered([score(1, 1, None)], toy)) == [["1", "n/a"]]


def test_the_latency_table_holds_the_figures_of_the_records(toy: Pairs) -> None:
    records = [latency(layer, size, tokens) for layer in (1, 3) for size in (1, 32) for tokens in (16, 128)]
    shown = rows(rendered([score(1, 64, 50.0), *records], toy))[1:]
    expected = [
        [
            *(str(layer), str(size), str(tokens)),
            *(f"{record[name]:.2f}" for name in ("p50_ms", "p95_ms", "p99_ms")),
            *(str(len(record["seconds"])), f"{record['sentences_per_second']:,.0f}"),
        ]
        for size in (1, 32)
        for tokens in (16, 128)
        for layer in (3, 1)
        for record in [latency(layer, size, tokens)]
    ]
    assert shown == expected


def test_low_scores_are_light_and_high_ones_dark(toy: Pairs) -> None:
    console = Console(width=120, color_system="truecolor", force_terminal=True)
    with console.capture() as captured:
        console.print(tables([score(1, 64, 10.0), score(2, 64, 90.0), score(3, 64, 50.0)], toy))
    shades = {name: tuple(int(name[place : place + 2], 16) for place in (1, 3, 5)) for name, _ in SHADES}
    for value, (name, _) in (("10.0", SHADES[0]), ("50.0", SHADES[2]), ("90.0", SHADES[4])):
        (line,) = [line for line in captured.get().splitlines() if f"{value}\x1b" in line]
        assert "48;2;{};{};{}m".format(*shades[name]) in line
