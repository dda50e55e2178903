"""``Encoder``: texts in, vectors out, on real graphs."""

import copy
import json
import pickle
import shutil
import sys
from collections import UserDict, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2d_export import Bundle, Encoder, encoder
from m2d_export.errors import BundleError, CheckpointError, InputError, NotFiniteError, RuntimeUnavailable, SpecError
from m2d_export.text.batches import Batch
from m2d_export.vectors import FloatArray
from tests.conftest import built
from tests.support.checkpoints import LAYERS, WIDTH, save_checkpoint
from tests.support.fake_runtime import FakeRuntime
from tests.support.shared import Once

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
    """The deepest exit at full width."""
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
def test_a_text_has_the_same_vector_alone_and_in_any_batch(bundle: Bundle, layer: int) -> None:
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
def test_a_generator_longer_than_a_window_is_read_to_its_end(
    full: Encoder, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    expected = full.encode(TEXTS)
    monkeypatch.setattr(encoder, "WINDOW", window)
    np.testing.assert_allclose(full.encode(text for text in TEXTS), expected, atol=1e-5)


def test_an_invalid_item_is_named_by_its_place_in_the_input(full: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "WINDOW", 3)
    with pytest.raises(InputError, match="item 7") as caught:
        full.encode(["fine"] * 7 + [None])  # type: ignore[list-item]
    assert caught.value.index == 7


def test_an_error_of_the_callers_iterator_reaches_the_caller(full: Encoder) -> None:
    def texts() -> Iterator[str]:
        yield "fine"
        raise ConnectionError("the source went away")

    with pytest.raises(ConnectionError, match="the source went away"):
        full.encode(texts())
    assert full.encode(["fine"]).shape == (1, WIDTH)


NO_LISTS = ["one text", b"one text", "", 5, None, {"a": "b"}, {}, UserDict(a="b"), {"a", "b"}, frozenset("a")]
NO_LISTS += [np.array([["a", "b"]]), np.array("a")]


@pytest.mark.parametrize("texts", NO_LISTS, ids=lambda texts: type(texts).__name__)
def test_an_input_that_is_no_list_of_texts_is_refused(full: Encoder, texts: Any) -> None:
    for call in (full.encode, full.stream, full.tune):
        with pytest.raises(InputError, match=f"texts is {type(texts).__name__}") as caught:
            call(texts)
        assert caught.value.index is None


def test_a_column_of_pandas_is_a_list_of_texts_and_a_table_is_not(full: Encoder) -> None:
    table = pytest.importorskip("pandas").DataFrame({"text": TEXTS[:3]}, index=[7, 8, 9])
    np.testing.assert_array_equal(full.encode(table["text"]), full.encode(TEXTS[:3]))
    with pytest.raises(InputError, match="DataFrame"):
        full.encode(table)


def test_an_array_of_numbers_is_refused_by_its_first_item(full: Encoder) -> None:
    with pytest.raises(InputError, match="item 0 is int64") as caught:
        full.encode(np.arange(3))  # type: ignore[arg-type]
    assert caught.value.index == 0


def test_any_iterable_of_strings_is_accepted(full: Encoder) -> None:
    expected = full.encode(TEXTS[:2])
    texts = TEXTS[:2]
    named = dict(enumerate(texts))
    for given in (tuple(texts), np.array(texts), deque(texts), iter(texts), named.values()):
        np.testing.assert_array_equal(full.encode(given), expected)


@pytest.mark.parametrize("layer", [0, LAYERS + 1, 7, -1, "x", "1", 1.0, True])
def test_a_layer_without_an_exit_is_refused(bundle: Bundle, layer: Any) -> None:
    with pytest.raises(SpecError, match=rf"layers 1, 2, 3|whole number, got {layer!r}"):
        Encoder(bundle, layer)


@pytest.mark.parametrize("dim", [0, -1, WIDTH + 1, 9999, "x", 32.0, True])
def test_a_dim_outside_the_width_is_refused(bundle: Bundle, dim: Any) -> None:
    with pytest.raises(SpecError, match=rf"dim {dim} .* 1 to 64|whole number, got {dim!r}"):
        Encoder(bundle, dim=dim)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "onnx"}, "'onnx'.*onnxrt, openvino, pytorch"),
        ({"precision": "int8"}, "fp32.*int8"),
        ({"threads": 0}, "threads .* 0"),
        ({"threads": True}, "threads .* True"),
        ({"threads": 1.5}, r"threads .* 1\.5"),
    ],
)
def test_an_option_that_does_not_exist_is_refused(bundle: Bundle, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Encoder(bundle, **options)


@pytest.mark.parametrize(("layer", "dim"), [(1, 1), (2, 33), (3, 64)])
def test_a_cell_is_the_start_of_its_layers_vector_scaled_to_unit_length(bundle: Bundle, layer: int, dim: int) -> None:
    with Encoder(bundle, layer, normalize=False) as opened:
        whole = opened.encode(TEXTS)
    with Encoder(bundle, layer, dim) as opened:
        assert (opened.cell.layer, opened.cell.dim) == (layer, dim)
        cut = opened.encode(TEXTS)
    prefix = whole[:, :dim]
    np.testing.assert_allclose(cut, prefix / np.linalg.norm(prefix, axis=1, keepdims=True), atol=1e-5)


def test_vectors_have_unit_length_unless_normalize_is_false(bundle: Bundle) -> None:
    lengths = {}
    for normalize in (None, True, False):
        with Encoder(bundle, dim=16, normalize=normalize) as opened:
            lengths[normalize] = np.linalg.norm(opened.encode(TEXTS), axis=1)
    np.testing.assert_allclose(lengths[None], 1, atol=1e-6)
    np.testing.assert_allclose(lengths[True], 1, atol=1e-6)
    assert (np.abs(lengths[False] - 1) > 0.1).all()


def altered(root: Path, change: dict[str, Any]) -> Bundle:
    """The bundle in ``root`` with a changed manifest."""
    manifest = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps(manifest | change))
    return Bundle.open(root)


