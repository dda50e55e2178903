"""Every quantity that is derived from records, derived once: tables, the report and ``select`` show these numbers."""

from collections.abc import Sequence
from typing import Any

from m2d_export.bench.quantities import (
    Candidate,
    Cascade,
    Interval,
    Kept,
    Setup,
    Stored,
    Timing,
    Variant,
    View,
)
from m2d_export.bench.records import Record, groups, measured
from m2d_export.bench.views import shape_of, view_of
from m2d_export.errors import DataError
from m2d_export.spec import Cell

AGREEMENT_WITH_ITSELF = 100.0
PRECISIONS = ("fp32", "bf16", "fp16", "int8")  # from the most exact
TIMES = ("p50_ms", "p95_ms", "p99_ms", "sentences_per_second", "spread", "noisy")


def full_cell(records: Sequence[Record]) -> Cell | None:
    """The cell that all others are compared with: the deepest exit of the bundle at full width.

    A bundle may leave the deepest layers out: what was compared with tells its deepest exit.
    """
    for record in measured(records, "cascade"):
        return Cell(*record["deep"])
    for record in measured(records, "score"):
        if record["dim"] == record.get("width") and record.get("retention") == 1 and record["difference"] == 0:
            return Cell(record["layer"], record["dim"])
    return next((Cell(record["depth"], record["width"]) for record in records if "depth" in record), None)


def full_record(records: Sequence[Record], sts: str | None) -> Record | None:
    """The score that retention is a share of: the deepest, widest cell in the most exact variant there is."""
    scores = [record for record in measured(records, "score") if record["sts"] == sts]
    return max(
        (record for record in scores if record["spearman"]["cosine"] is not None),
        key=lambda r: (-_exactness(r["precision"]), -_exactness(r["compute"]), r["layer"], r["dim"]),
        default=None,
    )


def full_score(records: Sequence[Record], sts: str | None) -> float | None:
    """The score of the full cell, or None where neither it nor a share of it was measured.

    Where a run left the full cell out, what it recorded as retention still says what it is a share of.
    """
    record = full_record(records, sts)
    if record is None or (record.get("retention") is None and record["dim"] != record["width"]):
        return None
    score: float = record["spearman"]["cosine"] / (record.get("retention") or 1.0)
    return score


def full_ndcg(records: Sequence[Record], collection: str | None) -> float | None:
    """The nDCG@10 x 100 of the full cell in the most exact variant, or None where it was left out."""
    full = full_cell(records)
    found = [
        record
        for record in measured(records, "retrieval")
        if record["collection"] == collection and Cell(record["layer"], record["dim"]) == full
    ]
    exact = min(found, key=lambda r: (_exactness(r["precision"]), _exactness(r["compute"])), default=None)
    return float(exact["ndcg_at_10"]) if exact else None


def candidates(records: Sequence[Record], view: View | None = None) -> list[Candidate]:
    """Every cell in every setup of one group's records, seen through ``view`` (default: that of ``view_of``).

    The same cells in the same order for every view: precision from the most exact, runtime, threads, layer, dim.
    Raises DataError where ``records`` are of several bundles or machines.
    """
    if len(groups(records)) > 1:
        raise DataError("results of several bundles or machines do not compare: pass one of groups(records) at a time")
    view = view or view_of(records)
    full, whole, full_searched = full_score(records, view.sts), full_cell(records), full_ndcg(records, view.collection)
    kept: dict[tuple[Variant, Cell], dict[str, Kept]] = {}
    for item in stored(records, view.sts):
        kept.setdefault((item.setup.variant, item.cell), {})[item.storage] = Kept(item.score, item.retention)
    scores = _by_cell(records, "score", sts=view.sts)
    agreements = _by_cell(records, "agreement", texts=view.texts)
    retrievals = _by_cell(records, "retrieval", collection=view.collection)
    cells = {
        place: (record["trained_layer"], record["trained_dim"])
        for kind in ("score", "agreement", "retrieval", "storage")
        for place, record in _by_cell(records, kind).items()
    }
    timings = {(timing.setup, timing.layer, timing.shape): timing for timing in latencies(records)}
    peaks: dict[tuple[Setup | Variant, int], float] = {}
    for record in measured(records, "memory"):  # a setup without threads stands for all of its variant's
        own = _setup(record)
        peaks[own, record["layer"]] = peaks[own.variant, record["layer"]] = record["peak_mb"]
    timed = {_setup(record) for record in measured(records, "latency")}
    found = []
    for (variant, layer, dim), (trained_layer, trained_dim) in cells.items():
        place = (variant, layer, dim)
        score, agreement, retrieval = scores.get(place, {}), agreements.get(place, {}), retrievals.get(place, {})
        value = score.get("spearman", {}).get("cosine")
        for setup in [s for s in timed if s.variant == variant] or [Setup(*variant, threads=None)]:
            timing = timings.get((setup, layer, view.shape)) if view.shape else None
            bulk = timings.get((setup, layer, view.throughput)) if view.throughput else None
            found.append(
                Candidate(
                    cell=Cell(layer, dim),
                    setup=setup,
                    trained_layer=trained_layer,
                    trained_dim=trained_dim,
                    full=Cell(layer, dim) == whole,
                    score=value,
                    interval=_interval(score.get("interval")),
                    difference=score.get("difference"),
                    difference_interval=_interval(score.get("difference_interval")),
                    retention=_share(value, full),
                    spearman=score.get("spearman", {}),
                    pearson=score.get("pearson", {}),
                    pairs=score.get("pairs"),
                    kept=kept.get((variant, Cell(layer, dim)), {}),
                    agreement=agreement.get("spearman"),
                    agreement_retention=_share(agreement.get("spearman"), AGREEMENT_WITH_ITSELF),
                    overlap_at_10=agreement.get("overlap_at_10"),
                    ndcg=retrieval.get("ndcg_at_10"),
                    ndcg_retention=_share(retrieval.get("ndcg_at_10"), full_searched),
                    recall_at_100=retrieval.get("recall_at_100"),
                    latency_ms=timing.p50_ms if timing else None,
                    p95_ms=timing.p95_ms if timing else None,
                    p99_ms=timing.p99_ms if timing else None,
                    calls=timing.calls if timing else None,
                    sentences_per_second=bulk.sentences_per_second if bulk else None,
                    noisy=any(t.noisy for t in (timing, bulk) if t) if timing or bulk else None,
                    joules_per_sentence=bulk.joules_per_sentence if bulk else None,
                    peak_mb=peaks.get((setup if setup.threads else variant, layer)),
                    time=max((r["time"] for r in (score, agreement, retrieval) if r.get("time")), default=None),
                )
            )
    return sorted(found, key=lambda candidate: (_order(candidate.setup), candidate.cell))


