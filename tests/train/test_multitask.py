"""The multitask recipe on a tiny distilled checkpoint: what it learns, what it keeps, and how it is stopped."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from m2d_export.checkpoints.load import Checkpoint, load_checkpoint
from m2d_export.errors import SpecError
from m2d_export.pipeline import rotation_matrix
from tests.support.checkpoints import save_checkpoint
from tests.support.in_process import Ended
from tests.support.shared import Once
from tests.support.trainings import FAILED, INTERRUPTED, TRAIN, USAGE, Signalled, names, settings, train
from train.data import load_data
from train.job import Job
from train.losses import cosent
from train.multitask import MultitaskJob, MultitaskTraining, multitask_job
from train.recipes import MultitaskRecipe

pytestmark = pytest.mark.usefixtures("undrawn")

LAYERS, DIMS = (0, 1, 2, 3), (64, 16)
SHORT = ("--batch-size", 8, "--epochs", 2, "--eval-steps", 4, "--learning-rate", 1e-3)  # so that few steps matter
STEPS = 2 * (TRAIN // 8)


@pytest.fixture
def start(distilled: Path, graded: Path, plain: Path, texts: Path, tmp_path: Path):
    """Train into ``out`` of this test."""

    def start(*options: object, base: Path = plain, source: Path = texts) -> Ended:
        given = ("--recipe", "multitask", "--base", base, "--texts", source, "-o", tmp_path / "out")
        return train(distilled, graded, *given, *SHORT, *options)

    return start


@pytest.fixture(scope="module")
def taught(once: Once, distilled: Path, graded: Path, plain: Path, texts: Path) -> Path:
    """The checkpoint that a training wrote without interruption. Never alter it."""

    def make(folder: Path) -> None:
        given = ("--recipe", "multitask", "--base", plain, "--texts", texts, "-o", folder / "out")
        ended = train(distilled, graded, *given, *SHORT)
        assert ended.code == 0, ended.err
        assert names(folder) == ["out"]

    return once("taught", make) / "out"


@pytest.fixture
def without_texts(distilled: Path, graded: Path, tmp_path: Path) -> Job:
    recipe = MultitaskRecipe(LAYERS, DIMS, batch_size=8)
    data = load_data(str(graded))
    return Job("distilled", load_checkpoint(str(distilled)), data, recipe, "cpu", "fp32", tmp_path / "unused")


@pytest.fixture
def job(without_texts: Job, plain: Path, texts: Path) -> MultitaskJob:
    return multitask_job(without_texts, str(plain), (str(texts),))


def test_exits_are_trained_and_the_space_the_rotation_and_the_table_stay(taught: Path, distilled: Path) -> None:
    old, new = (load_checkpoint(str(folder)) for folder in (distilled, taught))
    assert (new.exits, new.trained_layers, new.trained_dims) == (LAYERS, LAYERS, DIMS[::-1])
    assert (new.space, new.rotation) == (old.space, old.rotation)
    assert new.rotation is not None
    rotation_matrix(new)  # build accepts it
    assert old.table is not None
    assert new.table is not None
    torch.testing.assert_close(new.table.state_dict(), old.table.state_dict(), rtol=0, atol=0)
    for name in ("model.safetensors", "exits/1/model.safetensors", "exits/2/model.safetensors"):
        before, after = (load_file(folder / name) for folder in (distilled, taught))
        assert any(not torch.equal(before[key], after[key]) for key in before)


def test_m2d_json_and_the_card_say_what_it_was_made_of(taught: Path, distilled: Path, plain: Path) -> None:
    found, before = settings(taught), settings(distilled)
    assert [found[key] for key in ("recipe", "base", "layers", "dims")] == ["multitask", "out", [*LAYERS], [*DIMS]]
    assert found["settings"]["pairs_weight"] == 1.5
    assert found["start"] == before
    assert found["distillation"]["fingerprint"] == load_checkpoint(str(plain)).origin.fingerprint == before["space"]
    assert found["distillation"]["texts"]["own"] == 250
    assert [entry["step"] for entry in found["log"]] == [4, STEPS]
    assert found["scores"]["dev"] == pytest.approx(found["log"][-1]["dev"], abs=1e-2)  # both of the mean of the weights
    assert min(found["agreement"].values()) > 50
    assert set(found["agreement"]) == {f"{layer}x{dim}" for layer in LAYERS for dim in DIMS}
    card = (taught / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert found["distillation"]["texts"]["sha256"] in card
    assert "start: distil, " in card
    assert "## Agreement with the base" in card
    assert "slice --cell 0x64" in card


def test_the_settings_reach_the_training(job: MultitaskJob) -> None:
    recipe = replace(job.recipe, learning_rate=2e-5, head_learning_rate=4e-4, last_layer=5.0, texts_per_step=64)
    training = MultitaskTraining(replace(job, recipe=recipe))
    assert {group["top"] for group in training.optimizer.param_groups} == {2e-5, 4e-4}
    assert training.last == 5.0
    assert len(training.order.rows(0)) == 64
    assert len(training.epochs.rows(0)) == 8


def test_the_learning_rate_of_few_steps_stays_low(job: MultitaskJob) -> None:
    training = MultitaskTraining(job)
    for _ in range(6):
        training.take_step()
    expected = 6 / 40 * (1 - 5 / training.steps)
    assert [group["lr"] / group["top"] for group in training.optimizer.param_groups] == pytest.approx([expected] * 3)


def without_dropout(training: MultitaskTraining) -> MultitaskTraining:
    for module in training.exits.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return training


def test_exits_train_with_dropout_which_a_step_decides(job: MultitaskJob) -> None:
    training = MultitaskTraining(job)
    with torch.no_grad():
        dropped, again = training.loss(), training.loss()
        whole = without_dropout(MultitaskTraining(job)).loss()
    assert dropped == again
    assert dropped != whole


def test_a_step_has_the_loss_of_the_texts_and_that_of_the_pairs(job: MultitaskJob) -> None:
    training = without_dropout(MultitaskTraining(job))
    with torch.no_grad():
        both, texts = training.loss(), super(MultitaskTraining, training).loss()
        order, rows = [], training.epochs.rows(0)
        for left, right in zip(job.data.train.left[rows], job.data.train.right[rows], strict=True):
            order.append(training.vectors([training.sentences[left], training.sentences[right]]))
        vectors = torch.stack(order)  # (pairs, exits, 2, width)
        losses = [
            cosent(torch.cosine_similarity(*vectors[:, place, :, :dim].unbind(1)), training.gold[rows], 20.0)
            for place in range(len(training.layers))
            for dim in DIMS
        ]
    torch.testing.assert_close(both - texts, 1.5 * torch.stack(losses).mean(), rtol=1e-3, atol=1e-4)


def test_the_base_teaches_in_the_rotated_space(job: MultitaskJob) -> None:
    assert job.checkpoint.rotation is not None
    assert job.teacher.rotation is None
    assert MultitaskTraining(job).drift() < 0.015  # as far as the distillation let it go


def test_stopped_and_resumed_equals_never_stopped(
    start, signalled: Signalled, taught: Path, plain: Path, texts: Path, tmp_path: Path
) -> None:
    signalled(2)
    ended = start()
    assert ended.code == INTERRUPTED
    assert names(tmp_path) == ["out.training"]
    signalled(0)
    other = tmp_path / "other.txt"
    other.write_text(texts.read_text().replace("cat", "dog"))
    refused = start("--resume", source=other)
    assert refused.code == FAILED
    assert "(texts was " in refused.error
    other.unlink()
    assert start("--resume").code == 0
    assert names(tmp_path) == ["out"]
    for path in sorted(taught.rglob("*.safetensors")):
        whole, resumed = load_file(path), load_file(tmp_path / "out" / path.relative_to(taught))
        torch.testing.assert_close(resumed, whole, rtol=1e-4, atol=1e-7)


def test_without_the_table_and_in_half(start, tmp_path: Path) -> None:
    ended = start("--epochs", 1, "--layers", "1,3", "--half")
    assert ended.code == 0, ended.err
    made = load_checkpoint(str(tmp_path / "out"))
    assert (made.exits, made.trained_layers, sorted(made.heads)) == ((1, 2, 3), (1, 3), [1])
    rotation_matrix(made)  # m2d.json states the rotation as it is stored


@pytest.mark.parametrize("kind", ["another checkpoint", "what distil wrote"])
def test_a_base_that_the_checkpoint_was_not_distilled_from(start, distilled: Path, tmp_path: Path, kind: str) -> None:
    other = distilled if kind == "what distil wrote" else save_checkpoint(tmp_path / "other", "distilbert")
    before = names(tmp_path)
    ended = start(base=other)
    assert ended.code == USAGE
    assert re.search(rf"was not distilled from \S*{other.name}", ended.error)
    assert names(tmp_path) == before


@pytest.mark.parametrize("stated", [{"seconds": 3, "steps": 4}, {"distillation": "mine"}, {"weights": "mine"}])
def test_facts_of_another_form_are_refused_before_the_training(
    without_texts: Job, distilled: Path, plain: Path, texts: Path, tmp_path: Path, stated: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(distilled, tmp_path / "foreign"))
    found = json.loads((folder / "m2d.json").read_text())
    (folder / "m2d.json").write_text(json.dumps({**found, **stated}))
    with pytest.raises(SpecError, match=r"m2d\.json"):
        multitask_job(replace(without_texts, checkpoint=load_checkpoint(str(folder))), str(plain), (str(texts),))


def test_a_base_on_the_hub_is_loaded_at_the_revision_that_was_distilled(
    without_texts: Job, distilled: Path, plain: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load(name: str, revision: str | None = None, **options: Any) -> Checkpoint:
        asked.append((name, revision))
        return load_checkpoint(str(plain), **options)

    folder = Path(shutil.copytree(distilled, tmp_path / "from-the-hub"))
    found = json.loads((folder / "m2d.json").read_text())
    (folder / "m2d.json").write_text(json.dumps({**found, "base": "some/base", "revision": "1a2b"}))
    start = replace(without_texts, checkpoint=load_checkpoint(str(folder)))
    monkeypatch.setattr("train.multitask.load_checkpoint", load)
    for base in ("some/base", "some/other", str(plain)):
        multitask_job(start, base, (str(texts),))
    assert asked == [("some/base", "1a2b"), ("some/other", None), (str(plain), None)]
