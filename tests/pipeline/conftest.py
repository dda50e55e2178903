"""Builds in this process and in others, which export once for all tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import onnx_ir as ir
import pytest

from m2d_export import pipeline
from m2d_export.gate import parity
from m2d_export.graphs import export as graphs
from m2d_export.pipeline import Plan
from tests.pipeline.forge import PROBES, Forge, load_once


@pytest.fixture(scope="session")
def forge(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Forge]:
    forge = Forge(checkpoint, tmp_path_factory.mktemp("exported") / "all.onnx")
    request.getfixturevalue("bundle")  # if there is none yet, it is built while the server exports
    yield forge
    forge.close()


@pytest.fixture
def plan(forge: Forge, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """``build.plan`` with the target ``new.m2d``; what it plans builds without exporting, and with few probe texts."""
    monkeypatch.setattr(pipeline, "load_checkpoint", load_once)
    monkeypatch.setattr(parity, "PROBES", parity.PROBES[:PROBES])
    monkeypatch.setattr(graphs, "model_from_exits", lambda *arguments: ir.load(forge.exported()))
    return lambda **options: pipeline.plan(str(checkpoint), **{"target": tmp_path / "new.m2d", **options})


@pytest.fixture
def old(copied_bundle: Path) -> Path:
    """A published bundle to replace."""
    return copied_bundle
