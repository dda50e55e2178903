"""``select``: the rule, the reasons, and the warnings."""

import json
from dataclasses import asdict, replace

import pytest

from m2d_export.bench.metrics import candidates
from m2d_export.bench.values import Candidate, Setup, StoredScore, View
from m2d_export.errors import DataError, SpecError
from m2d_export.select.budgets import Budgets
from m2d_export.select.rule import select
from m2d_export.select.tasks import Task
from m2d_export.spec import Cell
from tests.support.made_up import agreement, retrieval, score, storage

ONNX = Setup("fp32", "onnxrt", "fp32", "CPUExecutionProvider", 2)
INT8 = replace(ONNX, precision="int8")
MEASURED = {"interval": (70.0, 90.0), "ndcg": 50.0, "agreement": 90.0, "noisy": False}


def candidate(layer: int, dim: int, score: float | None, speed: float | None = None, **fields) -> Candidate:
    """A cell whose full cell scores 80; batches of one."""
    speed = speed if speed is not None else 6000 / layer
    known = {"latency_ms": 1000 / speed, "sentences_per_second": speed, "retention": score and score / 80}
    return Candidate(
        Cell(layer, dim),
        **{"setup": ONNX, "trained_layer": True, "trained_dim": True, "score": score, **known, **fields},
    )


GRID = [
    candidate(1, 32, 60),
    candidate(1, 128, 64),
    candidate(3, 32, 72),
    candidate(3, 128, 78),
    candidate(3, 384, 78),
    candidate(6, 32, 75),
    candidate(6, 128, 79),
    candidate(6, 384, 80),
]


def picked(budgets: Budgets, task: Task = Task.STS, candidates: list[Candidate] = GRID) -> Cell | None:
    choice = select(candidates, budgets, task)
    return choice.picked.cell if choice.picked else None


def test_without_a_limit_on_quality_the_best_score_wins() -> None:
    assert picked(Budgets()) == Cell(6, 384)
    assert picked(Budgets(max_latency_ms=0.6)) == Cell(3, 128)  # of two equal scores the smaller dim
    assert picked(Budgets(max_index_gb=1, vectors=2e6)) == Cell(6, 32) != picked(Budgets(max_index_gb=1, vectors=1e6))
    assert picked(Budgets(max_index_gb=1, vectors=2e6, bytes_per_value=1)) == Cell(6, 384)


def test_with_a_limit_on_quality_the_fastest_cell_wins() -> None:
    assert picked(Budgets(min_retention=0.97)) == Cell(3, 128)
    assert picked(Budgets(min_score=70)) == Cell(3, 32)
    assert picked(Budgets(min_retention=0.5)) == Cell(1, 32)
    assert picked(Budgets(min_score=78.5, min_throughput=900)) == Cell(6, 128)


def test_ties_go_to_the_smaller_dim_then_to_the_smaller_layer() -> None:
    grid = [candidate(4, 64, 70, 500), candidate(3, 64, 70, 500), candidate(2, 128, 70, 500)]
    assert picked(Budgets(), candidates=grid) == picked(Budgets(min_score=60), candidates=grid) == Cell(3, 64)


def test_a_value_equal_to_its_limit_meets_it() -> None:
    assert picked(Budgets(min_score=80)) == Cell(6, 384)
    assert picked(Budgets(min_retention=1.0)) == Cell(6, 384)
    assert picked(Budgets(max_latency_ms=1000 / 6000)) == Cell(1, 128)


def test_every_ruled_out_candidate_names_the_budgets_that_it_misses() -> None:
    choice = select(GRID, Budgets(min_retention=0.97, max_latency_ms=0.6))
    reasons = {str(verdict.candidate.cell): verdict.reason for verdict in choice.ruled_out}
    assert choice.picked is not None
    assert str(choice.picked.cell) == "3x128"
    assert reasons["1x32"] == "retention 0.75, at least 0.97"
    assert reasons["6x32"] == "retention 0.9375, at least 0.97; latency 1 ms, at most 0.6"
    assert reasons["6x384"] == "latency 1 ms, at most 0.6"
    assert len(reasons) == 6
    by_misses = {str(verdict.candidate.cell): [miss.budget for miss in verdict.misses] for verdict in choice.ruled_out}
    assert by_misses["6x32"] == ["min_retention", "max_latency_ms"]


