"""The prototype's weights become a checkpoint whose exits give the vectors that the prototype gave."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from benchmarks.prototype import with_weights
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
    with pytest.raises(CheckpointError):
        with_weights(base, {**weights, "m.other": rotation})
