"""Real sizes: all-MiniLM-L6-v2 at every exit, and an encoder as wide as DistilBERT."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from m2d_export import Bundle, Encoder, build
from m2d_export.bench.similarity import spearman
from m2d_export.bench.sts import load_pairs
from m2d_export.gate.half import RoundedRuntime
from m2d_export.gate.reference import PROBES, shape_batches
from m2d_export.spec import Precision
from m2d_export.vectors import cosine, truncate
from tests.support.checkpoints import tiny_tokenizer
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


def test_every_exit_of_minilm_is_what_int8_is_asked_to_be(minilm_bundle: Bundle) -> None:
    entries = [entry for entry in minilm_bundle.manifest.variants if entry.precision == "int8"]
    assert [entry.layer for entry in entries] == [1, 2, 3, 4, 5, 6]
    for entry in entries:
        assert entry.parity["cosine_mean"] >= 0.995
        assert entry.parity["cosine_min"] >= 0.99
        assert entry.parity["agreement"] >= 98
        assert entry.parity["invariance_cosine"] >= 0.999


@pytest.mark.parametrize("runtime", ["onnxrt", "openvino"])
def test_minilm_in_int8_keeps_its_score_and_no_text_depends_on_its_neighbours(
    minilm_bundle: Bundle, stsb: Path, runtime: str
) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed (extra: openvino)")
    pairs = load_pairs(str(stsb / "test.csv"))
    long = [" ".join(pairs.texts[start : start + 10]) for start in range(0, 600, 10)]
    with (
        Encoder(minilm_bundle) as reference,
        Encoder(minilm_bundle, runtime=runtime, precision="int8") as encoder,
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


@pytest.mark.parametrize("precision", HALVES)
def test_minilm_in_half_is_what_torch_computes_in_half(
    minilm: Path, minilm_halves: Bundle, precision: Precision
) -> None:
    shapes = shape_batches(minilm_halves.tokenizer.encode(PROBES), minilm_halves.manifest.text)
    shapes = [batch for batch in shapes if batch.input_ids.size <= 2 * 256]  # torch takes minutes for larger batches
    expected = in_half(minilm, precision, shapes)
    for layer in minilm_halves.grid.layers:
        with RoundedRuntime(minilm_halves.variant(layer, precision)) as runtime:
            found = [runtime.vectors(batch) for batch in shapes]
        assert cosine(np.concatenate(found), np.concatenate(expected[layer - 1])).min() > ALIKE[precision]


def test_six_graphs_share_one_copy_of_the_weights(minilm_bundle: Bundle) -> None:
    sizes = {name: entry.size for name, entry in minilm_bundle.manifest.files.items() if ".fp32." in name}
    deepest = minilm_bundle.entry(6, "fp32")
    assert minilm_bundle.grid.layers == (1, 2, 3, 4, 5, 6)
    # The deepest graph uses nearly all of the one file of weights: 22.6M parameters of 4 bytes.
    assert sum(sizes.values()) <= 1.03 * (sizes[deepest.graph()] + sizes[deepest.weights])
    assert 90e6 < sizes[deepest.weights] < 91.5e6


def wide_checkpoint(folder: Path) -> None:
    """A random encoder as wide as distilbert-base, of 2 of its 6 layers, with the tiny tokenizer."""
    import torch
    from transformers import AutoModel, DistilBertConfig

    torch.manual_seed(0)
    AutoModel.from_config(DistilBertConfig(n_layers=2)).save_pretrained(folder)
    tiny_tokenizer(512).save_pretrained(folder)


def test_an_encoder_of_the_width_of_distilbert_builds_with_every_exit(tmp_path: Path) -> None:
    wide_checkpoint(tmp_path / "checkpoint")
    bundle = build(str(tmp_path / "checkpoint"), tmp_path / "wide.m2d")
    assert (bundle.grid.depth, bundle.grid.width) == (2, 768)
    assert bundle.grid.dims == (768, 512, 256, 128, 64, 32)
    assert 151e6 < bundle.manifest.files["graphs/weights.fp32.bin"].size < 154e6  # 38.0M parameters of 4 bytes
    for entry in bundle.manifest.variants:
        assert entry.parity["cosine_min"] >= 0.99999
        session = ort.InferenceSession(bundle.root / entry.graph(), providers=["CPUExecutionProvider"])
        ids = np.full((2, 9), 7, dtype=np.int64)
        (vectors,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        assert vectors.shape == (2, 768)
