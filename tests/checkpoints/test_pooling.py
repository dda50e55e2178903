"""How a checkpoint without a Pooling pools: what it says, what the user says, else the mean, which is said."""

import json
from pathlib import Path

import numpy as np
import pytest

from m2d_export import Encoder
from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.errors import CheckpointError, SpecError
from m2d_export.pipeline import build
from tests.support.checkpoints import save_checkpoint


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A plain transformers folder."""
    save_checkpoint(tmp_path / "made")
    return tmp_path / "made-plain"


def state(folder: Path, **fields: object) -> None:
    (folder / "m2d.json").write_text(json.dumps({"format": 1, **fields}))


def test_nothing_says_it(plain: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_checkpoint(str(plain)).pooling.modes == ("mean",)
    assert [record.message for record in caplog.records if "mean is assumed" in record.message]


@pytest.mark.parametrize("mode", ["mean", "cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens"])
def test_the_user_or_m2d_json_says_it(plain: Path, caplog: pytest.LogCaptureFixture, mode: str) -> None:
    asked = load_checkpoint(str(plain), pooling=mode)
    state(plain, pooling=mode)
    stated = load_checkpoint(str(plain))
    assert asked.pooling.modes == stated.pooling.modes == (mode,)
    assert asked.origin.fingerprint == stated.origin.fingerprint
    assert not caplog.records


def test_contradictions_are_refused(plain: Path) -> None:
    with pytest.raises(SpecError, match="Pooling of its own"):
        load_checkpoint(str(plain.with_name("made")), pooling="cls")
    with pytest.raises(SpecError, match="middle"):
        load_checkpoint(str(plain), pooling="middle")
    state(plain, pooling="cls")
    with pytest.raises(SpecError, match="cls"):
        load_checkpoint(str(plain), pooling="max")
    state(plain, pooling="middle")
    with pytest.raises(CheckpointError, match="middle"):
        load_checkpoint(str(plain))


@pytest.mark.slow
def test_a_bundle_keeps_it_for_every_runtime(plain: Path, tmp_path: Path) -> None:
    bundle = build(str(plain), tmp_path / "made.m2d", pooling="cls", layers=[1])
    assert bundle.manifest.pooling.modes == ("cls",)
    texts = ["a cat is playing", "the dog"]
    with Encoder(tmp_path / "made.m2d") as encoder:
        expected = encoder.encode(texts)
    with Encoder(type(bundle).open(bundle.root, str(plain)), runtime="pytorch") as encoder:
        np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)
