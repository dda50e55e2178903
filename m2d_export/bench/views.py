"""Which measurements to show if there are several: the default ones, and those that can be asked for."""

from collections import Counter
from collections.abc import Sequence

from m2d_export.bench.records import Record, measured
from m2d_export.bench.sts import TOY
from m2d_export.bench.values import Shape, View
from m2d_export.errors import DataError

Times = tuple[Shape, Shape]  # of latency, of throughput


def sts_labels(records: Sequence[Record]) -> dict[str, str]:
    """The STS sets that have scores, each with the label that is printed with every score."""
    return {record["sts"]: record["label"] for kind in ("score", "storage") for record in measured(records, kind)}


def text_names(records: Sequence[Record]) -> list[str]:
    """The names of the files of texts on which agreement was measured."""
    return list(dict.fromkeys(record["texts"] for record in measured(records, "agreement")))


def collection_names(records: Sequence[Record]) -> list[str]:
    """The names of the collections that were searched."""
    found = [record["collection"] for kind in ("retrieval", "cascade") for record in measured(records, kind)]
    return list(dict.fromkeys(found))


def shapes(records: Sequence[Record]) -> list[Shape]:
    """The shapes that were timed, smallest first."""
    return sorted(set(_timed(records)))


def times(records: Sequence[Record]) -> list[Times]:
    """The pairs of shapes whose times can be shown: for each scope and length the default, then each batch size."""
    found: dict[Times, None] = {}
    timed = _timed(records)
    for scope, tokens in sorted({(shape.scope, shape.tokens) for shape in timed}, key=lambda at: (at[0] != "text", at)):
        own = [shape for shape in timed if (shape.scope, shape.tokens) == (scope, tokens)]
        found |= dict.fromkeys([_default_times(own), *((shape, shape) for shape in sorted(set(own)))])
    return list(found)


def view_of(
    records: Sequence[Record],
    *,
    sts: str | None = None,
    texts: str | None = None,
    collection: str | None = None,
    batch_size: int | None = None,
    tokens: int | None = None,
    scope: str | None = None,
) -> View:
    """The view that is asked for; None means the default.

    The defaults are the first texts, the first collection, and the first STS set that is not the toy set, if there is
    one. Latency is shown at the shape that most exits were timed at; if several are equal, scope "text" comes first,
    then the smallest shape. Throughput is shown at the largest batch of texts of that length. Raises DataError that
    lists what was measured.
    """
    timed = _timed(records)
    asked = {"batch_size": batch_size, "tokens": tokens, "scope": scope}
    for name, value in asked.items():
        there = sorted({getattr(shape, name) for shape in timed})
        if value is not None and value not in there:
            raise DataError(f"no times at {name.replace('_', ' ')} {value}: {_choose(there)}")
    fitting = [s for s in timed if all(value in (None, getattr(s, name)) for name, value in asked.items())]
    if timed and not fitting:
        together = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in asked.items() if value is not None)
        raise DataError(f"no times at {together} together: {_choose(shapes(records))}")
    shape, throughput = _default_times(fitting) if fitting else (None, None)
    return View(
        sts=_named("scores", sorted(sts_labels(records), key=lambda name: name == TOY), sts),
        shape=shape,
        texts=_named("agreement", text_names(records), texts),
        collection=_named("retrieval", collection_names(records), collection),
        throughput=throughput,
    )


def _default_times(timed: Sequence[Shape]) -> Times:
    counts = Counter(timed)
    latency = min(counts, key=lambda shape: (-counts[shape], shape.scope != "text", shape))
    alike = [shape for shape in counts if (shape.tokens, shape.scope) == (latency.tokens, latency.scope)]
    return latency, max(alike, key=lambda shape: (counts[shape], shape.batch_size))


def shape_of(record: Record) -> Shape:
    """The shape of a latency record."""
    return Shape(record["batch_size"], record["tokens"], record["scope"])


def _timed(records: Sequence[Record]) -> list[Shape]:
    return [shape_of(record) for record in measured(records, "latency")]


def _named(what: str, there: Sequence[str], asked: str | None) -> str | None:
    if asked is not None and asked not in there:
        raise DataError(f"no {what} on {asked}: {_choose(there)}")
    return asked if asked is not None else next(iter(there), None)


def _choose(there: Sequence[object]) -> str:
    return f"choose one of {', '.join(map(str, there))}" if there else "run m2d-export bench for them first"
