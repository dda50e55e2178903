"""Texts in, vectors out: the contract of ``Encoder`` on real graphs."""

import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2d_export import Bundle, Encoder, encoder, pipeline
from m2d_export.errors import BundleError, CheckpointError, InputError, RuntimeUnavailable, SpecError
from tests.conftest import LAYERS, WIDTH, save_checkpoint

TEXTS = [
    "A man is playing a guitar.",
    "no",
    "",
    "   ",
    "\0",
    "The cat sat on the mat. " * 9,
    "naïve café, 東京, 👩‍👧",
    "interest rates rose",
    "a " * 40,
    "word",
]


@pytest.fixture(scope="module")
def full(bundle: Bundle) -> Iterator[Encoder]:
    """The deepest layer at full width."""
    with Encoder(bundle) as opened:
        yield opened


def test_vectors_come_back_in_the_order_of_their_texts(full: Encoder) -> None:
    vectors = full.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), WIDTH)
    assert vectors.dtype == np.float32
    for text, vector in zip(TEXTS, vectors, strict=True):
        np.testing.assert_allclose(full.encode([text])[0], vector, atol=1e-5)
    shuffled = np.random.default_rng(0).permutation(len(TEXTS))
    np.testing.assert_allclose(full.encode([TEXTS[place] for place in shuffled]), vectors[shuffled], atol=1e-5)


@pytest.mark.parametrize("layer", range(1, LAYERS + 1))
def test_a_text_has_one_vector_alone_and_among_many_others(bundle: Bundle, layer: int) -> None:
    others = ["on the mat " * (place % 17) for place in range(200)]
    with Encoder(bundle, layer) as opened:
        alone = opened.encode(["The cat sat on the mat."])[0]
        for place in (0, 100, 200):
            among = opened.encode([*others[:place], "The cat sat on the mat.", *others[place:]])
            np.testing.assert_allclose(among[place], alone, atol=1e-5)


def test_different_texts_have_different_vectors(full: Encoder) -> None:
    vectors = full.encode(["The cat sat on the mat.", "interest rates rose"])
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


@pytest.mark.parametrize("dim", [None, 1, 33])
def test_no_texts_give_no_vectors(bundle: Bundle, dim: int | None) -> None:
    with Encoder(bundle, dim=dim) as opened:
        vectors = opened.encode([])
    assert vectors.shape == (0, dim or WIDTH)
    assert vectors.dtype == np.float32


