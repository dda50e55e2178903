"""Every value that is derived from records, computed once: the terminal, the report and ``select`` show these."""

from collections.abc import Sequence
from typing import Any

from m2d_export.bench.records import Record, groups, measured
from m2d_export.bench.values import Candidate, Cascade, Interval, Setup, StoredScore, Timing, View
from m2d_export.bench.views import shape_of, view_of
from m2d_export.errors import DataError
from m2d_export.precisions import PRECISIONS
from m2d_export.spec import Cell

Place = tuple[Setup, Cell]  # what a value that does not depend on threads belongs to; the setup has no threads
MOST_AGREEMENT = 100.0  # the full cell agrees with itself
EXACTNESS = {str(precision): place for place, precision in enumerate(PRECISIONS)}


def full_cell(records: Sequence[Record]) -> Cell | None:
    """The cell that all others are compared with: the deepest exit of the bundle at full width.

    A bundle may leave out the deepest layers of its checkpoint. A record that compares cells says which one is full.
    """
    for record in measured(records, "cascade"):
        return Cell(*record["deep"])
    for record in measured(records, "score"):
        if record["dim"] == record.get("width") and record.get("retention") == 1 and record["difference"] == 0:
            return Cell(record["layer"], record["dim"])
    return next((Cell(record["depth"], record["width"]) for record in records if "depth" in record), None)


def full_record(records: Sequence[Record], sts: str | None) -> Record | None:
    """The score that retention is a share of: of the deepest, widest cell in the most exact setup there is."""
    scores = [record for record in measured(records, "score") if record["sts"] == sts]
    return max(
        (record for record in scores if record["spearman"]["cosine"] is not None),
        key=lambda r: (-_exactness(r["precision"]), -_exactness(r["compute"]), r["layer"], r["dim"]),
        default=None,
    )


def full_score(records: Sequence[Record], sts: str | None) -> float | None:
    """The score of the full cell. If it was not measured, it follows from the retention that another cell recorded.

    If that record has no retention, its cell counts as the full one at full width; at any other dim, None is returned.
    """
    record = full_record(records, sts)
    if record is None or (record.get("retention") is None and record["dim"] != record["width"]):
        return None
    score: float = record["spearman"]["cosine"] / (record.get("retention") or 1.0)
    return score


def full_ndcg(records: Sequence[Record], collection: str | None) -> float | None:
    """The nDCG@10 x 100 of the full cell in the most exact setup; None where that cell was not searched with."""
    full = full_cell(records)
    found = [
        record
        for record in measured(records, "retrieval")
        if record["collection"] == collection and _cell(record) == full
    ]
    exact = min(found, key=lambda r: (_exactness(r["precision"]), _exactness(r["compute"])), default=None)
    return float(exact["ndcg_at_10"]) if exact else None


