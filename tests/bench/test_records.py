"""The records of a sweep, their fields, and the file that holds them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from m2d_export import Bundle
from m2d_export.bench.cost import SCOPES
from m2d_export.bench.record_schema import COMMON, MEASURED, OPTIONAL
from m2d_export.bench.records import OWN_KEY, append, done, key_of, read_records
from m2d_export.bench.storage import Storage
from m2d_export.errors import DataError
from tests.bench.sweeps import CELLS, DOCUMENT, Record, of_kind


def test_there_is_a_record_for_every_cell_shape_scope_and_layer(records: list[Record]) -> None:
    cells = {kind: [(r["layer"], r["dim"]) for r in of_kind(records, kind)] for kind in ("score", "agreement")}
    assert cells == {"score": CELLS, "agreement": CELLS}
    for kind in ("retrieval", "index_retrieval", "index_agreement"):
        assert [(r["layer"], r["dim"]) for r in of_kind(records, kind)] == CELLS
    assert len(of_kind(records, "bm25")) == 1
    assert [(r["cheap"], r["deep"]) for r in of_kind(records, "cascade")] == [([k, d], [3, 64]) for k, d in CELLS[1:]]
    assert [(r["layer"], r["dim"], r["storage"]) for r in of_kind(records, "storage")] == [
        (layer, dim, storage) for layer, dim in CELLS for storage in Storage
    ]
    latencies = [(r["batch_size"], r["tokens"], r["scope"], r["layer"]) for r in of_kind(records, "latency")]
    assert latencies == [(b, t, scope, k) for b in (1, 5) for t in (3, 16) for scope in SCOPES for k in (1, 3)]
    assert [r["layer"] for r in of_kind(records, "memory")] == [1, 3]
    assert len(records) == len({key_of(record) for record in records}) == 5 * 4 + 1 + 3 + 16 + 16 + 2


def documented() -> tuple[set[str], dict[str, set[str]], dict[str, set[str]]]:
    """The fields that docs/results-format.md names: of every record, of each kind, and of each kind's key."""

    def names(section: str) -> set[str]:
        rows = re.findall(r"^\| (`[^|]+)\|", section, re.MULTILINE)
        return {name for row in rows for name in re.findall(r"`(\w+)`", row)}

    text = DOCUMENT.read_text(encoding="utf-8")
    common, _, rest = text.partition("## By kind")
    own, _, keys = rest.partition("\n## ")
    kinds = {section.partition("`")[0]: names(section) for section in own.split("\n### `")[1:]}
    key_rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", keys, re.MULTILINE)
    return names(common), kinds, {kind: set(re.findall(r"`(\w+)`", row)) for kind, row in key_rows}


def test_records_have_exactly_the_fields_that_the_page_names(records: list[Record]) -> None:
    common, kinds, _ = documented()
    assert set(kinds) == {record["kind"] for record in records}
    for record in records:
        assert set(record) == common - {"error"} | kinds[record["kind"]], record["kind"]
        assert record["status"] == "ok"


def test_the_page_names_every_field_that_the_reader_checks() -> None:
    common, kinds, _ = documented()
    assert set(COMMON) <= common
    assert set(MEASURED) == set(kinds)
    assert all(set(fields) <= kinds[kind] for kind, fields in MEASURED.items())
    assert set(OPTIONAL) <= common.union(*kinds.values())


def test_the_page_names_the_key_of_every_kind() -> None:
    assert documented()[2] == {kind: set(fields) for kind, fields in OWN_KEY.items()}


def test_records_are_read_as_they_were_written(records: list[Record], tmp_path: Path) -> None:
    for record in records:
        append(tmp_path / "results.jsonl", record)
    assert read_records(tmp_path / "results.jsonl") == records
    assert done(records) == {key_of(record) for record in records}


def test_every_record_has_its_bundle_setup_machine_and_versions(
    records: list[Record], bundle: Bundle, checkpoint: Path
) -> None:
    import onnxruntime

    for record in records:
        assert record["bundle"] == bundle.id
        assert record["architecture"] == "BertModel"
        assert record["fingerprint"] == bundle.manifest.origin.fingerprint
        assert str(checkpoint) not in json.dumps(record)  # a local path is private
        library, threads = ("onnxrt", record["machine"]["cores"]) if record["kind"] != "bm25" else ("bm25s", 1)
        assert (record["runtime"], record["precision"], record["compute"]) == (library, "fp32", "fp32")
        assert (record["depth"], record["width"]) == (3, 64)
        assert record["provider"] == ("CPUExecutionProvider" if library == "onnxrt" else library)
        assert record["threads"] == threads >= 1
        assert record["machine"]["cpu"]
        assert record["machine"]["versions"]["onnxruntime"] == onnxruntime.__version__
        assert record["machine"]["versions"]["numpy"] == np.__version__
        assert record["command"] == "m2d-export bench tiny.m2d"
        assert record["time"].endswith("Z")


@pytest.mark.parametrize("rest", ['{"kind": "score", "sta', "{", '{"kind": "score"}'[:-1], "\x00\x00"])
def test_a_half_written_last_line_is_replaced_and_the_others_stay(
    records: list[Record], tmp_path: Path, caplog: pytest.LogCaptureFixture, rest: str
) -> None:
    path = tmp_path / "results.jsonl"
    for record in records[:3]:
        append(path, record)
    intact = path.read_text()
    path.write_text(intact + rest)
    assert read_records(path) == records[:3]
    assert "line 4" in caplog.text
    append(path, records[3])
    assert path.read_text() == intact + json.dumps(records[3]) + "\n"
    assert read_records(path) == records[:4]


def test_a_complete_last_line_without_line_end_is_kept(records: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records[:2]))
    assert read_records(path) == records[:2]
    append(path, records[2])
    assert read_records(path) == records[:3]


@pytest.mark.parametrize("line", ['{"kind": "score", "kind": "memory"}', "[" * 100_000, '{"kind": NaN}'])
def test_a_line_that_is_not_strict_json_is_refused(records: list[Record], tmp_path: Path, line: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(f"{json.dumps(records[0])}\n{line}\n")
    with pytest.raises(DataError, match="line 2"):
        read_records(path)


def test_a_record_of_a_newer_format_says_to_update(records: list[Record], tmp_path: Path) -> None:
    append(tmp_path / "results.jsonl", {**records[0], "format": 2})
    with pytest.raises(DataError, match="update m2d-export"):
        read_records(tmp_path / "results.jsonl")


def test_an_unknown_field_is_ignored(records: list[Record], tmp_path: Path) -> None:
    append(tmp_path / "results.jsonl", {**records[0], "joules_per_sentence": "none"})
    assert key_of(read_records(tmp_path / "results.jsonl")[0]) == key_of(records[0])


@pytest.mark.parametrize("before", ["", "half"], ids=["whole lines", "a half line"])
def test_a_record_that_does_not_fit_on_the_disk_leaves_no_part_of_its_line(tmp_path: Path, before: str) -> None:
    path = tmp_path / "results.jsonl"
    append(path, {"kind": "score"})
    whole = path.read_text()
    path.write_text(whole + before)
    script = (
        "import resource, signal, sys; from pathlib import Path; from m2d_export.bench.records import append;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (30, 30));"
        "append(Path(sys.argv[1]), {'kind': 'x' * 100})"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert "DiskFullError" in done.stderr
    assert path.read_text() == whole