@pytest.mark.parametrize("window", [1, 3, 4, 100])
def test_a_generator_of_more_texts_than_a_window_is_read_to_its_end(
    full: Encoder, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    expected = full.encode(TEXTS)
    monkeypatch.setattr(encoder, "WINDOW", window)
    np.testing.assert_allclose(full.encode(text for text in TEXTS), expected, atol=1e-5)


def test_a_bad_item_is_named_by_its_place_in_the_whole_input(full: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "WINDOW", 3)
    with pytest.raises(InputError, match="item 7 is NoneType, not str") as caught:
        full.encode(["fine"] * 7 + [None])  # type: ignore[list-item]
    assert caught.value.index == 7


def test_an_error_of_the_callers_own_iterator_is_the_callers(full: Encoder) -> None:
    def texts() -> Iterator[str]:
        yield "fine"
        raise ConnectionError("the source went away")

    with pytest.raises(ConnectionError, match="the source went away"):
        full.encode(texts())
    assert full.encode(["fine"]).shape == (1, WIDTH)


@pytest.mark.parametrize("texts", ["one text", b"one text", "", 5, None])
def test_what_is_no_list_of_texts_is_refused(full: Encoder, texts: Any) -> None:
    with pytest.raises(InputError, match=f"texts is one {type(texts).__name__}: pass a list of texts") as caught:
        full.encode(texts)
    assert caught.value.index is None


def test_any_sequence_of_strings_will_do(full: Encoder) -> None:
    expected = full.encode(TEXTS[:2])
    for texts in (tuple(TEXTS[:2]), np.array(TEXTS[:2]), dict.fromkeys(TEXTS[:2])):
        np.testing.assert_array_equal(full.encode(texts), expected)


@pytest.mark.parametrize("layer", [0, LAYERS + 1, 7, -1, "x", "1", 1.0, True])
def test_a_layer_that_is_not_there_is_refused(bundle: Bundle, layer: Any) -> None:
    with pytest.raises(SpecError, match=r"no exit at layer .*: this grid has layers 1, 2, 3|a layer is a whole number"):
        Encoder(bundle, layer)


@pytest.mark.parametrize("dim", [0, -1, WIDTH + 1, 9999, "x", 32.0, True])
def test_a_dim_that_is_not_there_is_refused(bundle: Bundle, dim: Any) -> None:
    with pytest.raises(SpecError, match=r"dim .* is out of range: .* have 1 to 64 dims|a dim is a whole number"):
        Encoder(bundle, dim=dim)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "onnx"}, "no runtime 'onnx': there are onnxrt, openvino, pytorch"),
        ({"precision": "int8"}, "no int8 variant of layer 3 .* built with fp32"),
        ({"threads": 0}, "threads must be a whole number from 1, got 0"),
        ({"threads": True}, "threads must be a whole number from 1, got True"),
        ({"threads": 1.5}, "threads must be a whole number from 1"),
    ],
)
def test_an_option_that_does_not_exist_is_refused(bundle: Bundle, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Encoder(bundle, **options)


@pytest.mark.parametrize(("layer", "dim"), [(1, 1), (2, 33), (3, 64)])
def test_a_cell_is_the_prefix_of_its_layers_vector_scaled_to_unit_length(bundle: Bundle, layer: int, dim: int) -> None:
    with Encoder(bundle, layer, normalize=False) as opened:
        whole = opened.encode(TEXTS)
    with Encoder(bundle, layer, dim) as opened:
        assert (opened.cell.layer, opened.cell.dim) == (layer, dim)
        cut = opened.encode(TEXTS)
    prefix = whole[:, :dim]
    np.testing.assert_allclose(cut, prefix / np.linalg.norm(prefix, axis=1, keepdims=True), atol=1e-5)


def test_vectors_have_unit_length_unless_told_otherwise(bundle: Bundle) -> None:
    lengths = {}
    for normalize in (None, True, False):
        with Encoder(bundle, dim=16, normalize=normalize) as opened:
            lengths[normalize] = np.linalg.norm(opened.encode(TEXTS), axis=1)
    np.testing.assert_allclose(lengths[None], 1, atol=1e-6)
    np.testing.assert_allclose(lengths[True], 1, atol=1e-6)
    assert (np.abs(lengths[False] - 1) > 0.1).all()


def altered(root: Path, change: dict[str, Any]) -> Bundle:
    """The bundle in ``root``, its manifest changed."""
    manifest = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps(manifest | change))
    return Bundle.open(root)


def test_a_checkpoint_that_does_not_normalise_keeps_its_lengths_by_default(copied_bundle: Path) -> None:
    bundle = altered(copied_bundle, {"normalize": False})
    with Encoder(bundle) as as_it_is, Encoder(bundle, normalize=True) as scaled:
        assert not np.allclose(np.linalg.norm(as_it_is.encode(TEXTS), axis=1), 1, atol=0.1)
        np.testing.assert_allclose(np.linalg.norm(scaled.encode(TEXTS), axis=1), 1, atol=1e-6)


def test_the_full_cell_agrees_with_sentence_transformers(checkpoint: Path, full: Encoder) -> None:
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(checkpoint), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(full.encode(TEXTS), expected, atol=1e-5)


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    """A checkpoint with a default prompt, whose prompts' tokens are not pooled, and its bundle."""
    folder = tmp_path_factory.mktemp("prompted")
    prompts = {"query": "a woman is: ", "passage": "the man"}
    checkpoint = save_checkpoint(
        folder / "checkpoint", prompts=prompts, default_prompt_name="passage", include_prompt=False
    )
    return checkpoint, pipeline.build(pipeline.plan(str(checkpoint), folder / "bundle.m2d", layers=[LAYERS]))


