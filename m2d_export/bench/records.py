"""Read and append to `results.jsonl` (docs/results-format.md): one record per line; the last record of a key counts."""

import contextlib
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2d_export.bench.record_schema import HARDWARE, check_record
from m2d_export.errors import DataError, OutputError
from m2d_export.host.checks import parse_json
from m2d_export.host.files import STDOUT, followed, is_only_holder, writing

log = logging.getLogger(__name__)
Record = dict[str, Any]

COMMON_KEY = ("kind", "bundle", "layer", "precision", "runtime", "compute", "threads", "content")
OWN_KEY: Mapping[str, tuple[str, ...]] = {  # by kind, in addition to COMMON_KEY and the machine
    "score": ("dim", "sts"),
    "agreement": ("dim", "texts"),
    "retrieval": ("dim", "collection"),
    "index_retrieval": ("dim", "collection", "index"),
    "index_agreement": ("dim", "texts", "index"),
    "bm25": ("collection", "language"),
    "cascade": ("collection", "cheap", "deep"),
    "storage": ("dim", "sts", "storage"),
    "latency": ("batch_size", "tokens", "scope"),
    "memory": (),
}
# The field that names the file a record was measured on. ``content`` is a digest of that file's content.
DATA_FIELD = {
    "score": "sts",
    "storage": "sts",
    "agreement": "texts",
    "retrieval": "collection",
    "index_retrieval": "collection",
    "index_agreement": "texts",
    "bm25": "collection",
    "cascade": "collection",
}
DIGEST_LENGTH = 16


@dataclass(frozen=True)
class Group:
    """The records of one bundle on one machine; values of different groups cannot be compared."""

    bundle: str
    records: tuple[Record, ...]

    @property
    def machine(self) -> Record:
        """The machine as the latest record describes it."""
        machine: Record = self.records[-1]["machine"]
        return machine


def read_records(path: Path) -> list[Record]:
    """The latest record of every key, in the order of the file, with the failed and interrupted ones.

    If a file of pairs, texts or a collection was edited, only the records on its latest content are returned. A warning
    says how many others there are. A half-written last line is skipped with a warning. Raises DataError if any other
    line is not a record, or if there is no record.
    """
    found = _latest(path)
    if not found:
        raise DataError(f"{path} has no results: run `m2d-export bench BUNDLE -o {path.name}` first")
    current = _on_latest_content(found)
    returned = {id(record) for record in current}
    outdated = Counter(record[DATA_FIELD[record["kind"]]] for record in found if id(record) not in returned)
    for name, count in outdated.items():
        log.warning(
            "%s: %d results predate the last change of %s and are ignored. If two files share that name, rename one "
            "and measure it again",
            *(path, count, name),
        )
    return current


def read_existing(path: Path) -> list[Record]:
    """Like ``read_records``, but without warnings, and empty if there is no file or no record in it."""
    return _on_latest_content(_latest(path)) if path.exists() else []


def _latest(path: Path) -> list[Record]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. `m2d-export bench` writes it") from error
    latest: dict[str, Record] = {}
    for record in _parsed(lines, path):
        key = key_of(record)
        latest.pop(key, None)  # so that the record moves to the place where it was last measured
        latest[key] = record
    return list(latest.values())


def _on_latest_content(records: Sequence[Record]) -> list[Record]:
    """The records on the latest content of each data file; older ones cannot be compared with them.

    A failed or interrupted record has no values. So it does not make older content outdated. It is returned itself if
    nothing was measured after it.
    """
    last = {_data_of(record): (place, record.get("content")) for place, record in enumerate(records) if _is_ok(record)}
    current = []
    for place, record in enumerate(records):
        last_place, content = last.get(_data_of(record), (-1, record.get("content")))
        if record.get("content") == content or place > last_place:
            current.append(record)
    return current


def _data_of(record: Record) -> tuple[Any, ...]:
    field = DATA_FIELD.get(record["kind"], "")
    return (record["bundle"], hardware(record), field, record.get(field))


def digest(*content: Any) -> str:
    """The first 16 hexadecimal digits of the sha256 of plain values."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:DIGEST_LENGTH]


def done(records: Iterable[Record]) -> frozenset[str]:
    """The keys of the records that need not be measured again."""
    return frozenset(key_of(record) for record in records if _is_ok(record))


@contextlib.contextmanager
def recording(path: Path) -> Iterator[None]:
    """Hold a results file while measuring; raises OutputError if another process does, or if it cannot be written."""
    with contextlib.ExitStack() as stack:
        with writing(path):
            real = followed(path)
            made = not real.exists()
            if path == STDOUT or not (made or real.is_file() or real.is_dir()):
                message = f"{path} is no regular file, but bench reads its results again: give a file, and add --json"
                raise OutputError(message)
            file = stack.enter_context(real.open("ab"))
        if not is_only_holder(file.fileno()):
            message = f"another bench measures into {path}, and the two would slow each other down: wait until it ends"
            raise OutputError(message)
        try:
            yield
        finally:
            if made and not os.fstat(file.fileno()).st_size:
                real.unlink(missing_ok=True)


def append(path: Path, record: Record) -> None:
    """Add one line, which replaces a half-written last line; raises OutputError, and then nothing is added."""
    with writing(path), path.open("ab+", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        if end and file.read(1) != b"\n":
            file.seek(0)
            content = file.read()
            start = content.rfind(b"\n") + 1
            if _is_json(content[start:]):  # a reader takes it as a record: only its line end is missing
                file.write(b"\n")
            else:
                file.truncate(start)
        end, line = file.seek(0, os.SEEK_END), json.dumps(record, allow_nan=False).encode() + b"\n"
        try:
            while line:
                line = line[file.write(line) :]
        except OSError:
            file.truncate(end)
            raise


def _is_json(line: bytes) -> bool:
    try:
        parse_json(line)
    except ValueError:
        return False
    return True


def key_of(record: Mapping[str, Any]) -> str:
    """The key of a record: records with the same key measure the same thing."""
    return json.dumps([hardware(record), *(record.get(name) for name in (*COMMON_KEY, *OWN_KEY[record["kind"]]))])


def hardware(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """The machine of a record: cpu, cores, memory in GB, system, gpu."""
    return tuple(record["machine"].get(name) for name in HARDWARE)


def measured(records: Sequence[Record], kind: str | None = None) -> list[Record]:
    """The records whose measurement succeeded, of one ``kind`` or of all."""
    return [record for record in records if _is_ok(record) and kind in (None, record["kind"])]


def unmeasured(records: Sequence[Record]) -> list[Record]:
    """The failed and interrupted records; they have an error instead of values."""
    return [record for record in records if not _is_ok(record)]


def _is_ok(record: Record) -> bool:
    return bool(record["status"] == "ok")


def groups(records: Iterable[Record]) -> list[Group]:
    """The records of each bundle on each machine, in the order in which they first appear."""
    found: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        found.setdefault((record["bundle"], *hardware(record)), []).append(record)
    return [Group(members[0]["bundle"], tuple(members)) for members in found.values()]


def _parsed(lines: Sequence[bytes], path: Path) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = parse_json(line)
        except ValueError as error:
            if number == len(lines):  # no line end after it: its writer was stopped
                log.warning("%s is half-written and was ignored", where)
                return
            raise DataError(f"{where} is not JSON ({error}). Remove the line: bench measures it again") from error
        yield check_record(record, where)
