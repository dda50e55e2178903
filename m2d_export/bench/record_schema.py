"""What a record must hold for its reader: the fields of every kind and what each may be."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from m2d_export.errors import DataError

STATUSES = ("ok", "failed", "interrupted")


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _list(of: Callable[[Any], bool], length: int | None = None) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(of, value)) and length in (None, len(value))


def _or_null(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or of(value)


def _correlations(value: Any) -> bool:
    return isinstance(value, dict) and "cosine" in value and all(map(_or_null(_number), value.values()))


def _object(value: Any) -> bool:
    return isinstance(value, dict)


Form = tuple[str, Callable[[Any], bool]]  # in words, for whoever reads the error, and as a test
TEXT: Form = ("a string", _text)
FLAG: Form = ("true or false", _flag)
COUNT: Form = ("a whole number", _count)
NUMBER: Form = ("a number", _number)
PERHAPS: Form = ("a number or null", _or_null(_number))
NUMBERS: Form = ("a list of numbers", _list(_number))
CELL: Form = ("[layer, dim]", _list(_count, 2))
ENDS: Form = ("[low, high] or null", _or_null(_list(_number, 2)))
CORRELATIONS: Form = ("an object with cosine, of numbers or nulls", _correlations)
STATUS: Form = (f"one of {', '.join(STATUSES)}", lambda value: value in STATUSES)
OBJECT: Form = ("an object", _object)

# In every record; those that name a result's place may be missing where nothing was measured.
COMMON: Mapping[str, Form] = {
    "kind": TEXT,
    "status": STATUS,
    "bundle": TEXT,
    "machine": OBJECT,
    "architecture": TEXT,
    "depth": COUNT,
    "width": COUNT,
    "layer": COUNT,
    "precision": TEXT,
    "runtime": TEXT,
    "compute": TEXT,
    "provider": ("a string or null", _or_null(_text)),
    "threads": COUNT,
}
CELLS: Mapping[str, Form] = {"dim": COUNT, "trained_layer": FLAG, "trained_dim": FLAG}
# What figures are read from, by kind, in records that hold some.
OWN: Mapping[str, Mapping[str, Form]] = {
    "score": {**CELLS, "sts": TEXT, "label": TEXT, "spearman": CORRELATIONS, "pearson": CORRELATIONS},
    "agreement": {**CELLS, "texts": TEXT, "spearman": PERHAPS, "overlap_at_10": NUMBER},
    "retrieval": {**CELLS, "collection": TEXT, "ndcg_at_10": NUMBER, "recall_at_100": NUMBER},
    "cascade": {
        **{"collection": TEXT, "documents": COUNT, "cheap": CELL, "deep": CELL},
        **{"shortlist": NUMBERS, "recall_at_10": NUMBERS, "cost_ms": NUMBERS, "deep_ms": NUMBER},
    },
    "storage": {
        **{**CELLS, "sts": TEXT, "label": TEXT, "storage": TEXT},
        **{"bytes_per_vector": NUMBER, "spearman": PERHAPS},
    },
    "latency": {
        **{"batch_size": COUNT, "tokens": COUNT, "scope": TEXT, "seconds": NUMBERS},
        **dict.fromkeys(("p50_ms", "p95_ms", "p99_ms", "sentences_per_second", "spread"), NUMBER),
        "noisy": FLAG,
    },
    "memory": {"peak_mb": NUMBER},
}
# What a record may lack: an interval, say, of a score that nothing defines.
OPTIONAL: Mapping[str, Form] = {
    **{"interval": ENDS, "difference": PERHAPS, "difference_interval": ENDS, "retention": PERHAPS},
    **{"joules_per_sentence": PERHAPS, "content": TEXT, "command": TEXT, "time": TEXT, "error": TEXT},
}
ALIKE = ("shortlist", "recall_at_10", "cost_ms")  # of a cascade: one each length
REMEDY = "remove the line, bench measures it again"


def check(record: object, where: str) -> dict[str, Any]:
    """The record itself; raises DataError saying what is missing or wrong in it."""
    if not isinstance(record, dict):
        raise DataError(f"{where} is not a result: expected an object, got {type(record).__name__}")
    kind = record.get("kind")
    if not isinstance(kind, str) or kind not in OWN:
        raise DataError(f"{where}: kind {kind!r} is unknown; expected one of {', '.join(OWN)}")
    required = {**COMMON, **(OWN[kind] if record.get("status") == "ok" else {})}
    missing = [name for name in required if name not in record]
    if missing:
        raise DataError(
            f"{where} has no {', '.join(missing)}, as another version wrote it or an edit left it: {REMEDY}"
        )
    for name, (form, fits) in {**OPTIONAL, **OWN[kind], **required}.items():
        if name in record and not fits(record[name]):
            raise DataError(f"{where}: {name} must be {form}, got {_shown(record[name])}: {REMEDY}")
    _check_lengths(record, where)
    return record


def _check_lengths(record: Mapping[str, Any], where: str) -> None:
    lengths: Sequence[int] = [len(record[name]) for name in ALIKE if name in record]
    if len(set(lengths)) > 1:
        raise DataError(f"{where}: {', '.join(ALIKE)} must be of one length, got {lengths}: {REMEDY}")


def _shown(value: Any) -> str:
    return text if len(text := repr(value)) <= 60 else text[:60] + ".."