def latencies(records: Sequence[Record]) -> list[Timing]:
    """Every timed shape of every exit, by setup, layer and shape."""
    found = [
        Timing(
            layer=record["layer"],
            setup=_setup(record),
            shape=shape_of(record),
            calls=len(record["seconds"]),
            joules_per_sentence=record.get("joules_per_sentence"),
            **{name: record[name] for name in TIMES},
        )
        for record in measured(records, "latency")
    ]
    return sorted(found, key=lambda timing: (_order(timing.setup), timing.layer, timing.shape))


def stored(records: Sequence[Record], sts: str | None) -> list[Stored]:
    """What each storage of each cell keeps of the score on ``sts``, widest storage first."""
    full = full_score(records, sts)
    found = [
        Stored(
            cell=Cell(record["layer"], record["dim"]),
            setup=_setup(record),
            storage=record["storage"],
            bytes_per_vector=record["bytes_per_vector"],
            score=record["spearman"],
            retention=_share(record["spearman"], full),
        )
        for record in measured(records, "storage")
        if record["sts"] == sts
    ]
    return sorted(found, key=lambda item: (_order(item.setup), item.cell, -item.bytes_per_vector))


def cascades(records: Sequence[Record]) -> list[Cascade]:
    """Every pair of a cheap and a deep cell, by collection."""
    found = [
        Cascade(
            collection=record["collection"],
            documents=record["documents"],
            cheap=Cell(*record["cheap"]),
            deep=Cell(*record["deep"]),
            setup=_setup(record),
            deep_ms=record["deep_ms"],
            **{name: tuple(record[name]) for name in ("shortlist", "recall_at_10", "cost_ms")},
        )
        for record in measured(records, "cascade")
    ]
    return sorted(found, key=lambda item: (item.collection, _order(item.setup), item.deep, item.cheap))


def _by_cell(records: Sequence[Record], kind: str, **wanted: str | None) -> dict[tuple[Variant, int, int], Record]:
    return {
        (_setup(record).variant, record["layer"], record["dim"]): record
        for record in measured(records, kind)
        if all(record[name] == value for name, value in wanted.items())
    }


def _setup(record: Record) -> Setup:
    return Setup(*(record[name] for name in ("precision", "runtime", "compute", "provider", "threads")))


def _order(setup: Setup) -> tuple[Any, ...]:
    return (_exactness(setup.precision), _exactness(setup.compute), setup.runtime, setup.provider, setup.threads or 0)


def _exactness(precision: str) -> int:
    return PRECISIONS.index(precision) if precision in PRECISIONS else len(PRECISIONS)


def _share(score: float | None, full: float | None) -> float | None:
    return score / full if score is not None and full is not None and full > 0 else None


def _interval(ends: Sequence[float] | None) -> Interval | None:
    return (ends[0], ends[1]) if ends is not None else None
