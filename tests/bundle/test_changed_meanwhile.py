"""What was checked is what is loaded: a bundle that changes while it is opened is an error, never a mixture of two."""

import itertools
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from m2d_export import Bundle, Cell, Encoder
from m2d_export.deploy.cpp.project import write_project
from m2d_export.deploy.folder import write_folder
from m2d_export.deploy.triton.repository import write_repository
from m2d_export.errors import BundleError, IntegrityError
from m2d_export.host.folders import _exchange
from m2d_export.runtimes import openvino
from tests.support.bundles import TEXTS, WEIGHTS, resealed

RUNTIMES = ("onnxrt", "openvino")


@pytest.fixture
def pair(bundle: Bundle, tmp_path: Path) -> tuple[Path, Path]:
    """Two bundles whose graphs are the same, and whose weights and ids are not."""
    one, other = (Path(shutil.copytree(bundle.root, tmp_path / name)) for name in ("v1", "v2"))
    weights = np.frombuffer((other / WEIGHTS).read_bytes(), np.float32) * np.float32(1.01)
    return one, resealed(other, WEIGHTS, weights.tobytes())


def vectors_of(*bundles: Path) -> dict[tuple[str, str], Any]:
    """The vectors of each bundle in each runtime, by its id."""
    found = {}
    for path, runtime in itertools.product(bundles, RUNTIMES):
        with Encoder(Bundle.open(path), 1, runtime=runtime, threads=1) as encoder:
            found[Bundle.open(path).id, runtime] = encoder.encode(TEXTS)
    return found


@contextmanager
def meanwhile(change: Callable[[], object]) -> Iterator[None]:
    """Repeat ``change`` in another thread as long as the block runs."""
    done = threading.Event()

    def repeat() -> None:
        while not done.is_set():
            change()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("how", ["link", "folders"])
def test_an_open_bundle_gives_its_own_vectors_while_another_takes_its_place(
    pair: tuple[Path, Path], tmp_path: Path, how: str
) -> None:
    expected, current, turns = vectors_of(*pair), tmp_path / "current", itertools.count()
    assert len({vectors.tobytes() for vectors in expected.values()}) == 4
    current.symlink_to(pair[0])

    def change() -> None:
        if how == "link":
            (tmp_path / "next").symlink_to(pair[next(turns) % 2])
            (tmp_path / "next").replace(current)
        else:
            _exchange(*pair)

    opened = 0
    with meanwhile(change):
        for runtime in RUNTIMES * 30:
            with suppress(*[IntegrityError] * (how == "folders")):
                bundle = Bundle.open(current)
                with Encoder(bundle, 1, runtime=runtime, threads=1) as encoder:
                    np.testing.assert_array_equal(encoder.encode(TEXTS), expected[bundle.id, runtime])
                opened += 1
    assert opened == 60 or how == "folders"


def other_folder(one: Path, other: Path) -> None:
    _exchange(one, other)


def other_weights(one: Path, other: Path) -> None:
    shutil.copyfile(other / WEIGHTS, one / "new")
    (one / "new").replace(one / WEIGHTS)


def overwritten_weights(one: Path, other: Path) -> None:
    (one / WEIGHTS).write_bytes((other / WEIGHTS).read_bytes())


def linked_weights(one: Path, other: Path) -> None:
    (one / WEIGHTS).unlink()
    (one / WEIGHTS).symlink_to(other / WEIGHTS)


def no_weights(one: Path, other: Path) -> None:
    (one / WEIGHTS).unlink()


def nothing(one: Path, other: Path) -> None:
    pass


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (other_folder, nothing),
        (other_folder, other_folder),  # back again, before anybody looks
        (other_weights, nothing),
        (overwritten_weights, nothing),
        (linked_weights, nothing),
        (no_weights, nothing),
        (nothing, other_folder),
        (nothing, overwritten_weights),
    ],
    ids=lambda change: change.__name__,
)
def test_a_file_that_changes_between_its_check_and_its_loading_is_an_integrity_error(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, runtime: str, before: Any, after: Any
) -> None:
    def changing(load: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **options: Any) -> Any:
            before(*pair)
            try:
                return load(*arguments, **options)
            finally:
                after(*pair)

        return changed

    class Core:
        def __getattr__(self, name: str) -> Any:
            return changing(core.read_model) if name == "read_model" else getattr(core, name)

    if runtime == "onnxrt":
        monkeypatch.setattr(onnxruntime, "InferenceSession", changing(onnxruntime.InferenceSession))
    else:
        core = openvino._core()
        monkeypatch.setattr(openvino, "_core", Core)
    with pytest.raises(IntegrityError, match=r"graphs/.* open the bundle again"):
        Encoder(Bundle.open(pair[0]), 1, runtime=runtime)


