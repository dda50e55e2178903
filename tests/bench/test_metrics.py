"""Reading results, and the values derived from them."""

import json

import pytest

from m2d_export.bench.metrics import (
    candidates,
    cascades,
    full_cell,
    full_score,
    latencies,
)
from m2d_export.bench.records import groups, measured, read_records, unmeasured
from m2d_export.bench.values import Setup, Shape, View
from m2d_export.bench.views import shapes, sts_labels, times, view_of
from m2d_export.errors import DataError
from m2d_export.report.summary import facts
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
    return next(c for c in cells if (c.cell, c.setup.precision) == (Cell(layer, dim), precision))


def test_records_are_read_as_they_were_written(tmp_path, records):
    assert read_records(write(tmp_path / "results.jsonl", records)) == records


def test_a_half_written_last_line_is_ignored_with_a_warning(tmp_path, caplog):
    path = write(tmp_path / "results.jsonl", [score(6, 384), score(5, 384)])
    path.write_bytes(path.read_bytes()[:-40])
    assert [record["layer"] for record in read_records(path)] == [6]
    assert "line 2 is half-written and was ignored" in caplog.text


def test_a_line_that_ends_within_a_character_is_half_written(tmp_path):
    path = write(tmp_path / "results.jsonl", [score(6, 384)])
    path.write_bytes(path.read_bytes() + b'{"kind": "score", "label": "\xc3')
    assert len(read_records(path)) == 1


@pytest.mark.parametrize(
    "line",
    [
        '{"kind": "sco',
        "[1, 2]",
        '{"kind": "mood"}',
        '{"kind": "score", "dim": 3}',
        json.dumps(score(6, 384)).replace(str(true_score(6, 384)), "NaN"),
        json.dumps({**score(6, 384), "machine": "mine"}),
        json.dumps({k: v for k, v in score(6, 384).items() if k != "sts"}),
    ],
)
def test_a_broken_line_in_the_middle_is_named(tmp_path, line):
    path = tmp_path / "results.jsonl"
    path.write_text(f"{json.dumps(score(6, 384))}\n{line}\n{json.dumps(score(5, 384))}\n")
    with pytest.raises(DataError, match="line 2"):
        read_records(path)


def without(record, *names):
    return {name: value for name, value in record.items() if name not in names}


@pytest.mark.parametrize(
    ("record", "named"),
    [
        (without(score(6, 384), "spearman"), "spearman"),
        (without(score(6, 384), "architecture", "layer"), "architecture, layer"),
        ({**score(6, 384), "dim": "64"}, "dim"),
        ({**score(6, 384), "dim": True}, "dim"),
        ({**score(6, 384), "status": "okay"}, "okay"),
        ({**failed(score(6, 384)), "dim": "64"}, "dim"),
        ({**score(6, 384), "spearman": {"cosine": "high"}}, "spearman"),
        ({**score(6, 384), "spearman": {}}, "spearman"),
        ({**score(6, 384), "interval": [1.0]}, "interval"),
        ({**agreement(6, 384), "texts": None}, "texts"),
        ({**cascade((1, 64)), "cheap": [1]}, "cheap"),
        ({**cascade((1, 64)), "cost_ms": [1.0]}, "cost_ms"),
        (without(cascade((1, 64)), "deep_ms"), "deep_ms"),
        ({**latency(6, 1, 16), "p50_ms": None}, "p50_ms"),
        ({**latency(6, 1, 16), "seconds": 3}, "seconds"),
        ({**memory(6), "peak_mb": "much"}, "peak_mb"),
        ({**memory(6), "kind": []}, "kind"),
    ],
)
def test_a_record_with_a_missing_or_wrong_field_is_refused(tmp_path, record, named):
    path = write(tmp_path / "results.jsonl", [score(6, 384), record])
    with pytest.raises(DataError, match=f"line 2.*{named}"):
        read_records(path)


def test_an_infinite_number_is_refused(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(memory(6)).replace(str(memory(6)["peak_mb"]), "1e999") + "\n")
    with pytest.raises(DataError, match="peak_mb"):
        read_records(path)


