"""``slice``: an exit as an ordinary sentence-transformers folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from torch import nn

from m2d_export import Bundle, Encoder, build
from m2d_export.checkpoints.slice import slice_checkpoint
from m2d_export.errors import CheckpointError, OutputError, SpecError

TEXTS = ["A man is playing a guitar.", "no", "The cat sat on the mat."]


@pytest.mark.parametrize(("layer", "dim"), [(1, 32), (2, None), (3, 64)])
def test_a_slice_loads_in_sentence_transformers_and_gives_the_cells_vectors(
    checkpoint: Path, bundle: Bundle, tmp_path: Path, layer: int, dim: int | None
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = slice_checkpoint(str(checkpoint), layer, tmp_path / "slice", dim=dim)
    model = SentenceTransformer(str(folder), device="cpu")
    assert model[0].auto_model.config.num_hidden_layers == layer
    # sentence-transformers truncates after Normalize, so it must be asked to normalise again.
    vectors = model.encode(TEXTS, normalize_embeddings=True)
    with Encoder(bundle, layer, dim) as encoder:
        np.testing.assert_allclose(vectors, encoder.encode(TEXTS), atol=2e-6)
    assert list(tmp_path.iterdir()) == [folder]


def test_an_exit_that_no_plain_folder_can_express_is_refused(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint("modernbert")
    with pytest.raises(CheckpointError, match=r"ModernBertModel .*exit 2"):
        slice_checkpoint(str(checkpoint), 2, tmp_path / "slice")
    assert not (tmp_path / "slice").exists()
    assert slice_checkpoint(str(checkpoint), 3, tmp_path / "whole").is_dir()


def test_wrong_cells_and_existing_outputs_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="1, 2, 3"):
        slice_checkpoint(str(checkpoint), 4, tmp_path / "slice")
    with pytest.raises(SpecError, match="1 to 64"):
        slice_checkpoint(str(checkpoint), 1, tmp_path / "slice", dim=65)
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="taken"):
        slice_checkpoint(str(checkpoint), 1, tmp_path / "taken")
    assert not (tmp_path / "slice").exists()


OF_A_TABLE = [*TEXTS, "a dog " * 40, "\u6771\u4eac cat", "[MASK] the cat", "[SEP]x"]  # long, unknown and special tokens


@pytest.mark.parametrize("dim", [64, 20])
def test_exit_0_is_a_static_embedding_with_the_vectors_of_the_cell(
    table_checkpoint: Path, tabled: Bundle, tmp_path: Path, dim: int
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = slice_checkpoint(str(table_checkpoint), 0, tmp_path / "slice", dim=dim)
    model = SentenceTransformer(str(folder), device="cpu")
    assert type(model[0]).__name__ == "StaticEmbedding"
    with Encoder(tabled, 0, dim) as encoder:
        np.testing.assert_allclose(model.encode(OF_A_TABLE), encoder.encode(OF_A_TABLE), atol=1e-5)
        assert np.linalg.norm(encoder.encode([""])) == pytest.approx(1)
    np.testing.assert_array_equal(model.encode(["", "\u6771"]), np.zeros((2, dim)))  # no token with a row
    assert list(tmp_path.iterdir()) == [folder]


def test_model2vec_loads_the_folder_of_exit_0(table_checkpoint: Path, tabled: Bundle, tmp_path: Path) -> None:
    model2vec = pytest.importorskip("model2vec", reason="model2vec is not installed (extra: dev)")
    model = model2vec.StaticModel.from_pretrained(slice_checkpoint(str(table_checkpoint), 0, tmp_path / "s", dim=20))
    with Encoder(tabled, 0, 20) as encoder:
        np.testing.assert_allclose(model.encode(OF_A_TABLE), encoder.encode(OF_A_TABLE), atol=1e-5)


def test_exit_0_keeps_prompts_and_folds_the_modules_after_it(make_checkpoint: Callable[..., Path]) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense

    tail = (Dense(64, 48, activation_function=nn.Identity()),)
    checkpoint = make_checkpoint(table=True, tail=tail, normalize=False, prompts={"query": "a cat: "})
    folder = slice_checkpoint(str(checkpoint), 0, checkpoint.parent / "slice")
    model = SentenceTransformer(str(folder), device="cpu")
    assert [type(module).__name__ for module in model] == ["StaticEmbedding"]
    with Encoder(build(str(checkpoint), checkpoint.parent / "b.m2d", layers=[0])) as encoder:
        for options in ({}, {"prompt_name": "query"}):
            expected = encoder.encode(TEXTS, **options)
            np.testing.assert_allclose(model.encode(TEXTS, **options), expected, atol=1e-5)


def test_the_rows_of_exit_0_are_those_of_the_tokenizer(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """model2vec refuses more rows than tokens, and tables are often larger."""
    checkpoint = make_checkpoint(table=True, spare_rows=10)
    folder = slice_checkpoint(str(checkpoint), 0, tmp_path / "slice")
    tensors = load_file(folder / "model.safetensors")
    assert list(tensors) == ["embeddings"]
    assert len(tensors["embeddings"]) == Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "no exit 0"),
        ({"table": True, "bent": True}, "Tanh"),
        ({"table": True, "include_prompt": False, "prompts": {"query": "a cat: "}}, "prompts"),
    ],
)
def test_an_exit_0_that_no_static_embedding_can_be_is_refused(
    make_checkpoint: Callable[..., Path], settings: dict[str, Any], named: str
) -> None:
    from sentence_transformers.sentence_transformer.modules import Dense

    if settings.pop("bent", False):
        settings["tail"] = (Dense(64, 64, activation_function=nn.Tanh()),)
    checkpoint = make_checkpoint(**settings)
    with pytest.raises(CheckpointError, match=named):
        slice_checkpoint(str(checkpoint), 0, checkpoint.parent / "slice")
    assert not (checkpoint.parent / "slice").exists()