def test_a_bundle_that_was_replaced_after_it_was_opened_says_so(pair: tuple[Path, Path], tmp_path: Path) -> None:
    opened = Bundle.open(pair[0])
    opened.variant(1)
    other_folder(*pair)
    for use in (lambda: opened.variant(2), lambda: write_folder(opened, Cell(1, 8), tmp_path / "cell")):
        with pytest.raises(IntegrityError, match=r"another bundle has replaced .*/v1"):
            use()


def test_an_open_encoder_reads_no_weights_that_came_later(
    pair: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with Encoder(Bundle.open(pair[0]), 1, threads=2) as encoder:
        own = encoder.encode(TEXTS)
        other_weights(*pair)
        encoder.token_budget = 8  # many batches, so that it wants a second session
        np.testing.assert_allclose(encoder.encode(TEXTS * 20), np.tile(own, (20, 1)), atol=1e-6)
    assert any(str(pair[0] / WEIGHTS) in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_vectors_of_overwritten_weights_are_never_given(pair: tuple[Path, Path], runtime: str) -> None:
    with Encoder(Bundle.open(pair[0]), 1, runtime=runtime) as encoder:
        own = encoder.encode(TEXTS)
        os.utime(pair[0] / WEIGHTS)  # the same bytes at a later time
        np.testing.assert_array_equal(encoder.encode(TEXTS), own)
        with (pair[0] / WEIGHTS).open("r+b") as file:  # not cut first, which would end this process
            file.write((pair[1] / WEIGHTS).read_bytes())
        for texts in (TEXTS, TEXTS[:1]):
            with pytest.raises(IntegrityError, match=r"weights\.fp32\.bin was overwritten"):
                encoder.encode(texts)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_weights_that_lost_their_name_may_not_be_overwritten_either(pair: tuple[Path, Path], runtime: str) -> None:
    with Encoder(Bundle.open(pair[0]), 1, runtime=runtime) as encoder:
        own, other_name = encoder.encode(TEXTS), pair[0] / "other-name"
        os.rename(pair[0] / WEIGHTS, other_name)
        shutil.copy(pair[1] / WEIGHTS, pair[0] / WEIGHTS)
        np.testing.assert_array_equal(encoder.encode(TEXTS), own)
        with other_name.open("r+b") as file:
            file.write((pair[1] / WEIGHTS).read_bytes())
        with pytest.raises(IntegrityError, match=r"weights\.fp32\.bin was overwritten"):
            encoder.encode(TEXTS)


def test_a_deployed_cell_is_made_of_the_bytes_that_were_checked(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Bundle.read

    def changing(self: Bundle, name: str) -> bytes:
        data = read(self, name)
        if name != WEIGHTS:
            _exchange(*pair)
        return data

    monkeypatch.setattr(Bundle, "read", changing)
    with pytest.raises(IntegrityError, match="another bundle has replaced"):
        write_folder(Bundle.open(pair[0]), Cell(1, 8), tmp_path / "cell")
    assert not (tmp_path / "cell").exists()


def test_hard_links_are_read_as_any_other_file(bundle: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle.root, tmp_path / "copy.m2d")  # onnx refuses a file with two links, in other tests too
    linked = Path(shutil.copytree(copy, tmp_path / "linked.m2d", copy_function=os.link))
    opened = Bundle.open(linked)
    assert opened.problems() == []
    with Encoder(opened, 1) as encoder:
        assert encoder.encode(TEXTS).shape == (3, 64)
    assert write_folder(opened, Cell(1, 8), tmp_path / "cell").is_dir()
    assert write_repository(opened, [Cell(1, 8)], tmp_path / "triton")
    assert write_project(opened, Cell(1, 8), tmp_path / "cpp", runtime="onnxrt").is_dir()


def test_a_bundle_that_is_gone_is_a_bundle_error(pair: tuple[Path, Path]) -> None:
    opened = Bundle.open(pair[0])
    shutil.rmtree(pair[0])
    with pytest.raises(BundleError, match="is missing"):
        opened.variant(1)
