"""Read `results.jsonl` (docs/results-format.md): one record a line, the latest of each key."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2d_export.bench.record_schema import check
from m2d_export.errors import DataError
from m2d_export.host.files import writing

log = logging.getLogger(__name__)
Record = dict[str, Any]

# What tells two records of a kind apart, besides what ``key_of`` takes of all of them.
OWN_KEY: Mapping[str, tuple[str, ...]] = {
    "score": ("dim", "sts"),
    "agreement": ("dim", "texts"),
    "retrieval": ("dim", "collection"),
    "cascade": ("collection", "cheap", "deep"),
    "storage": ("dim", "sts", "storage"),
    "latency": ("batch_size", "tokens", "scope"),
    "memory": (),
}
# The field that names what was measured on: a file's name, and ``content`` tells an edited file from what it was.
MEASURED_ON = {
    "score": "sts",
    "storage": "sts",
    "agreement": "texts",
    "retrieval": "collection",
    "cascade": "collection",
}
DIGEST_LENGTH = 16
# Versions are not among them: a package upgraded half-way is said in the report, another computer is kept apart.
HARDWARE = ("cpu", "cores", "memory_gb", "system", "gpu")


@dataclass(frozen=True)
class Group:
    """The records of one bundle on one machine; figures of two groups do not compare."""

    bundle: str
    records: tuple[Record, ...]

    @property
    def machine(self) -> Record:
        """The machine as the latest record describes it."""
        machine: Record = self.records[-1]["machine"]
        return machine


def read_records(path: Path) -> list[Record]:
    """The latest record of every key, in the order of the file, failed and interrupted ones included.

    Of a set of pairs, texts or a collection that was edited, only records on the content that was measured last
    count; how many are set aside is warned of, as is a half-written last line. Raises DataError naming any other
    line that is not a record, and where there is no record at all.
    """
    found = _latest(path)
    if not found:
        raise DataError(f"{path} has no results: run `m2d-export bench BUNDLE -o {path.name}` first")
    kept = _on_last_content(found)
    last = {id(record) for record in kept}
    aside = Counter(record[MEASURED_ON[record["kind"]]] for record in found if id(record) not in last)
    for name, count in aside.items():
        log.warning(
            "%s has %d results on another content of %s, measured before its last: they are set aside. "
            "Where these are two files, give one another name and measure it again",
            *(path, count, name),
        )
    return kept


def existing(path: Path) -> list[Record]:
    """As ``read_records``, but quiet, and nothing where there is no file yet, or no record in it."""
    return _on_last_content(_latest(path)) if path.exists() else []


def _latest(path: Path) -> list[Record]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. `m2d-export bench` writes it") from error
    latest: dict[str, Record] = {}
    for record in _parsed(lines, path):
        key = key_of(record)
        latest.pop(key, None)  # so that the record stands where it was last measured
        latest[key] = record
    return list(latest.values())


def _on_last_content(records: Sequence[Record]) -> list[Record]:
    """Those on the content that their set was measured on last: figures from before and after an edit do not compare.

    What failed or was interrupted has no figures: it sets nothing aside, and stays to be told of after the last edit.
    """
    last = {_set_of(record): (place, record.get("content")) for place, record in enumerate(records) if _is_ok(record)}
    kept = []
    for place, record in enumerate(records):
        since, content = last.get(_set_of(record), (-1, record.get("content")))
        if record.get("content") == content or place > since:
            kept.append(record)
    return kept


def _set_of(record: Record) -> tuple[Any, ...]:
    field = MEASURED_ON.get(record["kind"], "")
    return (record["bundle"], hardware(record), field, record.get(field))


def digest(*content: Any) -> str:
    """The beginning of the sha256 of plain values: enough to tell a file from what it was before an edit."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:DIGEST_LENGTH]


def done(records: Iterable[Record]) -> frozenset[str]:
    """The keys of what need not be measured again."""
    return frozenset(key_of(record) for record in records if _is_ok(record))


def append(path: Path, record: Record) -> None:
    """Add one line, in place of a half-written last one if there is such; raises OutputError."""
    with writing(path), path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        if end and file.read(1) != b"\n":
            file.seek(0)
            content = file.read()
            start = content.rfind(b"\n") + 1
            if _is_whole(content[start:]):  # a reader counts it, so it stays: only its line end is missing
                file.write(b"\n")
            else:
                file.truncate(start)
        file.write(json.dumps(record, allow_nan=False).encode() + b"\n")


def _is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def key_of(record: Mapping[str, Any]) -> str:
    """What a record is a measurement of: two records with one key measure the same thing."""
    names = ("kind", "bundle", "layer", "precision", "runtime", "compute", "threads", "content")
    own = OWN_KEY[record["kind"]]
    return json.dumps([hardware(record), *(record.get(name) for name in (*names, *own))])


def hardware(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """The computer a record was measured on: cpu, cores, memory in GB, system."""
    return tuple(record["machine"].get(name) for name in HARDWARE)


def measured(records: Sequence[Record], kind: str | None = None) -> list[Record]:
    """The records that hold figures, of one ``kind`` or of all."""
    return [record for record in records if _is_ok(record) and kind in (None, record["kind"])]


def unmeasured(records: Sequence[Record]) -> list[Record]:
    """The failed and interrupted records: they hold an error instead of figures."""
    return [record for record in records if not _is_ok(record)]


def _is_ok(record: Record) -> bool:
    return bool(record["status"] == "ok")


def groups(records: Iterable[Record]) -> list[Group]:
    """The records of each bundle on each machine, in the order in which they first appear."""
    kept: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        kept.setdefault((record["bundle"], *hardware(record)), []).append(record)
    return [Group(members[0]["bundle"], tuple(members)) for members in kept.values()]


def _parsed(lines: Sequence[bytes], path: Path) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line, parse_constant=_not_a_number)
        except ValueError as error:
            if number == len(lines):  # no newline after it: its writer was stopped
                log.warning("%s is half-written and was ignored", where)
                return
            raise DataError(f"{where} is not a result ({error}): remove the line, bench measures it again") from error
        yield check(record, where)


def _not_a_number(constant: str) -> None:
    raise ValueError(f"{constant} is not a figure")
