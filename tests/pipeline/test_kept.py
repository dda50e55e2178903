"""What a build finished before it failed is taken by the next build of its target, and nothing that changed since."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from m2d_export import Bundle, graph_files, pipeline
from m2d_export import plan as planning
from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.errors import ParityError
from m2d_export.graphs import export as graphs
from m2d_export.plan import Plan
from m2d_export.precisions import PRECISIONS
from m2d_export.spec import Precision
from tests.pipeline.forge import Forge, sound
from tests.pipeline.test_stops import die_at

pytestmark = pytest.mark.slow

KEEPING = ("keeping the fp32 graphs of every exit", "keeping the result of layer 1, fp32")
MADE = ("exporting", "making", "writing fp32", "running", "parity")


def kept_of(target: Path) -> Path:
    return target.with_name(f".m2d-kept-{target.name}")


def built(planned: Plan) -> list[str]:
    """The steps of a build; a failed gate may end it."""
    steps: list[str] = []
    try:
        pipeline.build_planned(planned, steps.append)
    except ParityError as error:
        steps.append(str(error))
    return steps


def work_of(steps: list[str]) -> list[str]:
    return [step for step in steps if step.startswith(MADE)]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 never passes its gate."""
    row = PRECISIONS[Precision.FP16]
    monkeypatch.setitem(PRECISIONS, Precision.FP16, replace(row, bounds=replace(row.bounds, cosine_min=1.1)))


@pytest.mark.usefixtures("failing")
def test_a_partial_build_after_a_failed_gate_makes_nothing_again(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"layers": [1, 2], "precisions": ["fp32", "fp16"]}
    first = built(plan(**options))
    assert "--partial" in first[-1]
    target = plan(**options).target
    assert str(kept_of(target)) in first[-1]
    assert kept_of(target).stat().st_mode & 0o077 == 0
    with monkeypatch.context() as patched:
        patched.setattr(graphs, "export_exits", None)
        again = built(plan(**options, partial=True))
    assert work_of(again) == ["running the reference", "parity of layer 1, fp16", "parity of layer 2, fp16"]
    assert [step for step in again if step.startswith(KEEPING)]
    assert sound(target)
    assert list(target.parent.iterdir()) == [target]
    fresh = pipeline.build_planned(plan(target=target.with_name("fresh.m2d"), layers=[1, 2]))
    assert Bundle.open(target).id == fresh.id


@pytest.mark.usefixtures("failing")
def test_a_build_of_fewer_precisions_takes_what_passed(plan: Callable[..., Plan]) -> None:
    built(plan(layers=[1], precisions=["fp32", "fp16"]))
    steps = built(plan(layers=[1]))
    assert work_of(steps) == []
    assert sound(plan(force=True).target)


def test_what_was_finished_before_a_kill_is_taken(plan: Callable[..., Plan], forge: Forge) -> None:
    planned = plan(layers=[1])
    assert forge.run(die_at, planned.target, False, "publishing") == (-signal.SIGKILL, "")
    assert work_of(built(planned)) == []
    assert sound(planned.target)
    assert list(planned.target.parent.glob(".m2d-*")) == []


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def shared(path: Path) -> None:
    """Others may write here, so what is here may be theirs."""
    path.parent.chmod(0o777)


@pytest.mark.parametrize("harm", [damage, Path.unlink, shared, lambda path: os.truncate(path, 0)])
@pytest.mark.parametrize("name", ["*.weights.fp32.bin", "*.layer-01.fp32.onnx", "*.json"])
def test_what_is_not_whole_is_made_again(
    plan: Callable[..., Plan], forge: Forge, name: str, harm: Callable[[Path], None]
) -> None:
    planned = plan(layers=[1])
    forge.run(die_at, planned.target, False, "publishing")
    for path in kept_of(planned.target).glob(name):
        harm(path)
    steps = built(planned)
    assert "making the fp32 graphs of every exit" in steps
    assert sound(planned.target)


@pytest.mark.parametrize("change", ["layers", "max_tokens", "dims", "package", "library", "processor"])
def test_what_was_made_in_another_way_is_not_taken(
    plan: Callable[..., Plan], forge: Forge, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    forge.run(die_at, plan(layers=[1]).target, False, "publishing")
    options = {"layers": {"layers": [1, 2]}, "max_tokens": {"max_tokens": 20}, "dims": {"dims": [64]}}.get(change, {})
    if change == "package":
        monkeypatch.setattr(graph_files, "_own_files", lambda: "other")
    elif change == "library":
        monkeypatch.setattr(graph_files, "versions", lambda packages: {"torch": "9.9"})
    elif change == "processor":
        monkeypatch.setattr(graph_files, "processor", lambda: "another one")
    elif change == "max_tokens":
        monkeypatch.setattr(planning, "load_checkpoint", load_checkpoint)  # it changes what it has loaded
    steps = built(plan(**{"layers": [1], **options}))
    assert "parity of layer 1, fp32" in steps
    assert any(step.startswith(KEEPING[0]) for step in steps) == (change == "dims")