def test_runners_up_are_ordered_by_the_number_of_missed_budgets() -> None:
    choice = select(GRID, Budgets(min_retention=0.97, max_latency_ms=0.6))
    runners = [(str(verdict.candidate.cell), verdict.reason) for verdict in choice.runners_up]
    assert runners[0] == ("3x384", "no better in throughput, and wider")
    assert len(runners) == 3
    assert all(len(verdict.misses) == 1 for verdict in choice.runners_up[1:])
    two_misses, one_miss = candidate(6, 64, 75), candidate(6, 64, 78)
    closest = select([two_misses, one_miss], Budgets(min_score=77, max_latency_ms=0.6)).runners_up
    assert [verdict.candidate for verdict in closest] == [one_miss, two_misses]
    faster_but_far = replace(two_misses, sentences_per_second=1e6)
    closest = select([faster_but_far, one_miss], Budgets(min_score=77, max_latency_ms=0.6)).runners_up
    assert [verdict.candidate for verdict in closest] == [one_miss, faster_but_far]
    best = select(GRID, Budgets())
    assert [str(verdict.candidate.cell) for verdict in best.runners_up] == ["6x128", "3x128", "3x384"]
    assert best.runners_up[0].reason == "score 79, the pick has 80"


def test_of_equally_many_misses_the_smallest_comes_first() -> None:
    choice = select(GRID, Budgets(min_score=90))
    assert [str(verdict.candidate.cell) for verdict in choice.runners_up] == ["6x384", "6x128", "3x128"]
    choice = select(GRID, Budgets(min_score=79.5))
    assert [str(verdict.candidate.cell) for verdict in choice.runners_up] == ["6x128", "3x128", "3x384"]


def test_a_limited_quantity_without_measurements_is_named() -> None:
    untimed = [replace(cell, latency_ms=None) for cell in GRID]
    assert select(untimed, Budgets(max_latency_ms=5)).unmeasured == ("latency",)
    assert select(GRID, Budgets(max_latency_ms=0.1)).unmeasured == ()


def test_a_narrow_miss_is_printed_with_enough_digits() -> None:
    choice = select([candidate(1, 32, 69.999999), candidate(2, 32, 71)], Budgets(min_score=70))
    assert choice.ruled_out[0].reason == "score 69.999999, at least 70"


def test_large_numbers_have_no_exponent() -> None:
    choice = select([candidate(1, 32, 70, 123456.7)], Budgets(min_throughput=2e6))
    assert choice.ruled_out[0].reason == "throughput 123,500 sentences/s, at least 2,000,000"


def test_the_smallest_relaxation_of_one_budget_is_named_and_works() -> None:
    budgets = Budgets(min_retention=0.97, max_latency_ms=0.3)
    choice = select(GRID, budgets)
    assert choice.picked is None
    assert choice.warnings == ()
    assert [relaxation.budget for relaxation in choice.relaxations] == ["min_retention", "max_latency_ms"]
    for relaxation in choice.relaxations:
        again = select(GRID, replace(budgets, **{relaxation.budget: relaxation.needed}))
        assert again.picked == relaxation.candidate
    assert str(choice.relaxations[0]) == "min_retention from 0.97 to 0.8 would allow 1x128"


@pytest.mark.parametrize("score", [79.99999999999999, 8 / 9 * 80, 100 / 3, 0.85, 0.0, -12.34567])
def test_a_relaxed_budget_always_admits_its_candidate(score: float) -> None:
    grid, budgets = [candidate(1, 32, score, retention=0.5)], Budgets(min_score=90)
    (relaxation,) = select(grid, budgets).relaxations
    assert relaxation.needed <= score
    assert picked(replace(budgets, min_score=relaxation.needed), candidates=grid) == Cell(1, 32)


@pytest.mark.parametrize("latency", [1 / 3, 2.00001, 123456.7, 0.9])
def test_a_relaxed_upper_bound_admits_its_candidate_too(latency: float) -> None:
    grid, budgets = [replace(candidate(1, 32, 70), latency_ms=latency)], Budgets(max_latency_ms=0.1)
    (relaxation,) = select(grid, budgets).relaxations
    assert latency <= relaxation.needed < latency * 1.002
    assert picked(replace(budgets, max_latency_ms=relaxation.needed), candidates=grid) == Cell(1, 32)


