"""A target that is there already is replaced whole, when asked, or left alone."""

import json
import re
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from m2d_export import Bundle, Encoder, pipeline
from m2d_export.bundle.manifest import MANIFEST
from m2d_export.errors import OutputError
from m2d_export.plan import Plan, check_target
from tests.pipeline.forge import TEXTS, sound, staging, tree


def occupy(target: Path, kind: str) -> None:
    if kind == "folder":
        (target / "inner").mkdir(parents=True)
        (target / "inner" / "thesis.tex").write_text("precious")
    elif kind == "empty folder":
        target.mkdir()
    elif kind == "folder with a folder for a manifest":
        (target / MANIFEST).mkdir(parents=True)
    elif kind == "file":
        target.write_text("precious")
    elif kind == "another program's manifest":
        target.mkdir()
        (target / MANIFEST).write_text("{}")
        (target / "app.js").write_text("precious")
    elif kind == "link to itself":
        target.symlink_to(target)


KINDS = ("folder", "empty folder", "folder with a folder for a manifest", "another program's manifest", "file")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_bundle_is_never_replaced(
    plan: Callable[..., Plan], tmp_path: Path, kind: str, force: bool
) -> None:
    occupy(tmp_path / "new.m2d", kind)
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=r"new\.m2d exists and is not a bundle.*choose another path"):
        plan(force=force)
    assert tree(tmp_path) == before


def test_a_link_to_a_bundle_is_followed_and_stays(plan: Callable[..., Plan], old: Path, tmp_path: Path) -> None:
    old.chmod(0o750)
    (tmp_path / "new.m2d").symlink_to(old)
    with pytest.raises(OutputError, match="--force"):
        plan()
    pipeline.build_planned(plan(force=True, layers=[2]))
    assert (tmp_path / "new.m2d").is_symlink()
    assert Bundle.open(old).grid.layers == (2,)
    assert stat.S_IMODE(old.stat().st_mode) == 0o750


@pytest.mark.parametrize("name", ["notes.txt", "graphs/.hidden", "graphs/sub/weights.bin"])
def test_a_bundle_with_a_file_of_somebody_else_is_not_replaced_and_the_file_is_named(
    plan: Callable[..., Plan], old: Path, name: str
) -> None:
    (old / name).parent.mkdir(exist_ok=True)
    (old / name).write_text("precious")
    before = tree(old)
    with pytest.raises(OutputError, match=f"has {re.escape(name)}"):
        plan(target=old, force=True)
    assert tree(old) == before


def test_a_file_that_somebody_adds_to_the_old_bundle_during_the_build_is_kept(
    plan: Callable[..., Plan], old: Path
) -> None:
    planned = plan(target=old, layers=[1], force=True)
    with pytest.raises(OutputError, match=r"has notes\.txt"):
        pipeline.build_planned(
            planned, lambda step: step == "publishing" and (old / "notes.txt").write_text("precious")
        )
    assert (old / "notes.txt").read_text() == "precious"
    assert Bundle.open(old).grid.layers != (1,)
    assert staging(old) == []


def test_a_bundle_is_replaced_with_force_alone(plan: Callable[..., Plan], old: Path) -> None:
    before = tree(old)
    with pytest.raises(OutputError, match=r"copy\.m2d exists: use --force .* or choose another path"):
        plan(target=old)
    assert tree(old) == before
    assert pipeline.build_planned(plan(target=old, layers=[2], force=True)).grid.layers == (2,)
    assert sound(old)
    assert staging(old) == []


@pytest.mark.parametrize(
    "target", ["x" * 300, "~no-such-user/../file/new.m2d", "file/new.m2d"], ids=lambda name: name[:9]
)
def test_a_target_that_cannot_be_is_an_output_error(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="cannot write"):
        pipeline.build_planned(plan(target=target))


def test_a_newer_bundle_is_not_replaced_and_the_error_says_to_update(plan: Callable[..., Plan], old: Path) -> None:
    manifest = json.loads((old / MANIFEST).read_text())
    (old / MANIFEST).write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(OutputError, match="update m2d-export"):
        plan(target=old, force=True)


def test_a_mount_point_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path)
    with pytest.raises(OutputError, match="mount point"):
        check_target(tmp_path, force=True)


def test_an_open_encoder_outlives_the_replacement_of_its_bundle(plan: Callable[..., Plan], old: Path) -> None:
    with Encoder(Bundle.open(old)) as serving:
        before = serving.encode(TEXTS)
        built = pipeline.build_planned(plan(target=old, layers=[1], force=True))
        serving.token_budget = 64
        assert np.allclose(serving.encode(TEXTS[:1]), before[:1], atol=1e-6)
        many = serving.encode(TEXTS * 99)  # enough batches for a second session
        assert np.allclose(many, np.tile(before, (99, 1)), atol=1e-6)
        with Encoder(Bundle.open(old)) as fresh:
            assert fresh.cell.layer == 1
            assert not np.allclose(fresh.encode(TEXTS), before, atol=1e-3)
    assert Bundle.open(old).id == built.id


@pytest.mark.parametrize("kind", ["folder", "file", "link to itself"])
def test_what_appears_at_the_target_during_a_build_is_never_replaced(plan: Callable[..., Plan], kind: str) -> None:
    planned = plan(layers=[1], force=True)
    appeared: list[object] = []

    def appear(step: str) -> None:
        if step == "publishing":
            occupy(planned.target, kind)
            appeared.append(tree(planned.target))

    with pytest.raises(OutputError, match=r"is not a bundle|appeared"):
        pipeline.build_planned(planned, progress=appear)
    assert [tree(planned.target)] == appeared
    assert staging(planned.target) == []


def test_of_two_builds_of_one_target_the_first_to_publish_wins(plan: Callable[..., Plan]) -> None:
    slow, fast = plan(layers=[1]), plan(layers=[2])
    published: list[Bundle] = []

    def overtake(step: str) -> None:
        if step == "publishing":
            published.append(pipeline.build_planned(fast))

    with pytest.raises(OutputError, match=r"exists|meanwhile"):
        pipeline.build_planned(slow, progress=overtake)
    assert Bundle.open(slow.target).id == published[0].id
    assert sound(slow.target)
    assert staging(slow.target) == []
