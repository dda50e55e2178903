"""Reading results, and the figures derived from them."""

import json
import random

import pytest

from m2d_export.bench.metrics import (
    candidates,
    cascades,
    full_cell,
    full_score,
    latencies,
    stored,
)
from m2d_export.bench.quantities import Candidate, Setup, Shape, View
from m2d_export.bench.records import groups, measured, read_records, unmeasured
from m2d_export.bench.views import shapes, sts_labels, times, view_of
from m2d_export.errors import DataError
from m2d_export.report.summary import facts
from m2d_export.select.pareto import few, front
from m2d_export.spec import Cell
from tests.support.made_up import (
    DIMS,
    LAYERS,
    MACHINE,
    TOY,
    agreement,
    cascade,
    common,
    failed,
    latency,
    memory,
    score,
    sweep,
    true_score,
    write,
)


@pytest.fixture(scope="module")
def records():
    return sweep()


def find(cells, layer, dim, precision="fp32"):
    return next(c for c in cells if (c.cell, c.precision) == (Cell(layer, dim), precision))


def test_read_back_whole(tmp_path, records):
    assert read_records(write(tmp_path / "results.jsonl", records)) == records


def test_half_written_last_line_is_ignored_with_a_warning(tmp_path, caplog):
    path = write(tmp_path / "results.jsonl", [score(6, 384), score(5, 384)])
    path.write_bytes(path.read_bytes()[:-40])
    assert [record["layer"] for record in read_records(path)] == [6]
    assert "line 2 is half-written and was ignored" in caplog.text


def test_half_a_character_at_the_end_is_half_written(tmp_path):
    path = write(tmp_path / "results.jsonl", [score(6, 384)])
    path.write_bytes(path.read_bytes() + b'{"kind": "score", "label": "\xc3')
    assert len(read_records(path)) == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"kind": "sco', "line 2 is not a result"),
        ("[1, 2]", "line 2 is not a result: expected an object, got list"),
        ('{"kind": "mood"}', "line 2: kind 'mood' is unknown; expected one of score"),
        ('{"kind": "score", "dim": 3}', "line 2 has no status, bundle, .*remove the line"),
        (json.dumps(score(6, 384)).replace(str(true_score(6, 384)), "NaN"), "line 2 is not a result .NaN"),
        (json.dumps({**score(6, 384), "machine": "mine"}), "line 2: machine must be an object, got 'mine'"),
        (json.dumps({k: v for k, v in score(6, 384).items() if k != "sts"}), "line 2 has no sts"),
    ],
)
def test_broken_line_in_the_middle_is_named(tmp_path, line, says):
    path = tmp_path / "results.jsonl"
    path.write_text(f"{json.dumps(score(6, 384))}\n{line}\n{json.dumps(score(5, 384))}\n")
    with pytest.raises(DataError, match=says):
        read_records(path)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({k: v for k, v in score(6, 384).items() if k != "spearman"}, "has no spearman"),
        ({k: v for k, v in score(6, 384).items() if k not in ("architecture", "layer")}, "has no architecture, layer"),
        ({**score(6, 384), "dim": "64"}, "dim must be a whole number, got '64'"),
        ({**score(6, 384), "dim": True}, "dim must be a whole number, got True"),
        ({**score(6, 384), "status": "okay"}, "status must be one of ok, failed, interrupted, got 'okay'"),
        ({**failed(score(6, 384)), "dim": "64"}, "dim must be a whole number"),
        ({**score(6, 384), "spearman": {"cosine": "high"}}, "spearman must be an object with cosine"),
        ({**score(6, 384), "spearman": {}}, "spearman must be an object with cosine"),
        ({**score(6, 384), "interval": [1.0]}, r"interval must be \[low, high\] or null, got \[1.0\]"),
        ({**agreement(6, 384), "texts": None}, "texts must be a string, got None"),
        ({**cascade((1, 64)), "cheap": [1]}, r"cheap must be \[layer, dim\], got \[1\]"),
        ({**cascade((1, 64)), "cost_ms": [1.0]}, "shortlist, recall_at_10, cost_ms must be of one length"),
        ({k: v for k, v in cascade((1, 64)).items() if k != "deep_ms"}, "has no deep_ms, as another version"),
        ({**latency(6, 1, 16), "p50_ms": None}, "p50_ms must be a number, got None"),
        ({**latency(6, 1, 16), "seconds": 3}, "seconds must be a list of numbers, got 3"),
        ({**memory(6), "peak_mb": "much"}, "peak_mb must be a number, got 'much'"),
        ({**memory(6), "kind": []}, r"kind \[\] is unknown"),
    ],
)
def test_a_record_that_no_figure_can_be_read_from_is_refused(tmp_path, record, says):
    path = write(tmp_path / "results.jsonl", [score(6, 384), record])
    with pytest.raises(DataError, match=f"results.jsonl, line 2:? {says}"):
        read_records(path)


