"""A bundle is what its manifest says, or it is refused before any library reads of it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnxruntime
import pytest

from m2d_export import Bundle, Encoder
from m2d_export.bundle.manifest import MANIFEST
from m2d_export.errors import BundleError, IntegrityError
from tests.support.bundles import FILES, GRAPHS, TEXTS, TOKENIZER, WEIGHTS, within


@pytest.fixture
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: object, **options: object) -> None:
        pytest.fail("ONNX Runtime was given a file of an unsound bundle")

    monkeypatch.setattr(onnxruntime, "InferenceSession", load)


@pytest.mark.parametrize("path", ["/missing", "~no-such-user/missing"])
def test_a_path_without_a_bundle_says_how_to_build_one(path: str) -> None:
    with pytest.raises(BundleError, match=f"no bundle at {path}: build one with m2d-export build CHECKPOINT -o {path}"):
        Bundle.open(path)


@pytest.mark.parametrize("path", ["x" * 300, "a/" * 3000], ids=["name", "path"])
def test_a_path_too_long_for_the_system_is_no_bundle(path: str) -> None:
    with pytest.raises(BundleError, match=r"cannot be read: File name too long"):
        Bundle.open(path)


def test_a_file_is_no_bundle(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="is a file, and a bundle is a folder"):
        Bundle.open(bundle.root / TOKENIZER)


@pytest.mark.parametrize("kind", ["none", "folder", "FIFO", "link"])
def test_a_folder_without_a_regular_manifest_is_no_bundle(copied_bundle: Path, tmp_path: Path, kind: str) -> None:
    manifest = copied_bundle / MANIFEST
    moved = manifest.rename(tmp_path / "moved.json")
    if kind == "folder":
        manifest.mkdir()
    elif kind == "FIFO":
        os.mkfifo(manifest)
    elif kind == "link":
        manifest.symlink_to(moved)
    with within(5), pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.open(copied_bundle)


# Files that are not what the manifest says


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut_the_end(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def add_a_byte(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def empty(file: Path) -> None:
    os.truncate(file, 0)


def swap_for_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def swap_for_a_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def swap_for_a_link(file: Path) -> None:
    file.symlink_to(file.rename(file.parents[file.parent.name == "graphs"].with_suffix(f".{file.name}")))


def swap_for_a_dangling_link(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


DAMAGES = {
    flip_a_bit: "sha256",
    cut_the_end: r"\d+ bytes.*\d+",
    add_a_byte: r"\d+ bytes.*\d+",
    empty: r"0 bytes.*\d+",
    Path.unlink: "is missing",
    swap_for_a_folder: "is not a regular file",
    swap_for_a_fifo: "is not a regular file",
    swap_for_a_link: "symbolic link",
    swap_for_a_dangling_link: "symbolic link",
}


def test_every_file_of_a_bundle_is_damaged_below(bundle: Bundle) -> None:
    assert sorted(FILES) == sorted(bundle.manifest.files)


@pytest.mark.usefixtures("no_session")
@pytest.mark.parametrize(("damage", "problem"), DAMAGES.items(), ids=[damage.__name__ for damage in DAMAGES])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_never_loaded(
    copied_bundle: Path, name: str, damage: Callable[[Path], None], problem: str
) -> None:
    damage(copied_bundle / name)
    opened = Bundle.open(copied_bundle)
    with within(5):
        [found] = opened.problems()
        assert re.match(f"{name} .*{problem}", found)
        with pytest.raises(IntegrityError, match=f"{copied_bundle / name} .*{problem}.*[Bb]uild"):
            opened.checked(name)
        with pytest.raises(IntegrityError, match=name):
            Encoder(opened, GRAPHS.get(name))


def test_damage_to_one_exit_leaves_the_others_usable(copied_bundle: Path) -> None:
    flip_a_bit(copied_bundle / "graphs/layer-03.fp32.onnx")
    with Encoder(Bundle.open(copied_bundle), layer=2) as encoder:
        assert encoder.encode(TEXTS).shape == (3, 64)


@pytest.mark.usefixtures("no_session")
def test_a_linked_folder_is_refused_with_all_that_lies_in_it(copied_bundle: Path, tmp_path: Path) -> None:
    (copied_bundle / "graphs").rename(tmp_path / "elsewhere")
    (copied_bundle / "graphs").symlink_to(tmp_path / "elsewhere")
    opened = Bundle.open(copied_bundle)
    problems = opened.problems()
    assert [problem.split()[0] for problem in problems] == [*sorted([*GRAPHS, WEIGHTS]), "graphs"]
    assert all("symbolic link" in problem for problem in problems[:-1])
    with pytest.raises(IntegrityError, match="symbolic link"):
        Encoder(opened)


@pytest.mark.usefixtures("no_session")
def test_a_file_that_cannot_be_read_is_an_integrity_error(copied_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> NoReturn:
        raise PermissionError(13, "Permission denied", str(path))

    opened = Bundle.open(copied_bundle)
    monkeypatch.setattr("m2d_export.bundle.disk.open_regular", refuse)
    assert opened.problems()[0] == "graphs/layer-01.fp32.onnx cannot be read: Permission denied"
    with pytest.raises(IntegrityError, match="cannot be read"):
        Encoder(opened)


def add_file(bundle: Path) -> str:
    (bundle / "graphs" / "model.plan").write_bytes(b"engine")
    return "graphs/model.plan"


def add_hidden_file(bundle: Path) -> str:
    (bundle / ".hidden").write_bytes(b"")
    return ".hidden"


def add_file_in_folder(bundle: Path) -> str:
    (bundle / "more").mkdir()
    (bundle / "more" / "weights.fp32.bin").write_bytes(b"")
    return "more/weights.fp32.bin"


def add_fifo(bundle: Path) -> str:
    os.mkfifo(bundle / "pipe")
    return "pipe"


def add_link_to_folder(bundle: Path) -> str:
    (bundle / "root").symlink_to("/")
    return "root"


EXTRAS = (add_file, add_hidden_file, add_file_in_folder, add_fifo, add_link_to_folder)


@pytest.mark.parametrize("add", EXTRAS, ids=lambda add: add.__name__)
def test_what_the_manifest_does_not_name_is_named_as_extra(copied_bundle: Path, add: Callable[[Path], str]) -> None:
    name = add(copied_bundle)
    with within(5):
        [problem] = Bundle.open(copied_bundle).problems()
    assert problem == f"{name} does not belong to the bundle: remove it"


# A sound bundle


def test_a_published_bundle_is_sound(bundle: Bundle) -> None:
    assert Bundle.open(bundle.root).problems() == []


def test_a_bundle_copied_elsewhere_gives_identical_vectors(bundle: Bundle, copied_bundle: Path) -> None:
    (moved := copied_bundle.parent / "a folder" / "мой bundle").parent.mkdir()
    shutil.move(copied_bundle, moved)
    with Encoder(bundle, layer=2, dim=32) as one, Encoder(Bundle.open(moved), layer=2, dim=32) as other:
        assert np.array_equal(one.encode(TEXTS), other.encode(TEXTS))


def test_a_bundle_behind_a_linked_folder_is_sound(copied_bundle: Path) -> None:
    (current := copied_bundle.parent / "current").symlink_to(copied_bundle)
    assert Bundle.open(current).problems() == []


def test_a_bundle_opens_and_encodes_without_the_libraries_that_built_it(bundle: Bundle, tmp_path: Path) -> None:
    program = f"""
import sys
for name in ("torch", "transformers", "sentence_transformers", "onnx", "onnx_ir", "onnxscript"):
    sys.modules[name] = None
import numpy as np
from m2d_export import Bundle, Encoder
with Encoder(Bundle.open({str(bundle.root)!r}), layer=2, dim=32) as encoder:
    np.save("vectors.npy", encoder.encode({TEXTS!r}))
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, timeout=60)
    with Encoder(bundle, layer=2, dim=32) as encoder:
        assert np.array_equal(np.load(tmp_path / "vectors.npy"), encoder.encode(TEXTS))
