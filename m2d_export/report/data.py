"""The data of the page as plain JSON: the values of every group in every view, and the lists of the package."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from m2d_export.bench.metrics import candidates
from m2d_export.bench.records import Group, Record
from m2d_export.bench.values import Candidate, Cascade, Shape, View, times_text
from m2d_export.bench.views import (
    Times,
    collection_names,
    index_names,
    index_text,
    prompts_text,
    sts_labels,
    text_names,
    times,
)
from m2d_export.report.columns import COLUMNS, TIMES, measured_on, values_of
from m2d_export.report.pareto import few, front
from m2d_export.report.results import Results
from m2d_export.report.search import SEARCHES
from m2d_export.report.sections import filled, omitted
from m2d_export.report.summary import commands, facts, failures, group_name, lead, mixed
from m2d_export.select.budgets import LIMITS, is_upper
from m2d_export.select.tasks import BYTES, STORED, TASKS
from m2d_export.select.warnings import WORDS, cell_warnings, set_warnings, time_warnings

Json = dict[str, Any]


def page_data(groups: Sequence[Group]) -> Json:
    """Everything that the scripts of the page read."""
    return {
        "groups": [{**group_data(group), "selectable": group is _last_of_bundle(groups, group)} for group in groups],
        "mixed": mixed(groups),
        "columns": [asdict(column) for column in COLUMNS],
        "times": [column.key for column in TIMES],
        "limits": {name: {"upper": is_upper(name)} for name in LIMITS},
        "tasks": {
            task: {"quality": spec.quality, "retention": spec.retention, "in_index": task.in_index, "what": spec.what}
            for task, spec in TASKS.items()
        },
        "bytes": BYTES,
        "stored": {f"{size:g}": name for size, name in STORED.items()},
        "words": WORDS,
    }


def group_data(group: Group) -> Json:
    """The values of one group: its candidates once, then the values of each part of a view, in the same order."""
    results, records = Results.of(group), group.records
    view, labels = results.view, sts_labels(records)
    sts: list[str | None] = [*labels] or [None]
    timed: list[Times | tuple[None, None]] = [*times(records)] or [(None, None)]
    texts: list[str | None] = [*text_names(records)] or [None]
    collections: list[str | None] = [*collection_names(records)] or [None]
    indexes: list[str | None] = [*index_names(records)] or [None]
    place = {setup: number for number, setup in enumerate(results.labels)}

    def seen(**changes: Any) -> list[Candidate]:
        return candidates(records, replace(view, **changes))

    return {
        "name": group_name(group),
        "lead": lead(results),
        "sections": filled(results),
        "omitted": omitted(results),
        "facts": facts(group),
        "commands": commands(group),
        "failures": failures(group),
        "sts": [name and {"name": name, "label": labels[name], "warnings": set_warnings(name)} for name in sts],
        "times": [_times(*pair) for pair in timed],
        "texts": texts,
        "collections": collections,
        "bm25": [measured_on(records, replace(view, collection=name))["bm25"] for name in collections],
        "indexes": [
            {
                "name": index_names(records).get(index or ""),
                "text": index_text(records, index),
                "beside": [_beside(records, replace(view, index=index, collection=name)) for name in collections],
            }
            for index in indexes
        ],
        "defaults": {
            "sts": sts.index(view.sts),
            "times": timed.index((view.shape, view.throughput)),  # type: ignore[arg-type]
            "texts": texts.index(view.texts),
            "collection": collections.index(view.collection),
            "index": indexes.index(view.index),
        },
        "setups": [{**asdict(setup), "label": label} for setup, label in results.labels.items()],
        "cells": [
            {
                **asdict(cell.cell),
                **values_of(cell, ""),
                **{name: getattr(cell, name) for name in ("full", "trained_layer", "trained_dim")},
                "setup": place[cell.setup],
                "warnings": cell_warnings(cell),
            }
            for cell in results.cells
        ],
        "values": {
            "sts": [[values_of(cell, "sts") for cell in seen(sts=name)] for name in sts],
            "times": [
                [
                    {**values_of(cell, "times"), "time_warnings": time_warnings(cell)}
                    for cell in seen(shape=one, throughput=many)
                ]
                for one, many in timed
            ],
            "texts": [[values_of(cell, "texts") for cell in seen(texts=name)] for name in texts],
            "collection": [[values_of(cell, "collection") for cell in seen(collection=name)] for name in collections],
            "index": [
                [
                    [
                        [values_of(cell, "index") for cell in seen(index=index, collection=collection, texts=name)]
                        for name in texts
                    ]
                    for collection in collections
                ]
                for index in indexes
            ],
        },
        "fronts": [[_front(seen(sts=name, shape=one, throughput=many)) for one, many in timed] for name in sts],
        "latencies": [{**asdict(timing), "setup": place[timing.setup]} for timing in results.timings],
        "cascades": [
            {
                **asdict(item),
                "cheap": [item.cheap.layer, item.cheap.dim],
                "deep": [item.deep.layer, item.deep.dim],
                "setup": place[item.setup],
                "few": item in few([other for other in results.cascades if _comparable(other, item)]),
            }
            for item in results.cascades
        ],
    }


def _beside(records: Sequence[Record], view: View) -> Json:
    """What stands beside the values of a collection and an index, in words."""
    share = measured_on(records, view)["bm25_share"]
    return {"bm25_share": share, "prompts": prompts_text(records, view, *SEARCHES)}


def _last_of_bundle(groups: Sequence[Group], group: Group) -> Group:
    """The group that ``select`` uses for this bundle: that of the machine that measured last."""
    own = [other for other in groups if other.bundle == group.bundle]
    return max(own, key=lambda other: max(record.get("time") or "" for record in other.records))


def _times(latency: Shape | None, throughput: Shape | None) -> Json | None:
    """A pair of shapes: in words, and as options of ``select``."""
    if latency is None:
        return None
    size = f"--batch-size {latency.batch_size} " if latency == throughput else ""
    options = f"{size}--tokens {latency.tokens} --scope {latency.scope}"
    text = times_text(latency, throughput)
    return {"text": text, "options": options, "latency": str(latency), "throughput": str(throughput)}


def _comparable(one: Cascade, other: Cascade) -> bool:
    return (one.collection, one.setup) == (other.collection, other.setup)


def _front(cells: Sequence[Candidate]) -> list[int]:
    places = {id(cell): number for number, cell in enumerate(cells)}
    return [places[id(cell)] for cell in front(cells)]
