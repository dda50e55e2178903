"""The prototype's weights become a checkpoint whose exits give the vectors that the prototype gave."""

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize

from benchmarks.prototype import main, with_weights
from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.errors import CheckpointError
from tests.support.checkpoints import LAYERS, WIDTH, save_checkpoint


def test_every_exit_gives_the_prototypes_vectors(tmp_path: Path) -> None:
    base = load_checkpoint(str(save_checkpoint(tmp_path / "base")))
    space = base.space
    encoder = {name: value + 0.01 for name, value in base.encoder.state_dict().items() if value.is_floating_point()}
    rotation = torch.linalg.qr(torch.randn(WIDTH, WIDTH)).Q
    weights = {f"m.{name}": value for name, value in encoder.items() if not name.startswith("pooler.")}
    weights["U"] = rotation.half().float()
    for layer in range(1, LAYERS):
        weights[f"heads.{layer - 1}.weight"] = torch.randn(WIDTH, WIDTH * (layer + 1))
        weights[f"heads.{layer - 1}.bias"] = torch.randn(WIDTH)
    made = with_weights(base, weights)
    assert made.space == space
    assert made.trained_layers == (1, 2, 3)
    ids = torch.arange(20).reshape(4, 5)
    mask = torch.ones_like(ids)
    model = ExitEncoder(made, (1, 2, 3))
    with torch.no_grad():
        found = model(ids, mask)
        pooled = [state.mean(1) for state in model.states(ids, mask)]
    for layer in range(1, LAYERS):
        read = torch.cat(pooled[: layer + 1], dim=1)
        expected = read @ weights[f"heads.{layer - 1}.weight"].T + weights[f"heads.{layer - 1}.bias"]
        torch.testing.assert_close(found[layer - 1], expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(normalize(found[-1]), normalize(pooled[-1]) @ rotation, rtol=1e-3, atol=1e-3)
    for wrong in ({**weights, "m.other": rotation}, {name: weights[name] for name in weights if name != "U"}):
        with pytest.raises(CheckpointError):
            with_weights(base, wrong)


def test_the_folder_states_the_sha256_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_checkpoint(tmp_path / "base")
    encoder = load_checkpoint(str(base)).encoder.state_dict()
    weights = {f"m.{name}": value.contiguous() for name, value in encoder.items() if value.is_floating_point()}
    weights["U"] = torch.eye(WIDTH)
    for layer in range(1, LAYERS):
        weights[f"heads.{layer - 1}.weight"] = torch.randn(WIDTH, WIDTH * (layer + 1))
        weights[f"heads.{layer - 1}.bias"] = torch.randn(WIDTH)
    file, out = tmp_path / "made.safetensors", tmp_path / "out"
    save_file({name: value.half() for name, value in weights.items()}, file)
    arguments = ["prototype", file, "-o", out, "--checkpoint", base]
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
    main()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert digest in capsys.readouterr().out
    assert json.loads((out / "m2d.json").read_text())["weights"] == {"file": "made.safetensors", "sha256": digest}
    assert load_checkpoint(str(out)).space == load_checkpoint(str(base)).origin.fingerprint
