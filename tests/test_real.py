"""The real thing: all-MiniLM-L6-v2 at every exit, and an encoder of DistilBERT's full size."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from m2d_export import Bundle, Encoder, pipeline
from m2d_export.bench.similarity import spearman
from m2d_export.bench.sts import load_pairs
from m2d_export.gate.half import RoundedRuntime, grid
from m2d_export.gate.parity import PROBES
from m2d_export.spec import Precision
from m2d_export.vectors import cosine, truncate
from tests.support.half_in_torch import ALIKE, in_half

HALVES = (Precision.FP16, Precision.BF16)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("layer", "dim", "score", "tolerance"), [(6, 384, 82.03, 0.05), (6, 64, 79.2, 0.1), (3, 384, 55.9, 0.1)]
)
def test_minilm_scores_on_stsb_through_the_exported_graphs(
    minilm_bundle: Bundle, stsb: Path, layer: int, dim: int, score: float, tolerance: float
) -> None:
    pairs = load_pairs(str(stsb / "test.csv"))
    with Encoder(minilm_bundle, layer, normalize=False) as encoder:
        vectors = truncate(encoder.encode(pairs.texts), dim)
    found = spearman(cosine(vectors[pairs.left], vectors[pairs.right]), pairs.scores)
    assert found == pytest.approx(score, abs=tolerance)


def test_minilm_vectors_are_sentence_transformers_own(minilm: Path, minilm_bundle: Bundle) -> None:
    from sentence_transformers import SentenceTransformer

    texts = [*PROBES, "long " * 5000]
    expected = SentenceTransformer(str(minilm), device="cpu").encode(texts)
    with Encoder(minilm_bundle) as encoder:
        np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)


@pytest.fixture(scope="module")
def minilm_int8(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """all-MiniLM-L6-v2 in fp32 and int8, every exit."""
    target = tmp_path_factory.mktemp("minilm-int8") / "minilm.m2d"
    return pipeline.build(str(minilm), target, precisions=["fp32", "int8"])


def test_every_exit_of_minilm_is_what_int8_is_asked_to_be(minilm_int8: Bundle) -> None:
    entries = [entry for entry in minilm_int8.manifest.variants if entry.precision == "int8"]
    assert [entry.layer for entry in entries] == [1, 2, 3, 4, 5, 6]
    for entry in entries:
        assert entry.parity["cosine_mean"] >= 0.995
        assert entry.parity["cosine_min"] >= 0.99
        assert entry.parity["agreement"] >= 98
        assert entry.parity["invariance_cosine"] >= 0.999


@pytest.mark.parametrize("runtime", ["onnxrt", "openvino"])
def test_minilm_in_int8_keeps_its_score_and_no_text_depends_on_its_neighbours(
    minilm_int8: Bundle, stsb: Path, runtime: str
) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed (extra: openvino)")
    pairs = load_pairs(str(stsb / "test.csv"))
    long = [" ".join(pairs.texts[start : start + 10]) for start in range(0, 600, 10)]
    with (
        Encoder(minilm_int8) as reference,
        Encoder(minilm_int8, runtime=runtime, precision="int8") as encoder,
    ):
        scores = []
        for each in (reference, encoder):
            vectors = each.encode(pairs.texts)
            scores.append(spearman(cosine(vectors[pairs.left], vectors[pairs.right]), pairs.scores))
        assert scores[1] == pytest.approx(scores[0], abs=0.3)
        mixed = [*pairs.texts[:600], *long]  # so many that they run in streams, of short texts and of long ones
        alone = np.concatenate([encoder.encode([text]) for text in (*mixed[:40], *long[:20])])
        together = encoder.encode(mixed)
        assert cosine(alone, np.concatenate([together[:40], together[600:620]])).min() >= 0.999


def test_minilm_in_half_is_what_torch_computes_in_half_at_every_exit(minilm: Path, tmp_path: Path) -> None:
    bundle = pipeline.build(str(minilm), tmp_path / "minilm.m2d", precisions=HALVES)
    shapes = grid(bundle.tokenizer.encode(PROBES), bundle.manifest.text)
    shapes = [batch for batch in shapes if batch.input_ids.size <= 32 * 128]  # torch takes minutes for the largest
    for precision in HALVES:
        expected = in_half(minilm, precision, shapes)
        for layer, vectors in zip(bundle.grid.layers, expected, strict=True):
            with RoundedRuntime(bundle.variant(layer, precision)) as runtime:
                found = [runtime.vectors(batch) for batch in shapes]
            assert cosine(np.concatenate(found), np.concatenate(vectors)).min() > ALIKE[precision]


def test_six_graphs_share_one_copy_of_the_weights(minilm_bundle: Bundle) -> None:
    files = minilm_bundle.manifest.files
    everything = sum(entry.size for name, entry in files.items() if name.startswith("graphs/"))
    deepest = minilm_bundle.manifest.variants[-1]
    assert [entry.layer for entry in minilm_bundle.manifest.variants] == [1, 2, 3, 4, 5, 6]
    # 22.6M parameters of 4 bytes, and the deepest graph uses nearly all of the one weights file.
    alone = files[deepest.path].size + files[deepest.weights].size
    assert everything <= 1.03 * alone
    assert 90e6 < files[deepest.weights].size < 91.5e6


@pytest.fixture(scope="module")
def distilbert_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A seeded random encoder of distilbert-base's size, behind the tiny tokenizer."""
    import torch
    from transformers import AutoModel, DistilBertConfig

    from tests.support.checkpoints import tiny_tokenizer

    folder = tmp_path_factory.mktemp("distilbert")
    torch.manual_seed(0)
    AutoModel.from_config(DistilBertConfig()).save_pretrained(folder / "checkpoint")
    tiny_tokenizer(512).save_pretrained(folder / "checkpoint")
    return pipeline.build(str(folder / "checkpoint"), folder / "distilbert.m2d")


def test_a_full_size_distilbert_builds_with_every_exit(distilbert_bundle: Bundle) -> None:
    assert (distilbert_bundle.grid.depth, distilbert_bundle.grid.width) == (6, 768)
    assert distilbert_bundle.grid.dims == (768, 512, 256, 128, 64, 32)
    weights = distilbert_bundle.manifest.files["graphs/weights.fp32.bin"].size
    assert 265e6 < weights < 267e6  # 66.4M parameters of 4 bytes
    for entry in distilbert_bundle.manifest.variants:
        assert entry.parity["cosine_min"] >= 0.99999
        session = ort.InferenceSession(distilbert_bundle.root / entry.path, providers=["CPUExecutionProvider"])
        ids = np.full((2, 9), 7, dtype=np.int64)
        (vectors,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        assert vectors.shape == (2, 768)
