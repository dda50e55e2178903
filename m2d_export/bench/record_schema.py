"""The fields of every kind of record (docs/results-format.md), and the check that a record has them."""

from collections.abc import Mapping
from typing import Any

from m2d_export.errors import DataError
from m2d_export.host.checks import (
    Check,
    check_format,
    check_that,
    flag,
    list_of,
    number,
    object_of,
    one_of,
    or_null,
    string,
    whole,
)

Fields = Mapping[str, Check[Any]]
FORMAT = 1
REMEDY = "Remove the line: bench measures it again"
# Fields of a machine. Package versions are not among them, so results before and after an upgrade stay together.
HARDWARE = ("cpu", "cores", "memory_gb", "system", "gpu")


def _has_plain_hardware(machine: object) -> bool:
    return isinstance(machine, dict) and not any(isinstance(machine.get(name), list | dict) for name in HARDWARE)


# Fields of every record, also if nothing was measured.
COMMON: Fields = {
    "kind": string,
    "status": one_of("ok", "failed", "interrupted"),
    "machine": check_that(_has_plain_hardware, f"an object, in which {', '.join(HARDWARE)} are words or numbers"),
    **dict.fromkeys(("bundle", "architecture", "precision", "runtime", "compute"), string),
    **dict.fromkeys(("depth", "width", "layer", "threads"), whole),
    "provider": or_null(string),
}
CELL: Fields = {"dim": whole, "trained_layer": flag, "trained_dim": flag}
INDEX: Fields = {"index": string, "index_name": string, "index_cell": list_of(whole, 2)}
CORRELATIONS = object_of(or_null(number), "cosine")
# More fields of each kind of record, if its status is ok.
MEASURED: Mapping[str, Fields] = {
    "score": {**CELL, "sts": string, "label": string, "spearman": CORRELATIONS, "pearson": CORRELATIONS},
    "agreement": {**CELL, "texts": string, "spearman": or_null(number), "overlap_at_10": number},
    "retrieval": {**CELL, "collection": string, "ndcg_at_10": number, "recall_at_100": number},
    "index_retrieval": {
        **CELL,
        **INDEX,
        "collection": string,
        **dict.fromkeys(("ndcg_at_10", "recall_at_100", "own_ndcg_at_10"), number),
        "share": or_null(number),
    },
    "index_agreement": {**CELL, **INDEX, "texts": string, "overlap_at_10": number},
    "bm25": {"collection": string, "language": string, "ndcg_at_10": number, "recall_at_100": number},
    "cascade": {
        "collection": string,
        "documents": whole,
        **dict.fromkeys(("cheap", "deep"), list_of(whole, 2)),
        **dict.fromkeys(("shortlist", "recall_at_10", "cost_ms"), list_of(number)),
        "deep_ms": number,
    },
    "storage": {
        **CELL,
        **dict.fromkeys(("sts", "label", "storage"), string),
        "bytes_per_vector": number,
        "spearman": or_null(number),
    },
    "latency": {
        "batch_size": whole,
        "tokens": whole,
        "scope": string,
        "seconds": list_of(number),
        **dict.fromkeys(("p50_ms", "p95_ms", "p99_ms", "sentences_per_second", "spread"), number),
        "noisy": flag,
    },
    "memory": {"peak_mb": number},
}
# A record may lack these. Fields that are in no table here are not read.
OPTIONAL: Fields = {
    **dict.fromkeys(("difference", "retention"), or_null(number)),
    **dict.fromkeys(("interval", "difference_interval"), or_null(list_of(number, 2))),
    **dict.fromkeys(("content", "command", "time", "error"), string),
    **dict.fromkeys(("query_prompt", "document_prompt"), or_null(string)),
}
ONE_PER_LENGTH = ("shortlist", "recall_at_10", "cost_ms")  # fields of a cascade


def check_record(record: object, where: str) -> dict[str, Any]:
    """Return ``record`` after a check; ``where`` is its place, for errors. Raises DataError that names a field."""
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected an object, got {type(record).__name__}. {REMEDY}")
    try:
        check_format(record.get("format", FORMAT), FORMAT)  # the first records had no format
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    kind = record.get("kind")
    if not isinstance(kind, str) or kind not in MEASURED:
        expected = ", ".join(MEASURED)
        raise DataError(
            f"{where}: kind {kind!r} is unknown, expected one of {expected}: choose a file that bench wrote"
        )
    required = {**COMMON, **(MEASURED[kind] if record.get("status") == "ok" else {})}
    missing = [name for name in required if name not in record]
    if missing:
        raise DataError(f"{where}: {', '.join(missing)} missing. {REMEDY}")
    for name, check in {**OPTIONAL, **MEASURED[kind], **required}.items():
        if name in record:
            try:
                check(record[name])
            except ValueError as error:
                raise DataError(f"{where}: {name}: {error}. {REMEDY}") from error
    lengths = [len(record[name]) for name in ONE_PER_LENGTH if name in record]
    if len(set(lengths)) > 1:
        raise DataError(f"{where}: {', '.join(ONE_PER_LENGTH)} must have one length, got {lengths}. {REMEDY}")
    return record
