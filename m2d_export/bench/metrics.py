"""Compute every value that the terminal, the report and ``select`` show. The values are computed from records."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from m2d_export.bench.records import DATA_FIELD, Record, groups, measured
from m2d_export.bench.values import Candidate, Cascade, Interval, Setup, Shape, StoredScore, Timing, View
from m2d_export.bench.views import bm25_record, shape_of, view_of
from m2d_export.errors import DataError
from m2d_export.precisions import PRECISIONS
from m2d_export.spec import Cell

Place = tuple[Setup, Cell]  # the key of values that do not depend on threads; the setup is without them
MOST_AGREEMENT = 100.0  # the full cell agrees with itself
EXACTNESS = {str(precision): place for place, precision in enumerate(PRECISIONS)}


def full_cell(records: Sequence[Record]) -> Cell | None:
    """The cell that all others are compared with: the deepest exit of the bundle with all dims.

    A bundle may leave out the deepest layers of its checkpoint. A record that compares cells says which cell is full.
    """
    for record in measured(records, "cascade"):
        return Cell(*record["deep"])
    for record in measured(records, "score"):
        if record["dim"] == record.get("width") and record.get("retention") == 1 and record["difference"] == 0:
            return Cell(record["layer"], record["dim"])
    return next((Cell(record["depth"], record["width"]) for record in records if "depth" in record), None)


def full_record(records: Sequence[Record], sts: str | None) -> Record | None:
    """The record of the deepest, widest cell in the most exact setup.

    Retention is a score divided by the score of this record.
    """
    scores = [record for record in measured(records, "score") if record["sts"] == sts]
    return max(
        (record for record in scores if record["spearman"]["cosine"] is not None),
        key=lambda record: (*(-place for place in _exactness_of(record)), _cell(record)),
        default=None,
    )


def full_score(records: Sequence[Record], sts: str | None) -> float | None:
    """The score of the full cell. If no record has it, it is computed from another cell's score and retention.

    If ``full_record`` has no retention, but its cell has all dims, this cell counts as the full cell. If its cell has
    fewer dims, the result is None.
    """
    record = full_record(records, sts)
    if record is None or (record.get("retention") is None and record["dim"] != record["width"]):
        return None
    score: float = record["spearman"]["cosine"] / (record.get("retention") or 1.0)
    return score


def full_ndcg(records: Sequence[Record], collection: str | None) -> float | None:
    """The nDCG@10 x 100 of the full cell in the most exact setup; None if nobody searched with this cell."""
    full = full_cell(records)
    searched = [record for record in measured(records, "retrieval") if record["collection"] == collection]
    exact = min((record for record in searched if _cell(record) == full), key=_exactness_of, default=None)
    return float(exact["ndcg_at_10"]) if exact else None


def index_ndcg(records: Sequence[Record], view: View) -> float | None:
    """The nDCG@10 x 100 of the own queries of the view's index, at the largest dim; None if there is no such index."""
    searched = [record for record in measured(records, "index_retrieval") if record["index"] == view.index]
    widest = max(
        (record for record in searched if record["collection"] == view.collection),
        key=lambda record: record["dim"],
        default=None,
    )
    return float(widest["own_ndcg_at_10"]) if widest else None


def candidates(records: Sequence[Record], view: View | None = None) -> list[Candidate]:
    """Every cell in every setup, with the values of ``view``; by default ``view_of`` chooses the view.

    Every view has the same cells in the same order: by setup (the most exact first), layer, dim. Raises DataError if
    ``records`` are of several bundles or machines; ``groups`` separates them.
    """
    if len(groups(records)) > 1:
        raise DataError("results of several bundles or machines are never compared: pass one of groups(records)")
    view, full = view or view_of(records), full_cell(records)
    timings = {(timing.setup, timing.layer, timing.shape): timing for timing in latencies(records)}
    timed: dict[Setup, dict[Setup, None]] = {}
    for setup, _, _ in timings:
        timed.setdefault(setup.untimed, {})[setup] = None

    def at(setup: Setup, layer: int, shape: Shape | None) -> Timing | None:
        return timings.get((setup, layer, shape)) if shape else None

    peaks: dict[tuple[Setup, int], float] = {}
    for record in measured(records, "memory"):
        setup = _setup(record)
        peaks[setup, record["layer"]] = peaks[setup.untimed, record["layer"]] = record["peak_mb"]
    found = [
        Candidate(
            cell,
            setup,
            full=cell == full,
            peak_mb=peaks.get((setup, cell.layer)),
            **quality,
            **_time_values(at(setup, cell.layer, view.shape), at(setup, cell.layer, view.throughput)),
        )
        for (untimed, cell), quality in _quality_values(records, view).items()
        for setup in timed.get(untimed, [untimed])
    ]
    return sorted(found, key=lambda candidate: (_order(candidate.setup), candidate.cell))


def latencies(records: Sequence[Record]) -> list[Timing]:
    """Every timed shape of every exit, by setup, layer and shape."""
    names = ("layer", "p95_ms", "p99_ms", "sentences_per_second", "spread", "noisy")
    found = [
        Timing(
            setup=_setup(record),
            shape=shape_of(record),
            latency_ms=record["p50_ms"],
            calls=len(record["seconds"]),
            **{name: record[name] for name in names},
        )
        for record in measured(records, "latency")
    ]
    return sorted(found, key=lambda timing: (_order(timing.setup), timing.layer, timing.shape))