@pytest.mark.parametrize(
    "options",
    [{}, {"prompt_name": "query"}, {"prompt_name": "passage"}, {"prompt": "on the stage "}, {"prompt": ""}],
    ids=repr,
)
def test_prompts_agree_with_sentence_transformers(prompted: tuple[Path, Bundle], options: dict[str, Any]) -> None:
    from sentence_transformers import SentenceTransformer

    checkpoint, bundle = prompted
    expected = SentenceTransformer(str(checkpoint), device="cpu").encode(TEXTS, **options)
    with Encoder(bundle) as opened:
        np.testing.assert_allclose(opened.encode(TEXTS, **options), expected, atol=1e-5)
        without = opened.encode(TEXTS, prompt="")
    assert (options == {"prompt": ""}) == np.allclose(expected, without, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_name": "qurey"}, "no prompt named 'qurey': this checkpoint has document, passage, query"),
        ({"prompt_name": "query", "prompt": "x"}, "give either prompt or prompt_name"),
    ],
)
def test_a_prompt_that_does_not_exist_is_refused(
    prompted: tuple[Path, Bundle], options: dict[str, str], message: str
) -> None:
    with Encoder(prompted[1]) as opened, pytest.raises(SpecError, match=message):
        opened.encode(["text"], **options)


@pytest.mark.parametrize("runtime", ["onnxrt", "pytorch"])
def test_a_closed_encoder_says_so_however_often_it_is_closed(bundle: Bundle, runtime: str) -> None:
    opened = Encoder(bundle, runtime=runtime)
    opened.encode(["text"])
    opened.close()
    opened.close()
    with pytest.raises(SpecError, match="closed"):
        opened.encode(["text"])


def test_threads_may_share_one_encoder(full: Encoder) -> None:
    inputs = [TEXTS[place:] + TEXTS[:place] for place in range(8)]
    expected = [full.encode(texts) for texts in inputs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for vectors, alone in zip(pool.map(full.encode, inputs), expected, strict=True):
                np.testing.assert_array_equal(vectors, alone)


def test_a_missing_onnxruntime_is_named_with_the_extra_that_has_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeUnavailable, match=r"onnxruntime is not installed.*pip install 'm2d-export\[cpu\]'"):
        Encoder(bundle)


def test_the_pytorch_runtime_gives_the_same_vectors(bundle: Bundle, full: Encoder) -> None:
    with Encoder(bundle, runtime="pytorch") as opened:
        assert opened.runtime.provider == "cpu"
        np.testing.assert_allclose(opened.encode(TEXTS), full.encode(TEXTS), atol=2e-5)


def test_the_pytorch_runtime_needs_the_checkpoint_where_it_was(copied_bundle: Path, tmp_path: Path) -> None:
    origin = json.loads((copied_bundle / "manifest.json").read_text())["origin"]
    bundle = altered(copied_bundle, {"origin": origin | {"name": str(tmp_path / "moved")}})
    with pytest.raises(CheckpointError, match=r"moved is neither a folder nor a Hub id"):
        Encoder(bundle, runtime="pytorch")
    with Encoder(bundle) as opened:
        assert opened.encode(["text"]).shape == (1, WIDTH)


def test_the_pytorch_runtime_refuses_a_checkpoint_that_has_changed(
    checkpoint: Path, copied_bundle: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    changed = Path(shutil.copytree(checkpoint, tmp_path / "changed"))
    weights = load_file(changed / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][0, 0] += 1
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    origin = json.loads((copied_bundle / "manifest.json").read_text())["origin"]
    bundle = altered(copied_bundle, {"origin": origin | {"name": str(changed)}})
    with pytest.raises(CheckpointError, match="changed has changed since this bundle was built from it"):
        Encoder(bundle, runtime="pytorch")


def test_a_bundle_that_is_not_there_says_how_to_build_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="build one with m2d-export build"):
        Encoder(Bundle.open(tmp_path / "none.m2d"))


def test_the_checkpoints_own_dim_is_the_default(bundle: Bundle) -> None:
    cut = replace(bundle, manifest=replace(bundle.manifest, truncate_dim=32))
    with Encoder(cut) as own, Encoder(bundle, dim=32) as asked:
        np.testing.assert_array_equal(own.encode(["the cat"]), asked.encode(["the cat"]))


def test_a_batch_that_the_model_cannot_run_is_one_clear_error(bundle: Bundle) -> None:
    wrong = replace(bundle.manifest.text, pad_id=10**9)
    with Encoder(replace(bundle, manifest=replace(bundle.manifest, text=wrong))) as opened:
        texts = ["the cat sat on the", "the cat sat on the mat"]  # one of them is padded
        with pytest.raises(RuntimeUnavailable, match="cannot run this batch"):
            opened.encode(texts)
