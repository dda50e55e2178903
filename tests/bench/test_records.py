"""Which records there are, what is in them, and the file that they are in."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from m2d_export import Bundle
from m2d_export.bench.cost import SCOPES
from m2d_export.bench.records import OWN_KEY, append, done, key_of, read_records
from m2d_export.bench.storage import Storage
from tests.bench.walks import CELLS, DOCUMENT, Record, of_kind


def test_there_is_a_record_for_every_cell_shape_scope_and_layer(records: list[Record]) -> None:
    cells = {kind: [(r["layer"], r["dim"]) for r in of_kind(records, kind)] for kind in ("score", "agreement")}
    assert cells == {"score": CELLS, "agreement": CELLS}
    assert [(r["layer"], r["dim"]) for r in of_kind(records, "retrieval")] == CELLS
    assert [(r["cheap"], r["deep"]) for r in of_kind(records, "cascade")] == [([k, d], [3, 64]) for k, d in CELLS[1:]]
    assert [(r["layer"], r["dim"], r["storage"]) for r in of_kind(records, "storage")] == [
        (layer, dim, storage) for layer, dim in CELLS for storage in Storage
    ]
    latencies = [(r["batch_size"], r["tokens"], r["scope"], r["layer"]) for r in of_kind(records, "latency")]
    assert latencies == [(b, t, scope, k) for b in (1, 5) for t in (3, 16) for scope in SCOPES for k in (1, 3)]
    assert [r["layer"] for r in of_kind(records, "memory")] == [1, 3]
    assert len(records) == len({key_of(record) for record in records}) == 4 + 4 + 4 + 3 + 16 + 16 + 2


def documented() -> tuple[set[str], dict[str, set[str]]]:
    """The fields of every record, and those of each kind, that the page names."""
    text = DOCUMENT.read_text(encoding="utf-8")
    common, own = text.partition("## By kind")[0], text.partition("## By kind")[2].partition("\n## ")[0]
    everywhere = {
        name for row in re.findall(r"^\| (`[^|]+)\|", common, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", own, re.MULTILINE)
    # Words in brackets explain the field before them.
    fields = {
        kind: set(re.findall(r"`(\w+)`", re.sub(r"\([^()]*(\([^()]*\)[^()]*)*\)", "", row))) for kind, row in rows
    }
    return everywhere, fields


def test_records_have_the_fields_that_the_page_names_and_no_others(records: list[Record]) -> None:
    everywhere, fields = documented()
    assert set(fields) == set(OWN_KEY) == {record["kind"] for record in records}
    for record in records:
        assert set(record) == everywhere - {"error"} | fields[record["kind"]], record["kind"]
        assert set(OWN_KEY[record["kind"]]) <= fields[record["kind"]]
        assert record["status"] == "ok"


def test_every_record_survives_the_file_unchanged(records: list[Record], tmp_path: Path) -> None:
    for record in records:
        append(tmp_path / "results.jsonl", record)
    assert read_records(tmp_path / "results.jsonl") == records
    assert done(records) == {key_of(record) for record in records}


def test_every_record_says_what_was_run_where_and_with_which_versions(
    records: list[Record], bundle: Bundle, checkpoint: Path
) -> None:
    import onnxruntime

    for record in records:
        assert record["bundle"] == bundle.id
        assert record["architecture"] == "BertModel"
        assert record["fingerprint"] == bundle.manifest.origin.fingerprint
        assert str(checkpoint) not in json.dumps(record)  # a local path is nobody else's business
        assert (record["runtime"], record["precision"], record["compute"]) == ("onnxrt", "fp32", "fp32")
        assert (record["depth"], record["width"]) == (3, 64)
        assert record["provider"] == "CPUExecutionProvider"
        assert record["threads"] == record["machine"]["cores"] >= 1
        assert record["machine"]["cpu"]
        assert record["machine"]["versions"]["onnxruntime"] == onnxruntime.__version__
        assert record["machine"]["versions"]["numpy"] == np.__version__
        assert record["command"] == "m2d-export bench tiny.m2d"
        assert record["time"].endswith("Z")


@pytest.mark.parametrize("rest", ['{"kind": "score", "sta', "{", '{"kind": "score"}'[:-1], "\x00\x00"])
def test_a_half_written_last_line_is_replaced_and_what_was_before_stays(
    records: list[Record], tmp_path: Path, caplog: pytest.LogCaptureFixture, rest: str
) -> None:
    path = tmp_path / "results.jsonl"
    for record in records[:3]:
        append(path, record)
    intact = path.read_text()
    path.write_text(intact + rest)
    assert read_records(path) == records[:3]
    assert "line 4 is half-written and was ignored" in caplog.text
    append(path, records[3])
    assert path.read_text() == intact + json.dumps(records[3]) + "\n"
    assert read_records(path) == records[:4]


def test_a_last_line_that_only_lacks_its_end_is_kept(records: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records[:2]))
    assert read_records(path) == records[:2]
    append(path, records[2])
    assert read_records(path) == records[:3]