def test_a_number_beyond_all_bounds_is_none(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(memory(6)).replace(str(memory(6)["peak_mb"]), "1e999") + "\n")
    with pytest.raises(DataError, match="peak_mb must be a number, got inf"):
        read_records(path)


@pytest.mark.parametrize("content", ["", "\n\n", '{"kind": "sc'])
def test_no_results_says_run_bench(tmp_path, content):
    path = tmp_path / "results.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match="no results: run `m2d-export bench"):
        read_records(path)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_records(tmp_path / "none.jsonl")


def test_latest_of_a_key_wins_and_stands_last(tmp_path):
    first, other = score(6, 384), score(6, 384, sts="toy", label=TOY)
    again = {**first, "time": "2026-11-23T00:00:00Z", "spearman": {**first["spearman"], "cosine": 1.0}}
    assert read_records(write(tmp_path / "results.jsonl", [first, other, again])) == [other, again]


def test_failed_then_measured(tmp_path):
    good = latency(6, 1, 16)
    assert read_records(write(tmp_path / "results.jsonl", [failed(good), good])) == [good]


def edited(record, content="after the edit"):
    return {**record, "content": content}


def test_what_failed_on_an_edited_file_hides_no_result_of_before(tmp_path, caplog):
    before = [edited(agreement(layer, dim), "before") for layer in LAYERS for dim in DIMS]
    stopped = edited(failed(before[0], "interrupted"))
    found = read_records(write(tmp_path / "results.jsonl", [*before, stopped]))
    assert found == [*before, stopped]  # told of as interrupted, and all there was still counts
    assert caplog.text == ""


def test_a_failure_from_before_the_last_edit_is_history(tmp_path):
    good = edited(agreement(6, 384))
    found = read_records(write(tmp_path / "results.jsonl", [edited(failed(good), "before"), good]))
    assert found == [good]


def test_results_of_another_file_of_that_name_are_set_aside_and_counted(tmp_path, caplog):
    before = [edited(measure(6, dim), "before") for measure in (score, agreement) for dim in DIMS]
    path = write(tmp_path / "results.jsonl", [*before, edited(score(1, 384))])
    assert read_records(path) == [*before[len(DIMS) :], edited(score(1, 384))]
    (told,) = caplog.messages
    assert told.startswith(f"{path} has {len(DIMS)} results on another content of stsb, measured before its last")
    assert "give one another name" in told


def test_failed_records_are_counted_and_in_no_figure():
    found = [score(6, 384), failed(score(5, 384)), failed(latency(6, 1, 16), "interrupted")]
    assert len(unmeasured(found)) == 2
    assert [cell.cell for cell in candidates(found)] == [Cell(6, 384)]
    assert latencies(found) == []
    assert measured(found, "score") == found[:1]


def test_candidate_carries_all_that_is_known_of_a_cell(records):
    cell = find(candidates(records), 4, 256, "int8")
    timed, batch = (latency(4, size, 16, "int8", "text") for size in (1, 32))
    assert cell.setup == Setup("int8", "onnxrt", "fp32", "CPUExecutionProvider", 2)
    assert (cell.precision, cell.runtime, cell.compute) == ("int8", "onnxrt", "fp32")
    assert cell.score == true_score(4, 256, "int8")
    assert cell.interval == (cell.score - 1.6, cell.score + 1.5)
    assert cell.retention == cell.score / true_score(6, 384)  # of fp32: what int8 costs is in it
    assert cell.latency_ms == timed["p50_ms"]
    assert (cell.p99_ms, cell.calls, cell.pairs) == (timed["p99_ms"], 25, 1379)
    assert cell.sentences_per_second == batch["sentences_per_second"]
    assert cell.time == "2026-11-22T09:30:00Z"
    assert cell.peak_mb == memory(4, "int8")["peak_mb"]
    assert not cell.trained_dim
    assert not cell.trained_layer
    assert cell.bytes_per_vector == 1024
    assert cell.index_gb(1e7, 1) == 2.56


def test_full_cell_keeps_exactly_all(records):
    assert find(candidates(records), 6, 384).retention == 1.0


def test_full_score_where_the_full_cell_was_left_out():
    part = [score(layer, dim) for layer in (1, 2) for dim in (64, 128)]
    assert full_score(part, "stsb") == pytest.approx(true_score(6, 384))
    unknown = [{**record, "retention": None} for record in part]
    assert full_score(unknown, "stsb") is None
    assert all(cell.retention is None for cell in candidates(unknown))


def test_a_score_of_nothing_has_no_retention():
    flat = {**score(6, 384), "spearman": {"cosine": 0.0}, "retention": None}
    undefined = {**score(5, 384), "spearman": {"cosine": None}, "retention": None}
    assert [(c.score, c.retention) for c in candidates([flat, undefined])] == [(None, None), (0.0, None)]


def test_views_hold_the_same_cells_in_the_same_order():
    found = [*sweep(), score(6, 384, sts="toy", label=TOY)]
    one = candidates(found, View(sts="stsb", shape=Shape(1, 16, "graph")))
    other = candidates(found, View(sts="toy", shape=Shape(32, 128, "graph"), texts=None))
    assert [(c.cell, c.setup) for c in one] == [(c.cell, c.setup) for c in other]
    assert len(one) == 2 * len(LAYERS) * len(DIMS)
    assert sum(cell.score is not None for cell in other) == 1
    assert all(cell.agreement is None for cell in other)
    assert sts_labels(found) == {"stsb": "STS-B test", "toy": TOY}


def test_threads_split_candidates_and_not_their_scores():
    found = [score(6, 384), latency(6, 1, 16), {**latency(6, 1, 16), "threads": 1, "p50_ms": 9.0}]
    assert [(c.setup.threads, c.latency_ms, c.score) for c in candidates(found)] == [
        (1, 9.0, true_score(6, 384)),
        (2, latency(6, 1, 16)["p50_ms"], true_score(6, 384)),
    ]


def test_times_by_default_are_those_that_most_exits_were_timed_at(records):
    few = [latency(1, 1, 8), *(latency(layer, 8, 32) for layer in LAYERS), *(latency(layer, 8, 64) for layer in LAYERS)]
    assert view_of(few).shape == view_of(few).throughput == Shape(8, 32, "graph")
    assert shapes(few)[0] == Shape(1, 8, "graph")
    assert view_of([]) == View()


def test_latency_is_of_the_smallest_batch_throughput_of_the_largest_from_text_where_that_was_timed(records):
    view = view_of(records)
    assert (view.shape, view.throughput) == (Shape(1, 16, "text"), Shape(32, 16, "text"))
    assert view.times == "16 tokens, text to vector: latency at batch 1, throughput at batch 32"
    cell = find(candidates(records), 2, 64)
    assert cell.latency_ms == latency(2, 1, 16, scope="text")["p50_ms"]
    assert cell.sentences_per_second == latency(2, 32, 16, scope="text")["sentences_per_second"]
    only_graph = [record for record in records if record.get("scope") != "text"]
    assert view_of(only_graph).throughput == Shape(32, 16, "graph")


def test_other_times_are_taken_where_asked_for(records):
    one = view_of(records, batch_size=8)
    assert (one.shape, one.throughput) == (Shape(8, 16, "text"), Shape(8, 16, "text"))
    assert one.times == "batch 8 x 16 tokens, text to vector"
    graph = view_of(records, tokens=64, scope="graph")
    assert (graph.shape, graph.throughput) == (Shape(1, 64, "graph"), Shape(32, 64, "graph"))
    for latency_at, throughput_at in times(records):  # each can be asked for
        size = latency_at.batch_size if latency_at == throughput_at else None
        view = view_of(records, batch_size=size, tokens=latency_at.tokens, scope=latency_at.scope)
        assert (view.shape, view.throughput) == (latency_at, throughput_at)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"sts": "stsb2"}, "no scores on stsb2: there are stsb"),
        ({"texts": "t"}, "no agreement on t: there are abstracts.txt"),
        ({"collection": "nq"}, "no retrieval on nq: there are scifact"),
        ({"batch_size": 7}, "no times at batch size 7: there are 1, 8, 32"),
        ({"tokens": 7}, "no times at tokens 7: there are 16, 64, 128"),
        ({"batch_size": 1, "tokens": 128}, "no times at batch size 1, tokens 128 together: there are batch 1 x 16"),
    ],
)
def test_what_was_not_measured_cannot_be_looked_at(records, asked, says):
    with pytest.raises(DataError, match=says):
        view_of(records, **asked)


def test_the_toy_set_counts_only_where_nothing_else_was_scored():
    toy = score(6, 384, sts="toy", label=TOY)
    assert view_of([toy, score(6, 384)]).sts == "stsb"
    assert view_of([toy]).sts == "toy"
    assert view_of([toy, score(6, 384)], sts="toy").sts == "toy"


def test_the_full_cell_is_what_all_others_were_compared_with():
    assert full_cell([score(2, 64)]) == Cell(6, 384)
    assert full_cell([{**score(3, 384), "retention": 1.0, "difference": 0.0}]) == Cell(3, 384)  # a bundle of 3 layers
    assert [cell.full for cell in candidates([score(6, 384), score(2, 384)])] == [False, True]


def test_peak_memory_is_that_of_its_threads():
    found = [score(6, 384)]
    for threads, peak in ((1, 50.0), (2, 99.0)):
        found += [{**latency(6, 1, 16), "threads": threads}, {**memory(6), "threads": threads, "peak_mb": peak}]
    assert [(cell.setup.threads, cell.peak_mb) for cell in candidates(found)] == [(1, 50.0), (2, 99.0)]
    untimed = [record for record in found if record["kind"] != "latency"][:2]
    assert candidates(untimed)[0].peak_mb == 50.0


def test_providers_are_those_that_measured():
    (group,) = groups([score(6, 384), {**failed(latency(6, 1, 16)), "provider": None}])
    assert dict(facts(group))["providers"] == "CPUExecutionProvider"


def test_storage_and_cascade(records):
    kept = [item for item in stored(records, "stsb") if item.cell == Cell(6, 128) and item.setup.precision == "fp32"]
    assert [(item.storage, item.bytes_per_vector) for item in kept] == [
        ("fp32", 512),
        ("fp16", 256),
        ("int8", 128),
        ("binary", 16),
    ]
    assert kept[-1].retention == kept[-1].score / true_score(6, 384)
    passed = cascades(records)
    assert {c.deep for c in passed} == {Cell(6, 384)}
    assert len({c.cheap for c in passed}) == len(passed) == 29  # every cell but the full one


def test_bundles_and_machines_are_kept_apart():
    other = {**score(6, 384), "bundle": "b" * 64}
    elsewhere = {**score(6, 384), "machine": {**MACHINE, "cpu": "Another"}}
    upgraded = {**score(5, 384), "machine": {**MACHINE, "versions": {"onnxruntime": "1.25"}}}
    found = groups([score(6, 384), other, elsewhere, upgraded])
    assert [len(group.records) for group in found] == [2, 1, 1]
    with pytest.raises(DataError, match="pass one of groups"):
        candidates([score(6, 384), other])


def candidate(value, speed):
    setup = Setup("fp32", "onnxrt", "fp32", "CPU", 1)
    return Candidate(Cell(1, 1), setup, trained_layer=True, trained_dim=True, score=value, sentences_per_second=speed)


def test_front_against_its_definition():
    chance = random.Random(0)
    for _ in range(200):
        points = [candidate(chance.randint(0, 6), chance.randint(0, 6)) for _ in range(chance.randint(0, 12))]

        def beaten(point, points=points):
            return any(
                other.score >= point.score
                and other.sentences_per_second >= point.sentences_per_second
                and (other.score, other.sentences_per_second) != (point.score, point.sentences_per_second)
                for other in points
            )

        expected = sorted((p.score, p.sentences_per_second) for p in points if not beaten(p))
        assert [(p.score, p.sentences_per_second) for p in front(points)] == expected


def test_few_cascades_are_those_that_no_other_beats(records):
    passed = cascades(records)
    drawn = few(passed)
    assert 1 < len(drawn) <= 5
    points = [(cost, recall) for c in passed for cost, recall in zip(c.cost_ms, c.recall_at_10, strict=True)]
    for item in drawn:
        own = zip(item.cost_ms, item.recall_at_10, strict=True)
        assert any(
            not any(c <= cost and r >= recall and (c, r) != (cost, recall) for c, r in points) for cost, recall in own
        )
    assert few(drawn[:1]) == drawn[:1]


def test_front_leaves_out_what_was_not_measured():
    known = candidate(80.0, 10.0)
    assert front([candidate(None, 99.0), known, candidate(99.0, None)]) == [known]


def test_builder_has_every_kind(records):
    kinds = {record["kind"] for record in records}
    assert kinds == {"score", "agreement", "retrieval", "cascade", "storage", "latency", "memory"}
    assert common("score")["status"] == "ok"
