"""Queries of every cell in an index that the deepest exit of a bundle made."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2d_export import Bundle, Encoder
from m2d_export.bench.bm25 import Bm25
from m2d_export.bench.deep_index import DeepIndex, index_measures, rotation_of
from m2d_export.bench.encoded import DOCUMENT, QUERY, prompts
from m2d_export.bench.quality import Measure
from m2d_export.bench.retrieval import evaluate, search
from m2d_export.bench.sweep import Sweep
from m2d_export.bundle.manifest import ROTATION
from m2d_export.errors import IntegrityError, SpecError
from m2d_export.spec import TextSpec
from m2d_export.vectors import FloatArray
from tests.bench.sweeps import CELLS, MATRIX, TEXTS, Record, of_kind
from tests.support.rotations import rotated


def test_queries_of_a_cell_search_the_documents_of_the_deepest_exit(
    records: list[Record], bundle: Bundle, measures: tuple[Measure, ...]
) -> None:
    collection = measures[2].collection  # type: ignore[attr-defined]
    for record in of_kind(records, "index_retrieval"):
        with Encoder(bundle, record["layer"], record["dim"]) as cell, Encoder(bundle, 3, record["dim"]) as deep:
            asked, own, stored = (
                one.encode(texts)
                for one, texts in ((cell, collection.queries), (deep, collection.queries), (deep, collection.documents))
            )
        found, best = evaluate(collection, asked, stored), evaluate(collection, own, stored)
        assert record["ndcg_at_10"] == pytest.approx(found.ndcg_at_10, abs=1e-6)
        assert record["own_ndcg_at_10"] == pytest.approx(best.ndcg_at_10, abs=1e-6)
        assert record["share"] == pytest.approx(found.ndcg_at_10 / best.ndcg_at_10)
        assert (record["index"], record["index_name"]) == (bundle.id, "own")
        assert record["index_cell"] == [3, record["dim"]]
    assert [r["share"] for r in of_kind(records, "index_retrieval") if r["layer"] == 3] == [1, 1]


def test_neighbours_are_compared_with_those_that_the_index_finds_itself(records: list[Record], bundle: Bundle) -> None:
    with Encoder(bundle, 1, 7) as cell, Encoder(bundle, 3, 7) as deep:
        asked, stored = cell.encode(TEXTS), deep.encode(TEXTS)
    own = np.arange(len(TEXTS))
    pairs = zip(search(asked, stored, 10, own), search(stored, stored, 10, own), strict=True)
    expected = np.mean([len({*map(int, found)} & {*map(int, best)}) for found, best in pairs]) * 10
    (record,) = [r for r in of_kind(records, "index_agreement") if (r["layer"], r["dim"]) == (1, 7)]
    assert record["overlap_at_10"] == pytest.approx(expected, abs=1)
    assert [r["overlap_at_10"] for r in of_kind(records, "index_agreement") if r["layer"] == 3] == [100, 100]
    assert (record["query_prompt"], record["document_prompt"]) == (None, None)


def asymmetric(bundle: Bundle, measures: Sequence[Measure], other: Bundle) -> list[Record]:
    """The records of queries of ``bundle`` in an index of ``other``."""
    index = DeepIndex(other, bundle)
    sweep = Sweep(bundle, replace(MATRIX, batch_sizes=(1,), tokens=(3,)), index_measures(measures, index), TEXTS)
    found = list(replace(sweep, index=index).records())
    return [record for record in found if record["kind"].startswith("index_")]


def test_a_rotation_is_undone_and_only_all_dims_are_compared(
    bundle: Bundle, measures: tuple[Measure, ...], tmp_path: Path
) -> None:
    turned, matrix = rotated(bundle, tmp_path, 1)
    assert np.allclose(rotation_of(turned), matrix)
    assert Bundle.open(turned.root).problems() == []
    collection = measures[2].collection  # type: ignore[attr-defined]
    with Encoder(bundle, 1, normalize=False) as cell, Encoder(bundle, 3, normalize=False) as deep:
        queries, documents = cell.encode(collection.queries), deep.encode(collection.documents)
    for one, other, expected in (
        (turned, bundle, (queries @ matrix, documents)),
        (bundle, turned, (queries, documents @ matrix)),
    ):
        found = of_kind(asymmetric(one, measures, other), "index_retrieval")
        assert [(record["layer"], record["dim"]) for record in found] == [(3, 64), (1, 64)]
        assert found[1]["ndcg_at_10"] == pytest.approx(evaluate(collection, *expected).ndcg_at_10, abs=1e-6)
        assert found[1]["index_name"] == other.root.name


def test_bundles_with_one_rotation_are_compared_at_every_dim(
    bundle: Bundle, measures: tuple[Measure, ...], tmp_path: Path
) -> None:
    turned, _ = rotated(bundle, tmp_path, 1)
    again = Bundle.open(shutil.copytree(turned.root, tmp_path / "again.m2d"))
    found = of_kind(asymmetric(turned, measures, again), "index_retrieval")
    assert [(record["layer"], record["dim"]) for record in found] == CELLS


def test_a_rotation_that_is_not_the_manifests_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    turned, _ = rotated(bundle, tmp_path, 1)
    wrong = replace(turned, manifest=replace(turned.manifest, rotation="0" * 64))
    with pytest.raises(IntegrityError, match="rotation"):
        rotation_of(wrong)
    (turned.root / ROTATION).write_bytes(b"changed")
    with pytest.raises(IntegrityError, match="bytes"):
        rotation_of(turned)


def test_a_bundle_of_another_space_is_refused(bundle: Bundle, prompted: Bundle) -> None:
    with pytest.raises(SpecError, match="another space"):
        DeepIndex(prompted, bundle)


def test_a_bundle_without_float32_makes_no_index(bundle: Bundle) -> None:
    shallow = tuple(replace(entry, precision="int8") for entry in bundle.manifest.variants)
    with pytest.raises(SpecError, match="int8, not in fp32"):
        DeepIndex(replace(bundle, manifest=replace(bundle.manifest, variants=shallow)), bundle)  # type: ignore[arg-type]


def test_the_index_encodes_each_set_of_texts_once(
    bundle: Bundle, measures: tuple[Measure, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Bundle.open(shutil.copytree(bundle.root, tmp_path / "other.m2d"))
    changed = replace(other, manifest=replace(other.manifest, truncate_dim=5))  # so that its id differs
    asked: list[tuple[int, int]] = []
    plain = Encoder.encode

    def encode(self: Encoder, texts: Sequence[str], **prompt: Any) -> FloatArray:
        asked.append((id(self.runtime), len(texts)))
        return plain(self, texts, **prompt)

    monkeypatch.setattr(Encoder, "encode", encode)
    index = DeepIndex(changed, bundle)
    made = index_measures(measures[2:], index)
    sweep = Sweep(bundle, replace(MATRIX, dims=(64,), tokens=(3,), batch_sizes=(1,)), made, TEXTS, index=index)
    assert [record["layer"] for record in sweep.records() if record["kind"] == "index_retrieval"] == [3, 1]
    assert [count for _, count in asked if count == 25] == [25]  # the documents, for two layers


def test_queries_and_documents_get_their_prompts_or_the_default_one() -> None:
    spec = TextSpec(8, 0, {"query": "query: ", "passage": "passage: ", "other": "x"}, "other")
    assert (spec.role_prompt(QUERY), spec.role_prompt(DOCUMENT)) == ("query", "passage")
    both = replace(spec, prompts={**spec.prompts, "document": "d: "})
    assert both.role_prompt(DOCUMENT) == "document"
    assert replace(spec, prompts={"other": "x"}).role_prompt(QUERY) == "other"
    assert TextSpec(8, 0).role_prompt(QUERY) is None
    assert spec.role_prompt(None) == "other"
    assert prompts(spec, TextSpec(8, 0, {"document": ""})) == {"query_prompt": "query", "document_prompt": None}


def test_a_cell_searches_with_the_prompt_of_queries(prompted: Bundle, measures: tuple[Measure, ...]) -> None:
    collection = measures[2].collection  # type: ignore[attr-defined]
    sweep = Sweep(prompted, replace(MATRIX, dims=(64,), batch_sizes=(1,), tokens=(3,)), measures[2:], TEXTS)
    (record,) = [r for r in sweep.records() if (r["kind"], r["layer"]) == ("retrieval", 1)]
    assert (record["query_prompt"], record["document_prompt"]) == ("query", None)
    with Encoder(prompted, 1) as cell:
        asked = cell.encode(collection.queries, prompt_name="query")
        stored = cell.encode(collection.documents, prompt="")
    assert record["ndcg_at_10"] == pytest.approx(evaluate(collection, asked, stored).ndcg_at_10, abs=1e-6)


def test_bm25_is_measured_once_for_all_setups(bundle: Bundle, measures: tuple[Measure, ...]) -> None:
    matrix = replace(MATRIX, layers=(1,), runtimes=("onnxrt", "openvino"), batch_sizes=(1,), tokens=(3,))
    words = Bm25(measures[2], "english")  # type: ignore[arg-type]
    assert len(of_kind(list(Sweep(bundle, matrix, (), TEXTS, bm25=(words,)).records()), "bm25")) == 1


def test_a_checkpoint_that_cuts_its_vectors_is_measured_at_every_dim(
    bundle: Bundle, measures: tuple[Measure, ...], records: list[Record]
) -> None:
    cut = replace(bundle, manifest=replace(bundle.manifest, truncate_dim=5))
    index = DeepIndex(cut, cut)
    some = (*measures[2:], *index_measures(measures[2:], index))
    found = Sweep(cut, replace(MATRIX, batch_sizes=(1,), tokens=(3,)), some, TEXTS, index=index).records()
    values = [r["ndcg_at_10"] for r in found if r["kind"] in ("retrieval", "index_retrieval")]
    kinds = [kind for layer in (3, 1) for kind in ("retrieval", "index_retrieval")]
    places = [(kind, layer) for layer, kind in zip((3, 3, 1, 1), kinds, strict=True)]
    assert values == [r["ndcg_at_10"] for kind, layer in places for r in of_kind(records, kind) if r["layer"] == layer]