@pytest.mark.parametrize("content", ["", "\n\n", '{"kind": "sc'])
def test_a_file_without_results_is_refused(tmp_path, content):
    path = tmp_path / "results.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match="m2d-export bench"):
        read_records(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl"):
        read_records(tmp_path / "none.jsonl")


def test_the_latest_record_of_a_key_counts_and_comes_last(tmp_path):
    first, other = score(6, 384), score(6, 384, sts="toy", label=TOY)
    again = {**first, "time": "2026-11-23T00:00:00Z", "spearman": {**first["spearman"], "cosine": 1.0}}
    assert read_records(write(tmp_path / "results.jsonl", [first, other, again])) == [other, again]


def test_a_measured_record_replaces_a_failed_one(tmp_path):
    good = latency(6, 1, 16)
    assert read_records(write(tmp_path / "results.jsonl", [failed(good), good])) == [good]


def edited(record, content="after the edit"):
    return {**record, "content": content}


def test_a_failure_on_an_edited_file_hides_no_earlier_result(tmp_path, caplog):
    before = [edited(agreement(layer, dim), "before") for layer in LAYERS for dim in DIMS]
    stopped = edited(failed(before[0], "interrupted"))
    found = read_records(write(tmp_path / "results.jsonl", [*before, stopped]))
    assert found == [*before, stopped]
    assert caplog.text == ""


def test_a_failure_before_the_last_edit_is_ignored(tmp_path):
    good = edited(agreement(6, 384))
    found = read_records(write(tmp_path / "results.jsonl", [edited(failed(good), "before"), good]))
    assert found == [good]


def test_results_of_another_file_of_that_name_are_counted_and_ignored(tmp_path, caplog):
    before = [edited(measure(6, dim), "before") for measure in (score, agreement) for dim in DIMS]
    path = write(tmp_path / "results.jsonl", [*before, edited(score(1, 384))])
    assert read_records(path) == [*before[len(DIMS) :], edited(score(1, 384))]
    (message,) = caplog.messages
    assert str(path) in message
    assert f"{len(DIMS)} results" in message
    assert "stsb" in message


def test_failed_records_count_as_unmeasured():
    found = [score(6, 384), failed(score(5, 384)), failed(latency(6, 1, 16), "interrupted")]
    assert len(unmeasured(found)) == 2
    assert [cell.cell for cell in candidates(found)] == [Cell(6, 384)]
    assert latencies(found) == []
    assert measured(found, "score") == found[:1]


def test_a_candidate_has_every_measured_value_of_its_cell(records):
    cell = find(candidates(records), 4, 256, "int8")
    timed, batch = (latency(4, size, 16, "int8", "text") for size in (1, 32))
    assert cell.setup == Setup("int8", "onnxrt", "fp32", "CPUExecutionProvider", 2)
    assert (cell.setup.precision, cell.setup.runtime, cell.setup.compute) == ("int8", "onnxrt", "fp32")
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


def test_the_full_cell_has_retention_1(records):
    assert find(candidates(records), 6, 384).retention == 1.0


def test_the_full_score_follows_from_other_cells():
    part = [score(layer, dim) for layer in (1, 2) for dim in (64, 128)]
    assert full_score(part, "stsb") == pytest.approx(true_score(6, 384))
    unknown = [{**record, "retention": None} for record in part]
    assert full_score(unknown, "stsb") is None
    assert all(cell.retention is None for cell in candidates(unknown))


def test_a_score_of_zero_or_none_has_no_retention():
    flat = {**score(6, 384), "spearman": {"cosine": 0.0}, "retention": None}
    undefined = {**score(5, 384), "spearman": {"cosine": None}, "retention": None}
    assert [(c.score, c.retention) for c in candidates([flat, undefined])] == [(None, None), (0.0, None)]


def test_every_view_has_the_same_cells_in_the_same_order():
    found = [*sweep(), score(6, 384, sts="toy", label=TOY)]
    one = candidates(found, View(sts="stsb", shape=Shape(1, 16, "graph")))
    other = candidates(found, View(sts="toy", shape=Shape(32, 128, "graph"), texts=None))
    assert [(c.cell, c.setup) for c in one] == [(c.cell, c.setup) for c in other]
    assert len(one) == 2 * len(LAYERS) * len(DIMS)
    assert sum(cell.score is not None for cell in other) == 1
    assert all(cell.agreement is None for cell in other)
    assert sts_labels(found) == {"stsb": "STS-B test", "toy": TOY}


def test_candidates_with_other_threads_share_their_scores():
    found = [score(6, 384), latency(6, 1, 16), {**latency(6, 1, 16), "threads": 1, "p50_ms": 9.0}]
    assert [(c.setup.threads, c.latency_ms, c.score) for c in candidates(found)] == [
        (1, 9.0, true_score(6, 384)),
        (2, latency(6, 1, 16)["p50_ms"], true_score(6, 384)),
    ]


def test_the_default_shape_is_the_one_with_most_timed_exits(records):
    few = [latency(1, 1, 8), *(latency(layer, 8, 32) for layer in LAYERS), *(latency(layer, 8, 64) for layer in LAYERS)]
    assert view_of(few).shape == view_of(few).throughput == Shape(8, 32, "graph")
    assert shapes(few)[0] == Shape(1, 8, "graph")
    assert view_of([]) == View()


def test_latency_is_of_the_smallest_batch_and_throughput_of_the_largest(records):
    view = view_of(records)
    assert (view.shape, view.throughput) == (Shape(1, 16, "text"), Shape(32, 16, "text"))
    assert view.times == "16 tokens, text to vector: latency at batch 1, throughput at batch 32"
    cell = find(candidates(records), 2, 64)
    assert cell.latency_ms == latency(2, 1, 16, scope="text")["p50_ms"]
    assert cell.sentences_per_second == latency(2, 32, 16, scope="text")["sentences_per_second"]
    only_graph = [record for record in records if record.get("scope") != "text"]
    assert view_of(only_graph).throughput == Shape(32, 16, "graph")


def test_every_pair_of_shapes_can_be_asked_for(records):
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
        ({"sts": "stsb2"}, "stsb2.* stsb"),
        ({"texts": "t"}, "abstracts.txt"),
        ({"collection": "nq"}, "nq.*scifact"),
        ({"batch_size": 7}, "7.*1, 8, 32"),
        ({"tokens": 7}, "7.*16, 64, 128"),
        ({"batch_size": 1, "tokens": 128}, "batch 1 x 16"),
    ],
)
def test_a_view_of_unmeasured_results_is_refused_with_the_measured_ones(records, asked, says):
    with pytest.raises(DataError, match=says):
        view_of(records, **asked)


