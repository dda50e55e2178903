"""What the page draws: figures of every group, through every view, as plain JSON values."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from m2d_export.bench.metrics import (
    candidates,
    cascades,
    latencies,
    stored,
)
from m2d_export.bench.quantities import Candidate, Cascade, Setup, Shape, times_text
from m2d_export.bench.records import Group
from m2d_export.bench.views import Times, collection_names, sts_labels, text_names, times, view_of
from m2d_export.report.summary import (
    commands,
    facts,
    failures,
    group_name,
    lead,
    omitted,
    sections,
    setup_labels,
    setups_of,
)
from m2d_export.select.pareto import few, front
from m2d_export.select.warnings import of_cell, of_set, of_times

# The figures of a candidate that change with one part of the view, and not with the others.
OF_STS = (
    *("score", "interval", "difference", "difference_interval", "retention", "spearman", "pearson", "pairs", "kept"),
    "time",
)
OF_TIMES = ("latency_ms", "p95_ms", "p99_ms", "calls", "sentences_per_second", "noisy", "joules_per_sentence")
OF_TEXTS = ("agreement", "agreement_retention", "overlap_at_10")
OF_COLLECTION = ("ndcg", "ndcg_retention", "recall_at_100")

Json = dict[str, Any]


def group_data(group: Group) -> Json:
    """The figures of one group: candidates once, then what each view adds to them, in the same order."""
    records, view = group.records, view_of(group.records)
    labels = sts_labels(records)
    sts: list[str | None] = [*labels] or [None]
    timed: list[Times | tuple[None, None]] = [*times(records)] or [(None, None)]
    texts: list[str | None] = [*text_names(records)] or [None]
    collections: list[str | None] = [*collection_names(records)] or [None]
    cells, passed = candidates(records, view), cascades(records)
    setups = setups_of(records, cells)
    names = setup_labels(setups)
    place = {setup: number for number, setup in enumerate(setups)}
    by_setup = {setup.variant: number for number, setup in reversed(list(enumerate(setups)))}

    def seen(**changes: Any) -> list[Candidate]:
        return candidates(records, replace(view, **changes))

    return {
        "name": group_name(group),
        "lead": lead(group, view, labels.get(view.sts or "", "")),
        "sections": sections(records, view),
        "omitted": omitted(records, view),
        "measured": facts(group),
        "commands": commands(group),
        "unmeasured": failures(group),
        "sts": [name and {"name": name, "label": labels[name], "doubts": of_set(name)} for name in sts],
        "times": [_times(*pair) for pair in timed],
        "texts": texts,
        "collections": collections,
        "defaults": {
            "sts": sts.index(view.sts),
            "times": timed.index((view.shape, view.throughput)),  # type: ignore[arg-type]
            "texts": texts.index(view.texts),
            "collection": collections.index(view.collection),
        },
        "setups": [{**asdict(setup), "label": names[setup]} for setup in setups],
        "cells": [
            {
                **asdict(item.cell),
                "setup": place[item.setup],
                "full": item.full,
                "doubts": of_cell(item),
                "trained_layer": item.trained_layer,
                "trained_dim": item.trained_dim,
                "bytes_per_vector": item.bytes_per_vector,
                "peak_mb": item.peak_mb,
            }
            for item in cells
        ],
        "scores": [[_only(cell, OF_STS) for cell in seen(sts=name)] for name in sts],
        "timings": [
            [{**_only(cell, OF_TIMES), "time_doubts": of_times(cell)} for cell in seen(shape=one, throughput=many)]
            for one, many in timed
        ],
        "agreements": [[_only(cell, OF_TEXTS) for cell in seen(texts=name)] for name in texts],
        "retrievals": [[_only(cell, OF_COLLECTION) for cell in seen(collection=name)] for name in collections],
        "fronts": [[_front(seen(sts=name, shape=one, throughput=many)) for one, many in timed] for name in sts],
        "latencies": [{**asdict(item), "setup": place[item.setup]} for item in latencies(records)],
        "stored": [
            [
                {**asdict(item), "cell": _pair(item.cell), "setup": by_setup[item.setup.variant]}
                for item in stored(records, name)
            ]
            for name in sts
        ],
        "cascades": [
            {
                **asdict(item),
                "cheap": _pair(item.cheap),
                "deep": _pair(item.deep),
                "setup": place[item.setup],
                "few": item in few([other for other in passed if _drawn_with(other) == _drawn_with(item)]),
            }
            for item in passed
        ],
    }


def _times(latency: Shape | None, throughput: Shape | None) -> Json | None:
    """A way to look at the times: in words, and as ``select`` is told it."""
    if latency is None:
        return None
    size = f"--batch-size {latency.batch_size} " if latency == throughput else ""
    options = f"{size}--tokens {latency.tokens} --scope {latency.scope}"
    whole = times_text(latency, throughput)
    return {"text": whole, "options": options, "latency": str(latency), "throughput": str(throughput)}


def _only(cell: Candidate, names: Sequence[str]) -> Json:
    figures = asdict(cell)
    return {name: figures[name] for name in names}


def _drawn_with(cascade: Cascade) -> tuple[str, Setup]:
    return cascade.collection, cascade.setup


def _front(cells: Sequence[Candidate]) -> list[int]:
    places = {id(cell): number for number, cell in enumerate(cells)}
    return [places[id(cell)] for cell in front(cells)]


def _pair(cell: Any) -> list[int]:
    return [cell.layer, cell.dim]
