"""Which measurements to show if there are several: the default ones, and those that can be asked for."""

from collections import Counter
from collections.abc import Sequence

from m2d_export.bench.records import Record, measured
from m2d_export.bench.sts import TOY
from m2d_export.bench.values import OWN, Shape, View
from m2d_export.errors import DataError
from m2d_export.spec import ROLES

SEARCHED = ("collection", "texts", "index")  # fields of a view, and of records of searches
Times = tuple[Shape, Shape]  # the shape at which latency is shown, and the one at which throughput is shown


def sts_labels(records: Sequence[Record]) -> dict[str, str]:
    """The STS sets that have scores, each with the label that is printed with every score."""
    return {record["sts"]: record["label"] for kind in ("score", "storage") for record in measured(records, kind)}


def text_names(records: Sequence[Record]) -> list[str]:
    """The names of the files of texts on which agreement was measured."""
    return list(dict.fromkeys(record["texts"] for record in _of_kinds(records, "agreement", "index_agreement")))


def collection_names(records: Sequence[Record]) -> list[str]:
    """The names of the collections that were searched."""
    found = _of_kinds(records, "retrieval", "cascade", "index_retrieval")
    return list(dict.fromkeys(record["collection"] for record in found))


def index_names(records: Sequence[Record]) -> dict[str, str]:
    """The indexes that were searched: id -> name of the bundle. The measured bundle's own index is last.

    Of the others, the one that was measured last is first.
    """
    found = {
        record["index"]: record["index_name"] for record in _of_kinds(records, "index_retrieval", "index_agreement")
    }
    last_first = [*found.items()][::-1]
    return dict(sorted(last_first, key=lambda item: item[1] == OWN))


def index_text(records: Sequence[Record], index: str | None) -> str:
    """An index in words: the exit that made it; empty if there is none."""
    for record in _of_kinds(records, "index_retrieval", "index_agreement"):
        if record["index"] == index:
            name = record["index_name"]
            return f"exit {record['index_cell'][0]}" + ("" if name == OWN else f" of {name}")
    return ""


def bm25_record(records: Sequence[Record], collection: str | None) -> Record | None:
    """What BM25 found on a collection, in the language that was measured last."""
    found = [record for record in measured(records, "bm25") if record["collection"] == collection]
    return found[-1] if found else None


def bm25_text(records: Sequence[Record], collection: str | None) -> str:
    """The language and the nDCG@10 of BM25 in words; empty if it was not measured."""
    found = bm25_record(records, collection)
    return f"BM25 ({found['language']}) {found['ndcg_at_10']:.1f}" if found else ""


def prompts_text(records: Sequence[Record], view: View, *kinds: str) -> str:
    """The prompts of queries and documents in words, for each of the ``kinds`` of search that were measured.

    The index of another bundle has the prompts of that bundle.
    """
    found: dict[str, str] = {}
    for kind in kinds:
        for record in measured(records, kind):
            names = [record.get(f"{role}_prompt") for role in ROLES if f"{role}_prompt" in record]
            if names and all(record.get(name, getattr(view, name)) == getattr(view, name) for name in SEARCHED):
                queries, documents = (f"prompt {name}" if name else "no prompt" for name in names)
                found.setdefault(f"queries with {queries}, documents with {documents}", kind)
                break
    return "; ".join(f"in the index: {text}" if kind.startswith("index") else text for text, kind in found.items())


def _of_kinds(records: Sequence[Record], *kinds: str) -> list[Record]:
    return [record for kind in kinds for record in measured(records, kind)]


def shapes(records: Sequence[Record]) -> list[Shape]:
    """The shapes that were timed, smallest first."""
    return sorted(set(_timed(records)))


def times(records: Sequence[Record]) -> list[Times]:
    """The pairs of shapes whose times can be shown.

    For each scope and number of tokens, the default pair is first. Then each batch size has a pair of equal shapes.
    """
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
    index: str | None = None,
    batch_size: int | None = None,
    tokens: int | None = None,
    scope: str | None = None,
) -> View:
    """The view that is asked for; None means the default.

    The defaults are the first texts, the first collection, the index of another bundle if there is one, and the first
    STS set that is not the toy set, if there is one. Latency is shown at the shape that most exits were timed at. If
    several shapes have equally many exits, scope "text" comes first, then the smallest shape. Throughput is shown at a
    shape with the same scope and tokens. This is again the one that most exits were timed at. If several have equally
    many, it is the one with the largest batch. Raises DataError that lists what was measured.
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
        sts=_named("scores on", sorted(sts_labels(records), key=lambda name: name == TOY), sts),
        shape=shape,
        texts=_named("agreement on", text_names(records), texts),
        collection=_named("retrieval on", collection_names(records), collection),
        throughput=throughput,
        index=_index(index_names(records), index),
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


def _index(there: dict[str, str], asked: str | None) -> str | None:
    """The id of the index with the name that is asked for, or of the first."""
    name = _named("queries in the index of", list(dict.fromkeys(there.values())), asked)
    return next((found for found, own in there.items() if own == name), None)


def _named(what: str, there: Sequence[str], asked: str | None) -> str | None:
    if asked is not None and asked not in there:
        raise DataError(f"no {what} {asked}: {_choose(there)}")
    return asked if asked is not None else next(iter(there), None)


def _choose(there: Sequence[object]) -> str:
    return f"choose one of {', '.join(map(str, there))}" if there else "run m2d-export bench for them first"
