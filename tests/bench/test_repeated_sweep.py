"""What a second sweep measures, and what remains of one that was interrupted or that failed."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from m2d_export import Bundle
from m2d_export.bench.quality import Measure
from m2d_export.bench.records import append, done, key_of, read_records
from m2d_export.bench.sweep import Sweep
from m2d_export.errors import RuntimeUnavailable
from tests.bench.sweeps import MATRIX, TEXTS, TWO_RUNTIMES, Record, Recorder, of_kind

pytestmark = pytest.mark.slow


def test_a_second_sweep_measures_nothing_and_a_fresh_one_everything(sweep: Sweep, recorder: Recorder) -> None:
    first = list(sweep.records())
    recorder.calls.clear()
    assert list(replace(sweep, done=done(first)).records()) == []
    assert recorder.calls == []
    again = list(sweep.records())  # nothing is done, as with --fresh
    assert [key_of(record) for record in again] == [key_of(record) for record in first]


def test_a_sweep_adds_only_missing_records(sweep: Sweep) -> None:
    whole = list(sweep.records())
    for kept in (whole[::2], whole[1::3], of_kind(whole, "score")):
        missing = {key_of(record) for record in whole} - done(kept)
        added = list(replace(sweep, done=done(kept)).records())
        assert {key_of(record) for record in added} == missing
        assert len(added) == len(missing)


EDITS: dict[str, tuple[set[str], Callable[[Measure], Measure]]] = {
    "pairs": (
        {"score", "storage"},
        lambda part: replace(part, pairs=replace(part.pairs, scores=part.pairs.scores[::-1])),  # type: ignore[attr-defined]
    ),
    "texts": ({"agreement"}, lambda part: replace(part, own=(*TEXTS[1:], "another text"))),
    "collection": (
        {"retrieval", "cascade"},
        lambda part: replace(part, collection=replace(part.collection, grades=part.collection.grades[::-1])),  # type: ignore[attr-defined]
    ),
}


@pytest.mark.parametrize("edited", EDITS)
def test_an_edited_file_is_measured_again_and_its_old_records_do_not_count(
    sweep: Sweep, tmp_path: Path, edited: str
) -> None:
    path = tmp_path / "results.jsonl"
    kinds, edit = EDITS[edited]
    before = list(sweep.records())
    parts = list(sweep.measures)
    parts[list(EDITS).index(edited)] = edit(parts[list(EDITS).index(edited)])
    after = list(replace(sweep, measures=tuple(parts), done=done(before)).records())
    assert {record["kind"] for record in after} == kinds
    assert len(after) == sum(record["kind"] in kinds for record in before)
    for record in [*before, after[0]]:
        append(path, record)
    kept = [key_of(record) for record in read_records(path) if kinds & {record["kind"]}]
    assert kept == [key_of(after[0])]  # no old one, although no other cell was measured again


def test_records_say_which_layers_were_trained(sweep: Sweep, bundle: Bundle) -> None:
    plain = replace(bundle, manifest=replace(bundle.manifest, trained_layers=(3,)))
    for record in replace(sweep, bundle=plain).records():
        if "dim" in record:
            assert record["trained_layer"] == (record["layer"] == 3)


def test_a_larger_matrix_adds_only_its_new_cells(sweep: Sweep) -> None:
    before = done(list(sweep.records()))
    added = list(replace(sweep, matrix=replace(MATRIX, dims=(64, 32, 7)), done=before).records())
    assert {record["kind"] for record in added} == {"score", "storage", "agreement", "retrieval", "cascade"}
    assert {record["dim"] for record in added if "dim" in record} == {32}


@pytest.mark.parametrize("share", [0.3, 0.5, 0.75, 0.99])
def test_an_interrupted_sweep_records_it_and_the_next_one_completes_it(
    sweep: Sweep, recorder: Recorder, tmp_path: Path, share: float
) -> None:
    path = tmp_path / "results.jsonl"
    whole = {key_of(record) for record in sweep.records()}
    last = int(len(recorder.calls) * share)
    recorder.calls.clear()

    def stop(layer: int) -> None:
        if len(recorder.calls) == last:
            raise KeyboardInterrupt

    recorder.before = stop

    def run(sweep: Sweep) -> None:
        for record in sweep.records():
            append(path, record)

    with pytest.raises(KeyboardInterrupt):
        run(sweep)
    assert recorder.open == []
    stopped = read_records(path)
    cut = [record for record in stopped if record["status"] == "interrupted"]
    assert cut
    assert all(record["error"] == "interrupted" and record["provider"] is None for record in cut)
    assert 0 < len(done(stopped)) < len(whole)

    recorder.before = lambda layer: None
    lines = path.read_text()
    run(replace(sweep, done=done(stopped)))
    assert path.read_text().startswith(lines)
    completed = read_records(path)
    assert {record["status"] for record in completed} == {"ok"}
    assert {key_of(record) for record in completed} == whole
    assert len(path.read_text().splitlines()) == len(whole) + len(cut)


@pytest.mark.parametrize(
    "error",
    [RuntimeUnavailable("no room on device"), RuntimeUnavailable("/home/me/a.m2d: no room"), MemoryError()],
)
def test_a_failure_is_recorded_and_the_others_go_on(sweep: Sweep, recorder: Recorder, error: Exception) -> None:
    def fail(layer: int) -> None:
        if layer == 1:
            raise error

    whole = {key_of(record) for record in sweep.records()}
    recorder.before = fail
    found = list(sweep.records())
    assert {key_of(record) for record in found} == whole
    for record in found:
        # The calls of a shape take turns, so that a failure of one leaves no times of the others.
        failed = record["layer"] == 1 or record["kind"] == "latency"
        assert record["status"] == ("failed" if failed else "ok")
        if failed:
            assert record["error"] == (str(error).replace("/home/me/", "") or "MemoryError")
            assert not {"spearman", "seconds", "peak_mb", "ndcg_at_10"} & set(record)
            assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert recorder.open == []


def cells_of(records: Sequence[Record], status: str) -> set[tuple[str, int, str]]:
    return {(r["runtime"], r["layer"], r["kind"]) for r in records if r["status"] == status}


def test_if_an_exit_cannot_be_opened_only_its_records_fail(sweep: Sweep, recorder: Recorder) -> None:
    whole = {key_of(record) for record in sweep.records()}
    recorder.broken = {("onnxrt", 1)}
    found = list(sweep.records())
    assert {key_of(record) for record in found} == whole
    assert len(found) == len(whole)
    opened = {"score", "storage", "agreement", "retrieval", "cascade", "latency"}
    assert cells_of(found, "failed") == {("onnxrt", 1, kind) for kind in opened}
    assert cells_of(found, "ok") == {("onnxrt", 3, kind) for kind in opened | {"memory"}} | {("onnxrt", 1, "memory")}
    for record in found:
        if record["status"] == "failed":
            assert (record["error"], record["provider"]) == ("onnxrt cannot load layer 1", None)
    recorder.broken = set()
    again = list(replace(sweep, done=done(found)).records())
    assert {key_of(record) for record in again} == whole - done(found)


def test_without_its_full_cell_a_setup_has_no_quality_and_the_others_go_on(sweep: Sweep, recorder: Recorder) -> None:
    changed = replace(sweep, matrix=TWO_RUNTIMES)
    whole = {key_of(record) for record in changed.records()}
    recorder.broken = {("pytorch", 3)}
    found = list(changed.records())
    assert {key_of(record) for record in found} == whole
    assert {cell for cell in cells_of(found, "failed") if cell[1] == 1} == {
        ("pytorch", 1, kind) for kind in ("score", "storage", "agreement", "retrieval", "cascade")
    }
    assert not {cell for cell in cells_of(found, "failed") if cell[0] == "onnxrt"}
    assert ("pytorch", 1, "latency") in cells_of(found, "ok")
    assert recorder.open == []


def test_an_unexpected_exception_stops_the_sweep(sweep: Sweep, recorder: Recorder) -> None:
    def fail(layer: int) -> None:
        raise AssertionError

    recorder.before = fail
    with pytest.raises(AssertionError):
        list(sweep.records())


def test_a_missing_scipy_is_one_error_and_not_one_for_every_layer(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(RuntimeUnavailable, match=r"m2d-export\[bench\]"):
        next(sweep.records())