def test_lengths_stay_by_default_if_the_checkpoint_does_not_normalise(copied_bundle: Path) -> None:
    bundle = altered(copied_bundle, {"normalize": False})
    with Encoder(bundle) as as_it_is, Encoder(bundle, normalize=True) as scaled:
        assert not np.allclose(np.linalg.norm(as_it_is.encode(TEXTS), axis=1), 1, atol=0.1)
        np.testing.assert_allclose(np.linalg.norm(scaled.encode(TEXTS), axis=1), 1, atol=1e-6)


def test_the_full_cell_agrees_with_sentence_transformers(checkpoint: Path, full: Encoder) -> None:
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(checkpoint), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(full.encode(TEXTS), expected, atol=1e-5)


@pytest.fixture(scope="module")
def with_prompts(once: Once) -> tuple[Path, Bundle]:
    """A checkpoint with a default prompt that does not pool the tokens of prompts, and its bundle."""
    prompts = {"query": "a woman is: ", "passage": "the man"}
    options = {"prompts": prompts, "default_prompt_name": "passage", "include_prompt": False}
    checkpoint = once("two-prompts-checkpoint", lambda folder: save_checkpoint(folder / "tiny", **options)) / "tiny"
    return checkpoint, built(once, "two-prompts", checkpoint, layers=[LAYERS])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"prompt_name": "query"}, {"prompt_name": "passage"}, {"prompt": "on the stage "}, {"prompt": ""}],
    ids=repr,
)
def test_prompts_agree_with_sentence_transformers(with_prompts: tuple[Path, Bundle], options: dict[str, Any]) -> None:
    from sentence_transformers import SentenceTransformer

    checkpoint, bundle = with_prompts
    expected = SentenceTransformer(str(checkpoint), device="cpu").encode(TEXTS, **options)
    with Encoder(bundle) as opened:
        np.testing.assert_allclose(opened.encode(TEXTS, **options), expected, atol=1e-5)
        without = opened.encode(TEXTS, prompt="")
    assert (options == {"prompt": ""}) == np.allclose(expected, without, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_name": "qurey"}, "'qurey'.* document, passage, query"),
        ({"prompt_name": "query", "prompt": "x"}, "prompt_name"),
    ],
)
def test_an_unknown_prompt_is_refused(with_prompts: tuple[Path, Bundle], options: dict[str, str], message: str) -> None:
    with Encoder(with_prompts[1]) as opened, pytest.raises(SpecError, match=message):
        opened.encode(["text"], **options)


@pytest.mark.parametrize("runtime", ["onnxrt", "pytorch"])
def test_a_closed_encoder_refuses_texts_and_can_be_closed_twice(bundle: Bundle, runtime: str) -> None:
    opened = Encoder(bundle, runtime=runtime)
    opened.encode(["text"])
    opened.close()
    opened.close()
    with pytest.raises(SpecError, match="closed"):
        opened.encode(["text"])


