"""What the page draws: figures of every group, through every view, as plain JSON values."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from m2d_export.bench.figures import (
    candidates,
    cascades,
    full_record,
    latencies,
    stored,
)
from m2d_export.bench.pareto import front
from m2d_export.bench.quantities import Candidate, Shape, View
from m2d_export.bench.records import Group, measured
from m2d_export.bench.summary import (
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
from m2d_export.bench.views import default_view, shapes, sts_labels

# The figures of a candidate that change with one part of the view, and not with the others.
OF_STS = ("score", "interval", "difference", "difference_interval", "retention", "spearman", "pearson")
OF_SHAPE = ("latency_ms", "p95_ms", "sentences_per_second", "noisy", "joules_per_sentence")
OF_TEXTS = ("agreement", "overlap_at_10")
OF_COLLECTION = ("ndcg", "recall_at_100")

Json = dict[str, Any]


def group_data(group: Group) -> Json:
    """The figures of one group: candidates once, then what each view adds to them, in the same order."""
    records, view = group.records, default_view(group.records)
    labels = sts_labels(records)
    sts: list[str | None] = [*labels] or [None]
    timed: list[Shape | None] = [*shapes(records)] or [None]
    texts = _names(records, "agreement", "texts")
    collections = _names(records, "retrieval", "collection")
    cells = candidates(records, view)
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
        "sts": [name and {"name": name, "label": labels[name]} for name in sts],
        "shapes": [shape and {**asdict(shape), "text": str(shape)} for shape in timed],
        "texts": texts,
        "collections": collections,
        "defaults": {
            "sts": sts.index(view.sts),
            "shape": timed.index(view.shape),
            "texts": texts.index(view.texts),
            "collection": collections.index(view.collection),
        },
        "setups": [{**asdict(setup), "label": names[setup]} for setup in setups],
        "cells": [
            {
                **asdict(item.cell),
                "setup": place[item.setup],
                "trained_layer": item.trained_layer,
                "trained_dim": item.trained_dim,
                "bytes_per_vector": item.bytes_per_vector,
                "peak_mb": item.peak_mb,
            }
            for item in cells
        ],
        "scores": [_only(seen(sts=name), OF_STS) for name in sts],
        "timings": [_only(seen(shape=shape), OF_SHAPE) for shape in timed],
        "agreements": [_only(seen(texts=name), OF_TEXTS) for name in texts],
        "retrievals": [_only(seen(collection=name), OF_COLLECTION) for name in collections],
        "fronts": [[_front(seen(sts=name, shape=shape)) for shape in timed] for name in sts],
        "full": _full(group, view, cells),
        "latencies": [{**asdict(item), "setup": place[item.setup]} for item in latencies(records)],
        "stored": [
            [
                {**asdict(item), "cell": _pair(item.cell), "setup": by_setup[item.setup.variant]}
                for item in stored(records, name)
            ]
            for name in sts
        ],
        "cascades": [
            {**asdict(item), "cheap": _pair(item.cheap), "deep": _pair(item.deep), "setup": place[item.setup]}
            for item in cascades(records)
        ],
    }


def _names(records: Sequence[Json], kind: str, name: str) -> list[str | None]:
    return list(dict.fromkeys(record[name] for record in measured(records, kind))) or [None]


def _only(cells: Sequence[Candidate], names: Sequence[str]) -> list[Json]:
    return [{name: getattr(cell, name) for name in names} for cell in cells]


def _front(cells: Sequence[Candidate]) -> list[int]:
    places = {id(cell): number for number, cell in enumerate(cells)}
    return [places[id(cell)] for cell in front(cells)]


def _full(group: Group, view: View, cells: Sequence[Candidate]) -> int | None:
    """The place of the full cell among the candidates, where it is one of them."""
    record = full_record(group.records, view.sts)
    if record is None or record["dim"] != record["width"]:
        return None
    wanted = (record["layer"], record["dim"], record["precision"], record["runtime"], record["compute"])
    found = (
        number
        for number, item in enumerate(cells)
        if (item.cell.layer, item.cell.dim, item.precision, item.runtime, item.compute) == wanted
    )
    return next(found, None)


def _pair(cell: Any) -> list[int]:
    return [cell.layer, cell.dim]
