"""The vocabulary: grids, dims, number lists and prompts, valid and not."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2d_export.errors import M2DError, SpecError
from m2d_export.spec import Cell, Grid, Pooling, Precision, TextSpec, default_dims, parse_numbers


def grid(**changed: Any) -> Grid:
    fields: dict[str, Any] = {"depth": 6, "width": 64, "layers": (2, 4, 6), "dims": (64, 32), "trained_dims": (64,)}
    return Grid(**(fields | changed))


def test_the_full_cell_is_the_deepest_exit_at_full_width() -> None:
    assert grid().full == Cell(6, 64)
    assert grid(layers=(1, 3), dims=(16,)).full == Cell(3, 64)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layers": (1, 7)}, "layer 7 does not exist: this checkpoint has layers 1 to 6"),
        ({"layers": (-1,)}, "layer -1 does not exist"),
        ({"layers": ()}, "at least one layer"),
        ({"layers": (2, 1)}, "layers must ascend"),
        ({"layers": (1, 1)}, "layers must ascend without repeats"),
        ({"dims": (65,)}, "dim 65 is out of range: this checkpoint's vectors have 1 to 64 dims"),
        ({"dims": (0,)}, "dim 0 is out of range"),
        ({"dims": ()}, "at least one layer and one dim"),
        ({"dims": (32, 64)}, "dims must descend"),
        ({"dims": (32, 32)}, "dims must descend without repeats"),
        ({"trained_dims": (128,)}, "dim 128 is out of range"),
    ],
)
def test_a_grid_refuses_what_the_checkpoint_cannot_have(changed: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        grid(**changed)


@pytest.mark.parametrize("layer", [2, 4, 6])
def test_a_layer_of_the_grid_is_accepted(layer: int) -> None:
    assert grid().check_layer(layer) == layer


@pytest.mark.parametrize("layer", [1, 3, 0, -1, 7, 10**30])
def test_a_layer_without_an_exit_is_refused_with_the_ones_that_have_one(layer: int) -> None:
    with pytest.raises(SpecError, match=f"no exit at layer {layer}: this grid has layers 2, 4, 6"):
        grid().check_layer(layer)


@pytest.mark.parametrize("dim", [1, 33, 64])
def test_any_dim_up_to_the_width_is_accepted(dim: int) -> None:
    assert grid().check_dim(dim) == dim


@pytest.mark.parametrize("value", [True, 2.0, "2", None, (2,)])
def test_what_is_no_whole_number_is_neither_layer_nor_dim(value: Any) -> None:
    with pytest.raises(SpecError, match="a layer is a whole number, got "):
        grid().check_layer(value)
    with pytest.raises(SpecError, match="a dim is a whole number, got "):
        grid().check_dim(value)


@pytest.mark.parametrize(
    ("width", "dims"),
    [
        (384, (384, 256, 128, 64, 32)),
        (768, (768, 512, 256, 128, 64, 32)),
        (64, (64, 32)),
        (33, (33, 32)),
        (32, (32,)),
        (31, (31,)),
        (1, (1,)),
    ],
)
def test_default_dims_are_the_width_and_the_powers_of_two_below(width: int, dims: tuple[int, ...]) -> None:
    assert default_dims(width) == dims


@settings(derandomize=True)
@given(st.integers(1, 1 << 20))
def test_default_dims_of_any_width_make_a_grid(width: int) -> None:
    assert grid(width=width, dims=default_dims(width), trained_dims=(width,)).dims[0] == width


@pytest.mark.parametrize(
    ("text", "numbers"), [("3", (3,)), ("1,2,6", (1, 2, 6)), ("6, 1 ,2", (1, 2, 6)), ("2,2,1", (1, 2)), ("-1", (-1,))]
)
def test_a_list_of_numbers_is_sorted_without_repeats(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_numbers(text, "--layers") == numbers


@pytest.mark.parametrize("text", ["", " ", ",", "1,", "1,,2", "1;2", "1.5", "all", "1-3", "0x10", "9" * 5000])
def test_what_is_no_list_of_numbers_is_refused_by_the_name_of_its_option(text: str) -> None:
    with pytest.raises(SpecError, match="--layers takes whole numbers separated by commas"):
        parse_numbers(text, "--layers")


TEXTS = TextSpec(max_tokens=8, pad_id=0, prompts={"query": "query: ", "passage": "passage: "})
TEXTS_WITH_DEFAULT = TextSpec(max_tokens=8, pad_id=0, prompts=TEXTS.prompts, default_prompt_name="passage")


@pytest.mark.parametrize(
    ("spec", "asked", "resolved"),
    [
        (TEXTS, {}, ""),
        (TEXTS, {"prompt_name": "query"}, "query: "),
        (TEXTS, {"prompt": "as is "}, "as is "),
        (TEXTS_WITH_DEFAULT, {}, "passage: "),
        (TEXTS_WITH_DEFAULT, {"prompt_name": "query"}, "query: "),
        (TEXTS_WITH_DEFAULT, {"prompt": "as is "}, "as is "),
        (TEXTS_WITH_DEFAULT, {"prompt": ""}, ""),
    ],
)
def test_a_prompt_is_the_given_one_else_the_named_one_else_the_default(
    spec: TextSpec, asked: dict[str, str], resolved: str
) -> None:
    assert spec.prompt(**asked) == resolved


@pytest.mark.parametrize(
    ("spec", "asked", "message"),
    [
        (TEXTS, {"prompt": "a", "prompt_name": "query"}, "prompt and prompt_name"),
        (TEXTS, {"prompt_name": "qurey"}, "no prompt named 'qurey': this checkpoint has passage, query"),
        (TextSpec(8, 0), {"prompt_name": "query"}, "this checkpoint has none at all"),
        (TEXTS, {"prompt_name": ["query"]}, r"no prompt named \['query'\]"),
        (TextSpec(8, 0, default_prompt_name="gone"), {}, "no prompt named 'gone'"),
    ],
)
def test_a_prompt_that_cannot_be_resolved_is_refused(spec: TextSpec, asked: dict[str, str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec.prompt(**asked)


def test_a_cell_is_parsed_from_layer_by_dim() -> None:
    assert Cell.parse("3x128") == Cell(3, 128)


@pytest.mark.parametrize("text", ["", "3", "3x", "x3", "3x128 ", "3x-1", "3×128", "3x128x1", "9999999x1"])
def test_any_other_text_is_not_a_cell(text: str) -> None:
    with pytest.raises(SpecError, match="LAYERxDIM"):
        Cell.parse(text)


def test_cells_read_and_sort_as_layer_by_dim() -> None:
    assert str(Cell(3, 128)) == "3x128"
    assert sorted([Cell(2, 32), Cell(1, 64), Cell(1, 32)]) == [Cell(1, 32), Cell(1, 64), Cell(2, 32)]


def test_what_a_person_reads_of_pooling_and_precision_is_plain() -> None:
    assert str(Pooling()) == "mean"
    assert str(Pooling(("cls", "mean"), include_prompt=False)) == "cls+mean, without the prompt's tokens"
    assert str(Precision.FP32) == "fp32"


def test_a_spec_error_is_caught_as_ours_and_as_a_value_error() -> None:
    assert issubclass(SpecError, M2DError)
    assert issubclass(SpecError, ValueError)
    assert SpecError.exit_code == 2