def test_a_relaxed_limit_has_no_superfluous_digits() -> None:
    (relaxation,) = select([candidate(1, 32, 70)], Budgets(max_index_gb=0.1, vectors=2.5e6)).relaxations
    assert relaxation.needed == 0.32  # whose float lies a little above it


def test_no_relaxation_is_named_where_two_budgets_must_change() -> None:
    choice = select([candidate(6, 384, 70)], Budgets(min_score=75, max_latency_ms=0.1))
    assert (choice.picked, choice.relaxations) == (None, ())


def test_an_unmeasured_cell_is_neither_picked_nor_suggested() -> None:
    untested = candidate(1, 32, None, 1e6, setup=INT8)
    untimed = replace(candidate(1, 128, 99), latency_ms=None, sentences_per_second=None)
    assert picked(Budgets(), candidates=[untested, *GRID]) == Cell(6, 384)
    choice = select([*GRID, untested, untimed], Budgets(min_retention=0.9, max_latency_ms=0.4))
    reasons = [(verdict.candidate, verdict.reason) for verdict in choice.ruled_out]
    assert choice.picked is None
    assert (untested, "score not measured") in reasons
    assert (untimed, "latency not measured") in reasons
    suggested = [relaxation.candidate for relaxation in choice.relaxations]
    assert suggested
    assert untested not in suggested
    assert untimed not in suggested
    assert untested not in [verdict.candidate for verdict in choice.runners_up]
    (relaxation,) = select([untested, candidate(1, 128, 64, 10)], Budgets(max_latency_ms=1e-4)).relaxations
    assert relaxation.candidate.cell == Cell(1, 128)


def test_each_task_judges_by_its_own_quality_and_retention() -> None:
    shares = ({"ndcg_retention": 0.5, "agreement_retention": 0.96}, {"ndcg_retention": 1.0, "agreement_retention": 1.0})
    grid = [
        candidate(3, 128, 78, ndcg=20.0, agreement=96.0, **shares[0]),
        candidate(6, 384, 80, ndcg=40.0, agreement=100.0, **shares[1]),
    ]
    half = Budgets(min_retention=0.95)
    assert picked(half, Task.STS, grid) == picked(half, Task.AGREEMENT, grid) == Cell(3, 128)
    assert picked(half, Task.RETRIEVAL, grid) == Cell(6, 384)
    assert picked(Budgets(min_score=30), Task.RETRIEVAL, grid) == Cell(6, 384)
    assert picked(Budgets(min_retention=0.97), Task.AGREEMENT, grid) == Cell(6, 384)


def test_retrieval_is_compared_with_the_most_exact_full_cell() -> None:
    better = {**retrieval(6, 384, "int8"), "ndcg_at_10": 80.0}
    cells = candidates([better, {**retrieval(6, 384), "ndcg_at_10": 40.0}, {**retrieval(3, 64), "ndcg_at_10": 38.0}])
    assert [(c.setup.precision, c.ndcg_retention) for c in cells] == [("fp32", 0.95), ("fp32", 1.0), ("int8", 2.0)]


@pytest.mark.parametrize(
    ("fields", "budgets", "sts", "warning"),
    [
        ({}, Budgets(), "toy", "toy set"),
        ({"ndcg": None, "agreement": None}, Budgets(), "stsb", "STS only"),
        ({"trained_dim": False}, Budgets(), "stsb", "not trained for dim 384"),
        ({"trained_layer": False}, Budgets(), "stsb", "not trained for an exit at layer 6"),
        ({"noisy": True}, Budgets(), "stsb", "noisy"),
        ({"sentences_per_second": None}, Budgets(min_score=70), "stsb", "no throughput"),
        ({}, Budgets(max_index_gb=9, vectors=1e6, bytes_per_value=1), "stsb", "float32 vectors"),
        ({"interval": (78.0, 82.0)}, Budgets(min_score=79), "stsb", "min_score 79 lies within"),
        ({"difference_interval": (-2.0, 1.0)}, Budgets(min_retention=0.99), "stsb", "min_retention 0.99 lies within"),
    ],
)
def test_a_weak_choice_has_its_warning_and_a_sound_one_none(
    fields: dict, budgets: Budgets, sts: str, warning: str
) -> None:
    sound = candidate(6, 384, 80, **MEASURED)
    assert select([sound], replace(budgets, min_score=None, min_retention=None, bytes_per_value=None)).warnings == ()
    (found,) = select([replace(sound, **fields)], budgets, view=View(sts)).warnings
    assert warning in found