def test_threads_can_share_one_encoder(full: Encoder) -> None:
    inputs = [TEXTS[place:] + TEXTS[:place] for place in range(8)]
    expected = [full.encode(texts) for texts in inputs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for vectors, alone in zip(pool.map(full.encode, inputs), expected, strict=True):
                np.testing.assert_array_equal(vectors, alone)


def test_a_missing_package_is_named_with_its_extra(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeUnavailable, match=r"onnxruntime.*m2d-export\[cpu\]"):
        Encoder(bundle)


def test_the_pytorch_runtime_gives_the_same_vectors(bundle: Bundle, full: Encoder) -> None:
    with Encoder(bundle, runtime="pytorch") as opened:
        assert opened.runtime.provider == "cpu"
        np.testing.assert_allclose(opened.encode(TEXTS), full.encode(TEXTS), atol=2e-5)


def test_the_pytorch_runtime_is_told_where_the_checkpoint_lies(
    checkpoint: Path, copied_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"folder tiny.*--checkpoint"):
        Encoder(copied_bundle, runtime="pytorch")
    with pytest.raises(CheckpointError, match="moved"):
        Encoder(Bundle.open(copied_bundle, tmp_path / "moved"), runtime="pytorch")
    moved = shutil.copytree(checkpoint, tmp_path / "moved")
    with Encoder(Bundle.open(copied_bundle, moved), runtime="pytorch") as opened:
        assert opened.encode(["text"]).shape == (1, WIDTH)


def test_the_pytorch_runtime_refuses_a_changed_checkpoint(
    checkpoint: Path, copied_bundle: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    changed = Path(shutil.copytree(checkpoint, tmp_path / "changed"))
    weights = load_file(changed / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][0, 0] += 1
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="changed is not what this bundle was built from"):
        Encoder(Bundle.open(copied_bundle, changed), runtime="pytorch")


@pytest.mark.parametrize("as_given", [str, Path, Bundle.open], ids=["str", "Path", "Bundle"])
def test_a_bundle_is_given_by_path_or_opened(bundle: Bundle, full: Encoder, as_given: Any) -> None:
    with Encoder(as_given(str(bundle.root)), layer=LAYERS, dim=WIDTH) as opened:
        np.testing.assert_array_equal(opened.encode(TEXTS), full.encode(TEXTS))


def test_a_path_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"none\.m2d.* m2d-export build"):
        Encoder(tmp_path / "none.m2d")


def test_the_default_dim_is_the_checkpoints_truncate_dim(bundle: Bundle) -> None:
    cut = replace(bundle, manifest=replace(bundle.manifest, truncate_dim=32))
    with Encoder(cut) as own, Encoder(bundle, dim=32) as asked:
        np.testing.assert_array_equal(own.encode(["the cat"]), asked.encode(["the cat"]))


def test_a_batch_that_the_runtime_cannot_run_is_an_error(bundle: Bundle) -> None:
    few = replace(bundle.manifest.text, vocabulary=bundle.manifest.text.pad_id + 1)
    with (
        Encoder(replace(bundle, manifest=replace(bundle.manifest, text=few))) as opened,
        pytest.raises(SpecError, match=f"expected 0 to {few.pad_id}: the tokenizer"),
    ):
        opened.encode(["the cat sat on the mat"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38], ids=str)
@pytest.mark.parametrize("normalize", [True, False])
def test_a_vector_that_is_not_finite_is_an_error_that_names_its_text(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, value: float, normalize: bool
) -> None:
    class Overflowing(FakeRuntime):
        def _vectors(self, batch: Batch) -> FloatArray:
            vectors = super()._vectors(batch)
            vectors[[len(set(ids)) == 3 for ids in batch.input_ids.tolist()], 7] = value  # of "cat": begin, cat, end
            return vectors

    monkeypatch.setattr(encoder, "WINDOW", 4)
    with Encoder(bundle, dim=4, normalize=normalize) as opened:
        opened.runtime = Overflowing(WIDTH)
        for texts in (["cat"], ["the cat sat"] * 5 + ["cat"] + ["the dog ran"] * 3):
            with pytest.raises(NotFiniteError) as caught:
                opened.encode(texts)
            assert caught.value.index == texts.index("cat")
        assert np.isfinite(opened.encode(["the cat sat"])).all()


def test_a_vector_of_zeros_stays_one(bundle: Bundle) -> None:
    class Zeros(FakeRuntime):
        def _vectors(self, batch: Batch) -> FloatArray:
            return super()._vectors(batch) * 0

    with Encoder(bundle, dim=4) as opened:
        opened.runtime = Zeros(WIDTH)
        np.testing.assert_array_equal(opened.encode(["the cat", "a dog"]), np.zeros((2, 4)))


def test_an_encoder_is_neither_copied_nor_pickled(bundle: Bundle) -> None:
    with Encoder(bundle) as encoder:
        for send in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(RuntimeUnavailable, match="open it there"):
                send(encoder)