def candidates(records: Sequence[Record], view: View | None = None) -> list[Candidate]:
    """Every cell in every setup of one group's records, seen through ``view`` (default: that of ``view_of``).

    Every view has the same cells in the same order: by setup (the most exact first), layer, dim.
    Raises DataError where ``records`` are of several bundles or machines.
    """
    if len(groups(records)) > 1:
        raise DataError("results of several bundles or machines do not compare: pass one of groups(records) at a time")
    view = view or view_of(records)
    full, score, ndcg = full_cell(records), full_score(records, view.sts), full_ndcg(records, view.collection)
    scores = _by_place(records, "score", sts=view.sts)
    agreements = _by_place(records, "agreement", texts=view.texts)
    retrievals = _by_place(records, "retrieval", collection=view.collection)
    stored: dict[Place, dict[str, StoredScore]] = {}
    for record in sorted(measured(records, "storage"), key=lambda record: -record["bytes_per_vector"]):
        if record["sts"] == view.sts:
            item = StoredScore(record["bytes_per_vector"], record["spearman"], _share(record["spearman"], score))
            stored.setdefault(_place(record), {})[record["storage"]] = item
    timings = {(timing.setup, timing.layer, timing.shape): timing for timing in latencies(records)}
    timed: dict[Setup, list[Setup]] = {}
    for setup in dict.fromkeys(timing.setup for timing in timings.values()):
        timed.setdefault(setup.untimed, []).append(setup)
    peaks: dict[tuple[Setup, int], float] = {}
    for record in measured(records, "memory"):
        setup = _setup(record)
        peaks[setup, record["layer"]] = peaks[setup.untimed, record["layer"]] = record["peak_mb"]

    found = []
    for place, trained in _trained(records).items():
        untimed, cell = place
        own = [of[place] for of in (scores, agreements, retrievals) if place in of]
        quality = {
            **trained,
            **(_score_values(scores[place], score) if place in scores else {}),
            **(_agreement_values(agreements[place]) if place in agreements else {}),
            **(_retrieval_values(retrievals[place], ndcg) if place in retrievals else {}),
            "stored": stored.get(place, {}),
            "time": max((record["time"] for record in own if record.get("time")), default=None),
        }
        for setup in timed.get(untimed, [untimed]):
            latency = timings.get((setup, cell.layer, view.shape)) if view.shape else None
            bulk = timings.get((setup, cell.layer, view.throughput)) if view.throughput else None
            peak = peaks.get((setup, cell.layer))
            times = _time_values(latency, bulk)
            found.append(Candidate(cell, setup, full=cell == full, peak_mb=peak, **quality, **times))
    return sorted(found, key=lambda candidate: (_order(candidate.setup), candidate.cell))


def latencies(records: Sequence[Record]) -> list[Timing]:
    """Every timed shape of every exit, by setup, layer and shape."""
    names = ("layer", "p50_ms", "p95_ms", "p99_ms", "sentences_per_second", "spread", "noisy")
    found = [
        Timing(
            setup=_setup(record),
            shape=shape_of(record),
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


def _time_values(latency: Timing | None, bulk: Timing | None) -> dict[str, Any]:
    both = [timing for timing in (latency, bulk) if timing]
    values: dict[str, Any] = {"noisy": any(timing.noisy for timing in both)} if both else {}
    if latency:
        values |= {"latency_ms": latency.p50_ms, "p95_ms": latency.p95_ms, "p99_ms": latency.p99_ms}
        values["calls"] = latency.calls
    return values | ({"sentences_per_second": bulk.sentences_per_second} if bulk else {})


def _trained(records: Sequence[Record]) -> dict[Place, dict[str, bool]]:
    """Every cell in every setup there is, and whether training optimised its layer and its dim."""
    return {
        place: {"trained_layer": record["trained_layer"], "trained_dim": record["trained_dim"]}
        for kind in ("score", "agreement", "retrieval", "storage")
        for place, record in _by_place(records, kind).items()
    }


def _by_place(records: Sequence[Record], kind: str, **wanted: str | None) -> dict[Place, Record]:
    return {
        _place(record): record
        for record in measured(records, kind)
        if all(record[name] == value for name, value in wanted.items())
    }


def _place(record: Record) -> Place:
    return _setup(record).untimed, _cell(record)


def _cell(record: Record) -> Cell:
    return Cell(record["layer"], record["dim"])


def _setup(record: Record) -> Setup:
    return Setup(*(record[name] for name in ("precision", "runtime", "compute", "provider", "threads")))


def _order(setup: Setup) -> tuple[Any, ...]:
    return (_exactness(setup.precision), _exactness(setup.compute), setup.runtime, setup.provider, setup.threads or 0)


def _exactness(precision: str) -> int:
    return EXACTNESS.get(precision, len(EXACTNESS))


def _share(value: float | None, full: float | None) -> float | None:
    return value / full if value is not None and full is not None and full > 0 else None


def _interval(ends: Sequence[float] | None) -> Interval | None:
    return (ends[0], ends[1]) if ends is not None else None