def test_a_runner_up_within_the_interval_is_a_warning() -> None:
    full = candidate(6, 384, 80, **{**MEASURED, "difference_interval": (0.0, 0.0)})
    close = candidate(6, 128, 79.8, **{**MEASURED, "difference_interval": (-0.5, 0.1)})
    worse = replace(close, difference_interval=(-0.5, -0.1))
    (warning,) = select([full, close], Budgets()).warnings
    assert "runner-up 6x128 is 0.20 behind" in warning
    assert select([full, worse], Budgets()).warnings == ()  # the paired interval settles what the scores' own cannot
    unpaired = [replace(item, difference_interval=None) for item in (full, worse)]
    assert len(select(unpaired, Budgets()).warnings) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_retention": 97}, "min_retention"),
        ({"min_retention": 0}, "min_retention"),
        ({"max_latency_ms": -1}, "max_latency_ms"),
        ({"min_throughput": float("nan")}, "min_throughput"),
        ({"min_score": 101}, "min_score"),
        ({"min_score": 0.85}, "write 85 .* min_retention 0.85"),
        ({"min_score": float("inf")}, "min_score"),
        ({"max_index_gb": 2e9, "vectors": 1e6}, "max_index_gb"),
        ({"max_index_gb": 2, "vectors": 0.5}, "vectors"),
        ({"max_index_gb": 2, "vectors": 1e6, "bytes_per_value": 32}, "bytes_per_value"),
        ({"max_index_gb": 2}, "vectors"),
        ({"bytes_per_value": 0}, "bytes_per_value"),
        ({"vectors": 1e6}, "max_index_gb"),
        ({"bytes_per_value": 1, "min_score": 70}, "max_index_gb"),
    ],
)
def test_impossible_budgets_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Budgets(**fields)


def test_a_task_without_measurements_is_refused_with_the_option_to_measure_it() -> None:
    with pytest.raises(DataError, match=r"ndcg.*--retrieval FOLDER"):
        select(GRID, Budgets(), Task.RETRIEVAL)
    with pytest.raises(DataError, match=r"score.*--sts"):
        select([], Budgets())


LEVELS = {"sts": score, "retrieval": retrieval, "agreement": agreement}


@pytest.mark.parametrize("task", [task for task in Task if not task.in_index])
def test_retention_is_a_share_of_the_full_cell_for_any_set_of_cells(task: Task) -> None:
    shallow = [LEVELS[task](layer, dim) for layer in (1, 2) for dim in (64, 256, 384)]
    known = [*shallow, LEVELS[task](6, 384)]
    loose, tight = (select(candidates(known), Budgets(min_retention=floor), task) for floor in (0.6, 0.99))
    assert tight.picked is not None
    assert (tight.picked.cell, tight.worth.retention) == (Cell(6, 384), 1.0)
    assert loose.worth is not None
    assert loose.worth.retention == pytest.approx(
        loose.worth.quality / (100 if task is Task.AGREEMENT else tight.worth.quality)
    )
    if task is Task.RETRIEVAL:  # its records do not say what they are a share of
        with pytest.raises(DataError, match=r"full cell's ndcg.*--retrieval"):
            select(candidates(shallow), Budgets(min_retention=0.6), task)
        assert select(candidates(shallow), Budgets(), task).worth.retention is None
    else:
        again = select(candidates(shallow), Budgets(min_retention=0.6), task)
        assert again.worth.retention == pytest.approx(loose.worth.retention)


def test_runners_up_have_the_quality_and_share_of_the_task() -> None:
    grid = [candidate(1, 32, 60, ndcg=30.0, ndcg_retention=0.5), candidate(2, 32, 70, ndcg=60.0, ndcg_retention=1.0)]
    choice = select(grid, Budgets(), Task.RETRIEVAL)
    (verdict,) = choice.runners_up
    assert (verdict.worth.quality, verdict.worth.retention) == (30.0, 0.5)
    assert (choice.worth.quality, choice.worth.retention) == (60.0, 1.0)


def test_a_share_of_a_negative_score_is_refused() -> None:
    flat = [candidate(6, 384, -3.25, retention=None, full=True), candidate(1, 32, -5, retention=None)]
    with pytest.raises(DataError, match=r"-3\.25.*min_score"):
        select(flat, Budgets(min_retention=0.9))
    assert picked(Budgets(min_score=-4), candidates=flat) == Cell(6, 384)


