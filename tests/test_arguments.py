"""Arguments of the Python functions that have a wrong type or value: the error names the argument, or what it got."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2d_export import Bundle, Encoder, SpecError, build
from tests.support.checkpoints import save_checkpoint


@pytest.mark.parametrize("path", [3, b"tiny.m2d", ["tiny.m2d"], "", "tiny\0.m2d", float("nan")], ids=repr)
def test_what_is_no_path_is_refused(bundle: Bundle, tmp_path: Path, path: Any) -> None:
    for call in (
        lambda: Encoder(path),
        lambda: Bundle.open(path),
        lambda: Encoder(bundle, runtime="openvino", cache=path),
        lambda: Bundle.open(bundle.root, path),
        lambda: build(bundle.root, path),
        lambda: build(bundle.root, tmp_path / "new.m2d", precisions=["int8"], calibration=path),
    ):
        with pytest.raises(SpecError, match="no path"):
            call()


def test_a_bundle_and_a_target_must_be_given(bundle: Bundle) -> None:
    nothing: Any = None
    for call in (lambda: Encoder(nothing), lambda: Bundle.open(nothing), lambda: build(bundle.root, nothing)):
        with pytest.raises(SpecError, match="None"):
            call()


@pytest.mark.parametrize("value", ["no", 0, 1, [], np.bool_(True)], ids=repr)
def test_a_switch_is_true_or_false(bundle: Bundle, tmp_path: Path, value: Any) -> None:
    with pytest.raises(SpecError, match="normalize"):
        Encoder(bundle, normalize=value)
    for name in ("force", "partial"):
        with pytest.raises(SpecError, match=name):
            build(bundle.root, tmp_path / "new.m2d", **{name: value})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("arguments") / "tiny", "bert")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("layers", "dims") for value in ("1,2", 1, ["1"], [1, "2"], [True], [1.5], {1: 2})],
        *[(name, value) for name in ("precisions", "engines", "targets") for value in (None, 3, "int8", [None], [8])],
        ("shapes", "1x1:8x16:32x64"),
        ("shapes", [(1, 2)]),
    ],
)
def test_a_list_of_the_wrong_kind_is_refused(made: Path, tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(SpecError, match=name):
        build(made, tmp_path / "new.m2d", **{name: value})


@pytest.mark.parametrize("name", ["layers", "dims", "precisions"])
def test_an_empty_list_is_refused(made: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match=name.removesuffix("s")):
        build(made, tmp_path / "new.m2d", **{name: []})
