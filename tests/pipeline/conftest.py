"""Builds in this process and in others, which export once for all tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import onnx_ir as ir
import pytest

from m2d_export import plan as planning
from m2d_export.gate import reference
from m2d_export.graphs import export as graphs
from m2d_export.plan import Plan
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
    monkeypatch.setattr(planning, "load_checkpoint", load_once)
    monkeypatch.setattr(reference, "PROBES", reference.PROBES[:PROBES])
    monkeypatch.setattr(graphs, "export_exits", lambda *arguments: ir.load(forge.exported()))
    return lambda **options: planning.plan(str(checkpoint), **{"target": tmp_path / "new.m2d", **options})


@pytest.fixture
def old(copied_bundle: Path) -> Path:
    """A published bundle to replace."""
    return copied_bundle