def test_the_toy_set_is_the_default_only_without_other_sets():
    toy = score(6, 384, sts="toy", label=TOY)
    assert view_of([toy, score(6, 384)]).sts == "stsb"
    assert view_of([toy]).sts == "toy"
    assert view_of([toy, score(6, 384)], sts="toy").sts == "toy"


def test_the_full_cell_is_the_one_that_records_compare_with():
    assert full_cell([score(2, 64)]) == Cell(6, 384)
    assert full_cell([{**score(3, 384), "retention": 1.0, "difference": 0.0}]) == Cell(3, 384)  # a bundle of 3 layers
    assert [cell.full for cell in candidates([score(6, 384), score(2, 384)])] == [False, True]


def test_peak_memory_depends_on_threads():
    found = [score(6, 384)]
    for threads, peak in ((1, 50.0), (2, 99.0)):
        found += [{**latency(6, 1, 16), "threads": threads}, {**memory(6), "threads": threads, "peak_mb": peak}]
    assert [(cell.setup.threads, cell.peak_mb) for cell in candidates(found)] == [(1, 50.0), (2, 99.0)]
    untimed = [record for record in found if record["kind"] != "latency"][:2]
    assert candidates(untimed)[0].peak_mb == 50.0


def test_failed_records_name_no_provider():
    (group,) = groups([score(6, 384), {**failed(latency(6, 1, 16)), "provider": None}])
    assert dict(facts(group))["providers"] == "CPUExecutionProvider"


def test_storages_and_cascades_of_every_cell(records):
    stored = find(candidates(records), 6, 128).stored
    assert {name: item.bytes_per_vector for name, item in stored.items()} == {
        "fp32": 512,
        "fp16": 256,
        "int8": 128,
        "binary": 16,
    }
    assert list(stored) == ["fp32", "fp16", "int8", "binary"]  # the largest first
    assert stored["binary"].retention == stored["binary"].score / true_score(6, 384)
    passed = cascades(records)
    assert {c.deep for c in passed} == {Cell(6, 384)}
    assert len({c.cheap for c in passed}) == len(passed) == 29  # every cell but the full one


def test_bundles_and_machines_are_separate_groups():
    other = {**score(6, 384), "bundle": "b" * 64}
    elsewhere = {**score(6, 384), "machine": {**MACHINE, "cpu": "Another"}}
    upgraded = {**score(5, 384), "machine": {**MACHINE, "versions": {"onnxruntime": "1.25"}}}
    found = groups([score(6, 384), other, elsewhere, upgraded])
    assert [len(group.records) for group in found] == [2, 1, 1]
    with pytest.raises(DataError, match="pass one of groups"):
        candidates([score(6, 384), other])


def test_the_made_up_results_have_every_kind(records):
    kinds = {record["kind"] for record in records}
    assert kinds - {"index_retrieval", "index_agreement", "bm25"} == {
        "score",
        "agreement",
        "retrieval",
        "cascade",
        "storage",
        "latency",
        "memory",
    }
    assert common("score")["status"] == "ok"
