"""A sweep of a real bundle, once, sweeps with fake runtimes, and a clock."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from m2d_export import Bundle, encoder
from m2d_export.bench import cost, timing
from m2d_export.bench.bm25 import Bm25
from m2d_export.bench.deep_index import DeepIndex, index_measures
from m2d_export.bench.quality import GradedPairs, Measure, OwnTexts, Searched
from m2d_export.bench.retrieval import load_collection
from m2d_export.bench.sts import Pairs, load_pairs
from m2d_export.bench.sweep import Sweep
from tests.bench.sweeps import MATRIX, SUBJECTS, TEXTS, Clock, Record, Recorder


@pytest.fixture(scope="session")
def pairs() -> Pairs:
    return load_pairs("toy")


@contextmanager
def hurried() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(cost, "SECONDS_PER_SHAPE", 0.0)
        yield


@pytest.fixture(autouse=True, scope="module")
def _hurry() -> Iterator[None]:
    with hurried():
        yield


@pytest.fixture(scope="session")
def measures(bundle: Bundle, pairs: Pairs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Measure, ...]:
    """Graded pairs, 25 texts, and a collection of those texts with five queries."""
    folder = tmp_path_factory.mktemp("beir") / "little"
    (folder / "qrels").mkdir(parents=True)
    documents = [json.dumps({"_id": f"d{place}", "title": "", "text": text}) for place, text in enumerate(TEXTS)]
    (folder / "corpus.jsonl").write_text("\n".join(documents))
    queries = [json.dumps({"_id": f"q{place}", "text": text}) for place, text in enumerate(SUBJECTS)]
    (folder / "queries.jsonl").write_text("\n".join(queries))
    judged = [f"q{query}\td{5 * query + place}\t{place + 1}" for query in range(5) for place in range(2)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
    graded = GradedPairs(pairs, bundle.manifest.normalize)
    return graded, OwnTexts("own.txt", TEXTS), Searched(load_collection(folder))


@pytest.fixture(scope="session")
def records(bundle: Bundle, measures: tuple[Measure, ...]) -> list[Record]:
    """The records of a real bundle, as they are after JSON."""
    with hurried():
        index = DeepIndex(bundle, bundle)
        found = Sweep(
            bundle,
            MATRIX,
            (*measures, *index_measures(measures, index)),
            TEXTS,
            command="m2d-export bench tiny.m2d",
            bm25=(Bm25(measures[2], "english"),),  # type: ignore[arg-type]
            index=index,
        )
        made = list(found.records())
    return [json.loads(json.dumps(record, allow_nan=False)) for record in made]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Fake runtimes; the process that measures memory is replaced too, because it would open a real one."""
    recorder = Recorder()
    monkeypatch.setattr(encoder, "open_runtime", recorder.open_runtime)

    def memory(bundle: Bundle, layer: int, texts: Sequence[str], options: Record) -> Iterator[Record]:
        recorder.before(layer)
        yield {"kind": "memory", "layer": layer, "peak_mb": 100.0, "provider": "fake"}

    monkeypatch.setattr(cost, "memory", memory)
    return recorder


@pytest.fixture
def sweep(recorder: Recorder, bundle: Bundle, measures: tuple[Measure, ...]) -> Sweep:
    """A sweep with fake runtimes."""
    return Sweep(bundle, MATRIX, measures, TEXTS)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of measured calls stands still unless a test moves it."""
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock
