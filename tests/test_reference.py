"""The reference checkpoint in models/: what it scores through its exported graphs, and what it is without us."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import mean

import numpy as np
import pytest

from benchmarks.tables import result
from benchmarks.tables.shipped import FILE, SHIPPED, runs, scores_of
from m2d_export import Bundle, Cell, Encoder
from m2d_export.bench.similarity import spearman
from m2d_export.bench.sts import load_pairs
from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.vectors import cosine, truncate
from tests.conftest import REFERENCE

README = Path(__file__).parent.parent / "README.md"
MEGABYTES = 53e6


def test_it_is_small_and_says_where_it_comes_from() -> None:
    assert sum(path.stat().st_size for path in REFERENCE.rglob("*") if path.is_file()) < MEGABYTES
    card = (REFERENCE / "README.md").read_text(encoding="utf-8")
    for source in ("all-MiniLM-L6-v2", "Apache-2.0", "CC BY-SA 4.0", "WordNet", "sha256"):
        assert source in card


def test_its_weights_are_half_and_computed_with_in_whole() -> None:
    config = json.loads((REFERENCE / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == "float32"
    content = (REFERENCE / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert {tensor["dtype"] for name, tensor in header.items() if name != "__metadata__"} <= {"F16", "I64"}


def test_the_published_scores_are_of_these_weights_and_retrieval_has_not_been_given_up() -> None:
    fingerprint = load_checkpoint(str(REFERENCE)).origin.fingerprint
    assert result(FILE)["checkpoints"][SHIPPED]["fingerprint"] == fingerprint
    reached = runs()
    assert mean(run.sts for run in reached[Cell(6, 384)]) >= 82
    assert mean(run.asym or 0 for run in reached[Cell(3, 384)]) >= 0.85


@pytest.mark.slow
def test_sentence_transformers_loads_it_without_us(tmp_path: Path) -> None:
    code = (
        "import sys; from sentence_transformers import SentenceTransformer;"
        "model = SentenceTransformer(sys.argv[1], truncate_dim=64, device='cpu');"
        "assert str(next(model.parameters()).dtype) == 'torch.float32';"
        "assert model.encode(['A parrot is talking.']).shape == (1, 64);"
        "assert not [name for name in sys.modules if name.startswith(('m2d_export', 'train'))]"
    )
    subprocess.run([sys.executable, "-c", code, str(REFERENCE)], check=True, cwd=tmp_path, env=dict(os.environ))


@pytest.mark.slow
@pytest.mark.parametrize("layer", range(1, 7))
def test_the_graphs_give_the_published_scores(reference_bundle: Bundle, stsb: Path, layer: int) -> None:
    pairs = load_pairs(str(stsb / "test.csv"))
    with Encoder(reference_bundle, layer, normalize=False) as encoder:
        vectors = encoder.encode(pairs.texts)
    for cell, published in scores_of(SHIPPED).items():
        if cell.layer == layer:
            cut = truncate(vectors, cell.dim)
            reached = spearman(cosine(cut[pairs.left], cut[pairs.right]), pairs.scores)
            assert reached == pytest.approx(published, abs=0.1)


@pytest.mark.slow
def test_the_readme_shows_what_its_example_prints(
    reference_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = re.search(
        r"```python\n(.*?)```\n\nThis prints:\n\n```text\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL
    )
    assert example
    (tmp_path / "minilm.m2d").symlink_to(reference_bundle.root)
    monkeypatch.chdir(tmp_path)
    exec(example[1], {})
    assert capsys.readouterr().out == example[2]


@pytest.mark.slow
def test_the_bundle_knows_what_was_trained(reference_bundle: Bundle) -> None:
    assert reference_bundle.grid.layers == (1, 2, 3, 4, 5, 6)
    assert reference_bundle.grid.trained_dims == (384, 256, 128, 64, 32)
    with Encoder(reference_bundle, 1, dim=64) as encoder:
        assert np.isfinite(encoder.encode(["", "a"])).all()