def test_a_smaller_index_is_judged_by_the_score_of_stored_vectors() -> None:
    stored = {"int8": StoredScore(128, 74.0, 0.925), "binary": StoredScore(16, 60.0, 0.75)}
    deep = {"int8": StoredScore(128, 79.0, 0.9875)}
    grid = [candidate(3, 128, 78, stored=stored), candidate(6, 128, 79, stored=deep)]
    asked = Budgets(min_retention=0.95, max_index_gb=1, vectors=1e6)
    assert picked(asked, candidates=grid) == Cell(3, 128)
    choice = select(grid, replace(asked, bytes_per_value=1))
    assert (choice.picked.cell, choice.stored_as, choice.worth.quality) == (Cell(6, 128), "int8", 79.0)
    assert choice.ruled_out[0].reason == "retention 0.925, at least 0.95"
    assert not any("float32" in warning for warning in choice.warnings)
    binary = select(grid, replace(asked, bytes_per_value=1 / 8, min_retention=0.7))
    assert binary.picked.cell == Cell(3, 128)
    assert binary.ruled_out[0].reason == "score not measured"
    unknown = select(grid, replace(asked, bytes_per_value=2))
    assert unknown.stored_as is None
    assert [warning for warning in unknown.warnings if "float32" in warning and "2 bytes" in warning]


def test_stored_scores_are_those_of_the_storage_records() -> None:
    records = [score(6, 384), *(storage(6, 384, kind) for kind in ("fp32", "int8", "binary"))]
    (cell,) = candidates(records)
    assert {name: of.score for name, of in cell.stored.items()} == {r["storage"]: r["spearman"] for r in records[1:]}
    assert cell.stored["int8"].retention == records[2]["spearman"] / cell.score


def test_a_choice_is_plain_json() -> None:
    for budgets in (Budgets(), Budgets(min_score=99, min_throughput=1e9)):
        json.dumps(asdict(select([*GRID, candidate(1, 8, None)], budgets)), allow_nan=False)


@pytest.mark.parametrize(("bm25", "warned"), [(50.0, False), (60.0, False), (60.1, True), (None, False)])
@pytest.mark.parametrize("task", [Task.STS, Task.RETRIEVAL, Task.INDEX_RETRIEVAL])
def test_a_pick_that_finds_less_than_bm25_has_a_warning_whatever_it_was_judged_by(
    bm25: float | None, warned: bool, task: Task
) -> None:
    found = {"ndcg": 60.0, "index_ndcg": 60.0, "index_cell": "6x32"}
    choice = select(
        [candidate(6, 32, 70, bm25=bm25, **found)], Budgets(), task, None, Cell(6, 32) if task.in_index else None
    )
    assert any("BM25" in warning for warning in choice.warnings) == warned


def test_only_queries_in_the_index_of_the_cell_are_compared() -> None:
    cells = [
        candidate(layer, dim, 50, speed=100 - layer, index_cell=f"6x{dim}", index_ndcg=60.0 * share, index_share=share)
        for layer, share in ((1, 0.8), (3, 0.9), (6, 1.0))
        for dim in (32, 128)
    ]
    for floor, layer in ((0.75, 1), (0.9, 3), (0.95, 6)):
        choice = select(cells, Budgets(min_retention=floor), Task.INDEX_RETRIEVAL, index_cell=Cell(6, 128))
        assert choice.picked is not None
        assert choice.picked.cell == Cell(layer, 128)
    with pytest.raises(DataError, match="choose one of 6x32, 6x128"):
        select(cells, Budgets(), Task.INDEX_RETRIEVAL, index_cell=Cell(5, 128))
    with pytest.raises(SpecError, match="index"):
        select(cells, Budgets(), Task.STS, index_cell=Cell(6, 128))


def test_a_share_of_queries_that_find_nothing_is_refused_without_naming_the_full_cell() -> None:
    cells = [candidate(layer, 32, 50, index_cell="6x32", index_ndcg=0.0, index_share=None) for layer in (1, 6)]
    with pytest.raises(DataError, match="index's own queries, which is 0") as refused:
        select(cells, Budgets(min_retention=0.9), Task.INDEX_RETRIEVAL, index_cell=Cell(6, 32))
    assert "full cell" not in str(refused.value)
