"""Nodes before the first layer are folded where no token can change them, and stay where one can."""

import numpy as np
import onnx_ir as ir
import pytest

from m2d_export.graphs.passes.fold_prologue import fold_prologue
from tests.support.graph_files import kinds, parsed, run

EMBEDDED = """
    g (int64[batch, tokens] ids, int64[batch, tokens] kinds) => (float[batch, tokens, 2] y)
    <float[5, 2] words = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, float[3, 2] types = {1, 2, 3, 4, 5, 6},
     float[4, 2] rows = {9, 8, 7, 6, 5, 4, 3, 2}, int64[1, 4] counted = {COUNTED}, int64[1, 4] kind = {KIND},
     int64[1] zero = {0}, int64[1] one = {1}>
    {
      count = Shape<start = 1, end = 2>(ids)
      positions = Slice(counted, zero, count, one, one)
      word = Gather(words, ids)
      some = Slice(kind, zero, count, one, one)
      all = Shape(ids)
      wide = Expand(some, all)
      type = Gather(types, TYPES)
      first = Add(word, type)
      position = Gather(rows, positions)
      y = Add(first, position)
    }
"""


def embedded(counted: str = "0, 1, 2, 3", kind: str = "2, 2, 2, 2", types: str = "wide") -> ir.Model:
    model = parsed(EMBEDDED.replace("COUNTED", counted).replace("KIND", kind).replace("TYPES", types))
    for node in model.graph:  # shapes that torch.export states
        if node.op_type in ("Gather", "Add") and node.inputs[0].name != "rows":
            node.outputs[0].shape = ir.Shape(["batch", "tokens", 2])
    return model


TOKENS = {"ids": np.array([[1, 2, 3], [4, 0, 1]]), "kinds": np.array([[0, 1, 2], [2, 1, 0]])}


def test_equal_token_types_and_counting_positions_are_added_beforehand() -> None:
    model = embedded()
    expected = run(model, TOKENS)
    assert fold_prologue(model)
    np.testing.assert_array_equal(run(model, TOKENS), expected)
    assert kinds(model) == {"Gather": 1, "Slice": 1, "Shape": 1, "Add": 1}
    assert not fold_prologue(model)


@pytest.mark.parametrize(
    "change",
    [
        {"counted": "0, 2, 1, 3"},
        {"counted": "1, 2, 3, 0", "kind": "0, 0, 0, 0"},
        {"kind": "2, 1, 2, 2"},
        {"types": "kinds"},
    ],
    ids=["positions in another order", "positions from 1", "types that differ", "types that are given"],
)
def test_rows_that_differ_from_token_to_token_are_looked_up(change: dict[str, str]) -> None:
    model = embedded(**change)
    expected = run(model, TOKENS)
    assert fold_prologue(model)
    np.testing.assert_array_equal(run(model, TOKENS), expected)
    assert kinds(model)["Gather"] == 2


MASKED = """
    g (int64[batch, tokens] mask, float[batch, 2, tokens, tokens] scores) => (float[batch, 2, tokens, tokens] y)
    <int64 zero = {0}, int64 one = {1}, int64[1] last = {-1}, bool always = {ALWAYS}, int64 least = {LEAST},
     float nothing = {0}, float much = {-9}, int64[3] of_batch = {1, 2, 3}, int64[3] of_tokens = {0, 1, 2},
     int64[3] of_rows = {0, 1, 3}>
    {
      b1 = Shape<start = 0, end = 1>(mask)
      t1 = Shape<start = 1, end = 2>(mask)
      b = Squeeze(b1)
      t = Squeeze(t1)
      batches = Range(zero, b, one)
      tokens = Range(zero, t, one)
      i = Unsqueeze(batches, of_batch)
      j = Unsqueeze(tokens, of_tokens)
      row = Unsqueeze(tokens, of_rows)
      ij = Max(i, j)
      shape = Shape(ij)
      wide_i = Expand(i, shape)
      wide_j = Expand(j, shape)
      last_i = Unsqueeze(wide_i, last)
      last_j = Unsqueeze(wide_j, last)
      where = Concat<axis = -1>(PAIR)
      bools = Cast<to = 9>(mask)
      picked = GatherND(bools, where)
      counted = GreaterOrEqual(row, least)
      sure = And(always, counted)
      both = And(sure, picked)
      added = Where(both, nothing, much)
      y = Add(scores, added)
    }
"""


def masked(always: str = "1", least: str = "0", pair: str = "last_i, last_j") -> ir.Model:
    model = parsed(MASKED.replace("ALWAYS", always).replace("LEAST", least).replace("PAIR", pair))
    known = {"batches": ["batch"], "tokens": ["tokens"], "i": ["batch", 1, 1, 1], "j": [1, 1, 1, "tokens"]}
    known |= {"row": [1, 1, "tokens", 1], "counted": [1, 1, "tokens", 1], "sure": [1, 1, "tokens", 1]}
    known |= {
        "bools": ["batch", "tokens"],
        "picked": ["batch", 1, 1, "tokens"],
        "y": ["batch", 2, "tokens", "tokens"],
    }
    known |= {name: ["batch", 1, "tokens", "tokens"] for name in ("both", "added")}
    for node in model.graph:  # shapes that torch.export states
        if (shape := known.get(str(node.outputs[0].name))) is not None:
            node.outputs[0].shape = ir.Shape(shape)
    return model


PADDING = {
    "mask": np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0]]),
    "scores": np.zeros((3, 2, 3, 3), dtype=np.float32),
}


def test_a_padding_mask_that_is_looked_up_number_by_number_is_taken_as_a_whole() -> None:
    model = masked()
    expected = run(model, PADDING)
    assert fold_prologue(model)
    np.testing.assert_array_equal(run(model, PADDING), expected)
    assert [node.op_type for node in model.graph] == ["Cast", "Unsqueeze", "Where", "Add"]
    assert not fold_prologue(model)


@pytest.mark.parametrize(
    ("change", "stays"),
    [({"always": "0"}, "And"), ({"least": "1"}, "And"), ({"pair": "last_j, last_i"}, "GatherND")],
    ids=["a condition that is never true", "a condition that is false in the first row", "indices in another order"],
)
def test_any_other_mask_stays(change: dict[str, str], stays: str) -> None:
    model = masked(**change)
    expected = run(model, PADDING)
    fold_prologue(model)
    np.testing.assert_array_equal(run(model, PADDING), expected)
    assert stays in kinds(model)
