"""``m2d-export onnx``: a cell as a folder that other tools load."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from tokenizers import Tokenizer

from m2d_export import Bundle, Cell, Encoder
from m2d_export.cli import cli
from m2d_export.deploy.folder import write_folder
from m2d_export.errors import OutputError, SpecError
from tests.support.checkpoints import ARCHITECTURES
from tests.support.other_tools import python_of

pytestmark = pytest.mark.slow

TEXTS = ["A man is playing a guitar.", "no", "The cat sat on the mat. " * 20]

SENTENCE_TRANSFORMERS = """
from sentence_transformers import SentenceTransformer
provider = {"provider": "CPUExecutionProvider"}
model = SentenceTransformer(folder, backend="onnx", device="cpu", model_kwargs=provider)
vectors = model.encode(texts)
"""
OPTIMUM = """
from optimum.onnxruntime import ORTModelForFeatureExtraction
from transformers import AutoTokenizer
model = ORTModelForFeatureExtraction.from_pretrained(folder, subfolder="onnx", provider="CPUExecutionProvider")
tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, truncation=True, return_tensors="pt")
states, mask = model(**tokens).last_hidden_state, tokens["attention_mask"].unsqueeze(-1)
vectors = ((states * mask).sum(1) / mask.sum(1)).numpy()
"""
FASTEMBED = """
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
options = {"pooling": PoolingType.DISABLED, "normalization": False, "sources": ModelSource(url="unused")}
TextEmbedding.add_custom_model("cell", dim=32, model_file="onnx/model.onnx", **options)
vectors = np.stack(list(TextEmbedding("cell", specific_model_path=folder).embed(texts)))
"""
PROGRAM = """
import json, sys
import numpy as np
folder, output = sys.argv[1:]
texts = json.load(sys.stdin)
{code}
np.save(output, vectors)
"""


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_folder_needs_no_other_file(
    quantized: Bundle, tabled: Bundle, tmp_path: Path, layer: int, precision: str
) -> None:
    bundle = quantized if layer else tabled
    folder = write_folder(bundle, Cell(layer, 32), tmp_path / "cell", precision=precision)
    assert list(tmp_path.iterdir()) == [folder]
    encodings = Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(TEXTS)
    ids = np.array([encoding.ids for encoding in encodings])
    mask = np.array([encoding.attention_mask for encoding in encodings])
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    (vectors,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    with Encoder(bundle, layer, 32, precision=precision) as encoder:
        np.testing.assert_allclose(vectors, encoder.encode(TEXTS), atol=1e-6 if precision == "fp32" else 1e-3)


def test_the_output_for_tools_that_pool_repeats_the_vector_at_every_token(bundle: Bundle, tmp_path: Path) -> None:
    folder = write_folder(bundle, Cell(2, 32), tmp_path / "cell", last_hidden_state=True)
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["sentence_embedding", "last_hidden_state"]
    ids = np.array([[3, 7, 9, 4], [3, 8, 4, 1]])
    vectors, states = session.run(None, {"input_ids": ids, "attention_mask": (ids != 1).astype(np.int64)})
    assert states.shape == (2, 4, 32)
    np.testing.assert_array_equal(states, np.repeat(vectors[:, None], 4, axis=1))


def test_the_settings_are_those_of_the_cell(bundle: Bundle, tmp_path: Path) -> None:
    folder = write_folder(bundle, Cell(2, 32), tmp_path / "cell")
    config = json.loads((folder / "config.json").read_text())
    settings = {key: config[key] for key in ("model_type", "hidden_size", "num_hidden_layers", "pad_token_id")}
    assert settings == {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 1}
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert pooling["word_embedding_dimension"] == 32
    assert json.loads((folder / "tokenizer_config.json").read_text())["pad_token"] == "[PAD]"
    assert json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"] == 48


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_transformers_reads_the_settings_of_every_architecture(
    architecture_of: Callable[[str], tuple[Path, Bundle]], architecture: str, tmp_path: Path
) -> None:
    from transformers import AutoConfig, AutoTokenizer

    checkpoint, bundle = architecture_of(architecture)
    original = AutoConfig.from_pretrained(checkpoint)
    folder = write_folder(bundle, Cell(2, 32), tmp_path / "cell")
    config = AutoConfig.from_pretrained(folder)
    assert type(config) is type(original)
    assert (config.hidden_size, config.num_hidden_layers) == (32, 2)
    assert config.num_attention_heads == original.num_attention_heads
    assert config.vocab_size == original.vocab_size
    assert AutoTokenizer.from_pretrained(folder)("a cat").input_ids == [*bundle.tokenizer.encode(["a cat"])[0].ids]


def test_an_existing_target_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=str(tmp_path)):
        write_folder(bundle, Cell(1, 32), tmp_path)


def test_a_wrong_cell_and_a_prompt_that_is_not_pooled_are_refused(
    bundle: Bundle, prompted: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match="layer 9"):
        write_folder(bundle, Cell(9, 32), tmp_path / "new")
    with pytest.raises(SpecError, match="prompt"):
        write_folder(prompted, Cell(1, 32), tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_the_default_cell_is_the_deepest_exit_at_full_width(bundle: Bundle, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["onnx", str(bundle.root), "-o", str(tmp_path / "cell")], catch_exceptions=False)
    assert "3x64" in done.stdout
    assert json.loads((tmp_path / "cell" / "config.json").read_text())["num_hidden_layers"] == 3


def test_a_dim_of_zero_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    given = ["onnx", str(bundle.root), "--cell", "3x0", "-o", str(tmp_path / "cell")]
    done = CliRunner().invoke(cli, given, catch_exceptions=True)
    assert isinstance(done.exception, SpecError)
    assert not list(tmp_path.iterdir())


def test_a_note_points_out_the_default_prompt(copied_bundle: Path, tmp_path: Path) -> None:
    manifest = Bundle.open(copied_bundle).manifest
    text = replace(manifest.text, prompts={"query": "a cat is "}, default_prompt_name="query")
    (copied_bundle / "manifest.json").write_text(replace(manifest, text=text).to_json(), encoding="utf-8")
    done = CliRunner().invoke(cli, ["onnx", str(copied_bundle), "-o", str(tmp_path / "cell")], catch_exceptions=False)
    assert "'a cat is '" in done.stderr


@pytest.mark.parametrize(
    ("environment", "code", "precision"),
    [
        ("st5", SENTENCE_TRANSFORMERS, "fp32"),
        ("st5", OPTIMUM, "fp32"),
        ("fastembed", FASTEMBED, "fp32"),
        ("fastembed", FASTEMBED, "int8"),
    ],
    ids=["sentence-transformers", "optimum", "fastembed", "fastembed int8"],
)
def test_other_tools_give_the_encoders_vectors(
    quantized: Bundle, tmp_path: Path, environment: str, code: str, precision: str
) -> None:
    python = python_of(environment)
    folder = write_folder(
        quantized, Cell(1, 32), tmp_path / "cell", precision=precision, last_hidden_state=environment != "fastembed"
    )
    command = [python, "-c", PROGRAM.format(code=code), folder, tmp_path / "vectors.npy"]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, input=json.dumps(TEXTS), capture_output=True, text=True, cwd=tmp_path, env=variables)
    assert done.returncode == 0, done.stderr
    with Encoder(quantized, 1, 32, precision=precision) as encoder:
        expected = encoder.encode(TEXTS)
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), expected, atol=1e-6 if precision == "fp32" else 1e-3)