def cascades(records: Sequence[Record]) -> list[Cascade]:
    """Every pair of a cheap and a deep cell, by collection."""
    found = [
        Cascade(
            cheap=Cell(*record["cheap"]),
            deep=Cell(*record["deep"]),
            setup=_setup(record),
            collection=record["collection"],
            documents=record["documents"],
            deep_ms=record["deep_ms"],
            **{name: tuple(record[name]) for name in ("shortlist", "recall_at_10", "cost_ms")},
        )
        for record in measured(records, "cascade")
    ]
    return sorted(found, key=lambda item: (item.collection, _order(item.setup), item.deep, item.cheap))


def _quality_values(records: Sequence[Record], view: View) -> dict[Place, dict[str, Any]]:
    """The quality of every cell in every setup; cells without values in ``view`` are included."""
    score, ndcg = full_score(records, view.sts), full_ndcg(records, view.collection)
    makers: Mapping[str, Callable[[Record], dict[str, Any]]] = {
        "score": partial(_score_values, full=score),
        "agreement": _agreement_values,
        "retrieval": partial(_retrieval_values, full=ndcg),
        "storage": partial(_stored_values, full=score),
        "index_retrieval": _index_values,
        "index_agreement": _neighbour_values,
    }
    bm25 = bm25_record(records, view.collection)
    empty: dict[str, Any] = {"stored": {}, "time": None, "bm25": bm25["ndcg_at_10"] if bm25 else None}
    found: dict[Place, dict[str, Any]] = {}
    for kind, make in makers.items():
        # Storages are listed from the largest to the smallest; the other kinds keep their order.
        for record in sorted(measured(records, kind), key=lambda record: -record.get("bytes_per_vector", 0)):
            own = found.setdefault((_setup(record).untimed, _cell(record)), {**empty})
            own |= {name: record[name] for name in ("trained_layer", "trained_dim")}
            is_shown = record[DATA_FIELD[kind]] == getattr(view, DATA_FIELD[kind])
            if is_shown and record.get("index") in (None, view.index):
                values = make(record)
                stored = own["stored"] | values.pop("stored", {})
                own |= {**values, "stored": stored, "time": max(own["time"] or "", record.get("time") or "") or None}
    return found


def _score_values(record: Record, full: float | None) -> dict[str, Any]:
    value = record["spearman"]["cosine"]
    return {
        "score": value,
        "retention": _share(value, full),
        "interval": _interval(record.get("interval")),
        "difference": record.get("difference"),
        "difference_interval": _interval(record.get("difference_interval")),
        "spearman": record["spearman"],
        "pearson": record["pearson"],
        "pairs": record.get("pairs"),
    }


def _agreement_values(record: Record) -> dict[str, Any]:
    value = record["spearman"]
    retention = _share(value, MOST_AGREEMENT)
    return {"agreement": value, "agreement_retention": retention, "overlap_at_10": record["overlap_at_10"]}


def _retrieval_values(record: Record, full: float | None) -> dict[str, Any]:
    value = record["ndcg_at_10"]
    return {"ndcg": value, "ndcg_retention": _share(value, full), "recall_at_100": record["recall_at_100"]}


def _index_values(record: Record) -> dict[str, Any]:
    cell = str(Cell(*record["index_cell"]))
    return {"index_cell": cell, "index_ndcg": record["ndcg_at_10"], "index_share": record["share"]}


def _neighbour_values(record: Record) -> dict[str, Any]:
    cell, value = str(Cell(*record["index_cell"])), record["overlap_at_10"]
    return {"index_cell": cell, "index_overlap": value, "index_overlap_share": value / 100}


def _stored_values(record: Record, full: float | None) -> dict[str, Any]:
    value = record["spearman"]
    return {"stored": {record["storage"]: StoredScore(record["bytes_per_vector"], value, _share(value, full))}}


def _time_values(latency: Timing | None, bulk: Timing | None) -> dict[str, Any]:
    """The times of a call from ``latency``, and the throughput from ``bulk``; the two may have different shapes."""
    values: dict[str, Any] = {}
    if latency:
        values |= {name: getattr(latency, name) for name in ("latency_ms", "p95_ms", "p99_ms", "calls", "spread")}
    if bulk:
        values["sentences_per_second"] = bulk.sentences_per_second
    if latency or bulk:
        values["noisy"] = any(timing.noisy for timing in (latency, bulk) if timing)
    return values


def _cell(record: Record) -> Cell:
    return Cell(record["layer"], record["dim"])


def _setup(record: Record) -> Setup:
    return Setup(*(record[name] for name in ("precision", "runtime", "compute", "provider", "threads")))


def _order(setup: Setup) -> tuple[Any, ...]:
    return (_exactness(setup.precision), _exactness(setup.compute), setup.runtime, setup.provider, setup.threads or 0)


def _exactness_of(record: Record) -> tuple[int, int]:
    return _exactness(record["precision"]), _exactness(record["compute"])


def _exactness(precision: str) -> int:
    return EXACTNESS.get(precision, len(EXACTNESS))


def _share(value: float | None, full: float | None) -> float | None:
    return value / full if value is not None and full is not None and full > 0 else None


def _interval(ends: Sequence[float] | None) -> Interval | None:
    return (ends[0], ends[1]) if ends is not None else None
