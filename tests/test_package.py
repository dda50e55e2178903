"""The installed package: public names, version, files of the wheel, and use without any extra."""

import inspect
import os
import re
import shutil
import subprocess
import sys
import typing
import zipfile
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

import m2d_export
from m2d_export import Bundle, M2DError, errors

ROOT = Path(__file__).parent.parent
CHANGELOG = ROOT / "CHANGELOG.md"


def test_every_public_name_is_the_object_of_that_name() -> None:
    assert len(m2d_export.__all__) == len(set(m2d_export.__all__))
    for name in m2d_export.__all__:
        assert getattr(m2d_export, name).__name__ == name
        assert getattr(m2d_export, name) is getattr(import_module(getattr(m2d_export, name).__module__), name)


def test_every_error_class_is_public() -> None:
    classes = {name for name, found in inspect.getmembers(errors, inspect.isclass) if issubclass(found, M2DError)}
    assert classes <= set(m2d_export.__all__)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Encodr"):
        _ = m2d_export.Encodr
    assert not hasattr(m2d_export, "default_dims")  # it is a function of spec


def test_type_checkers_see_the_same_public_names(monkeypatch: pytest.MonkeyPatch) -> None:
    public = {name: getattr(m2d_export, name) for name in m2d_export.__all__}
    monkeypatch.setattr(typing, "TYPE_CHECKING", True)
    spec = spec_from_file_location("as_type_checkers_see_it", m2d_export.__file__)
    assert spec
    assert spec.loader
    seen = module_from_spec(spec)
    spec.loader.exec_module(seen)
    assert {name: vars(seen).get(name) for name in public} == public


def test_the_version_is_the_newest_one_in_the_changelog() -> None:
    newest = re.search(
        r"^## \[?(\d+\.\d+\.\d+\S*?)\]? - (unreleased|\d{4}-\d\d-\d\d)$", CHANGELOG.read_text(), re.MULTILINE
    )
    assert newest
    assert newest[1] == m2d_export.__version__


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, because setuptools leaves folders behind and packs old files from them."""
    source = tmp_path_factory.mktemp("source") / "m2d-export"
    ignored = shutil.ignore_patterns(".*", "*.egg-info", "build", "__pycache__", "demo", "*.m2d")
    shutil.copytree(ROOT, source, ignore=ignored)
    output = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(output), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = output.iterdir()
    return built


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    assert wheel.name == f"m2d_export-{m2d_export.__version__}-py3-none-any.whl"
    sources = {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for package, folder in (("m2d_export", "m2d_export"), ("m2d_train", "train"))
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"m2d_export/py.typed", "m2d_export/text/toy_sts.csv", "m2d_train/distil/mix.txt.gz"} <= sources
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == sources
    assert f"m2d_export-{m2d_export.__version__}.dist-info/licenses/LICENSE" in names


@pytest.mark.slow
def test_training_is_imported_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import m2d_train.distil.pipeline as found; from m2d_train.distil.mix import mix_texts; print(found.__file__)"
    )
    code += "; print(len(mix_texts(None, 30, 100, 0)))"
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": paths}
    )
    assert done.stdout.split() == [str(tmp_path / "m2d_train" / "distil" / "pipeline.py"), "30"], done.stderr


def python_of(environment: Path) -> str:
    return str(environment / "bin" / "python")


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel and no extra."""
    environment = tmp_path_factory.mktemp("base") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    command = [python_of(environment), "-m", "pip", "install", "-q", "--disable-pip-version-check", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return environment


def run_in(base: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed program outside this repository."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program = str(base / "bin" / "m2d-export")
    return subprocess.run([program, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_base_install_is_small_and_imports(base: Path, tmp_path: Path) -> None:
    installed = subprocess.run(
        [python_of(base), "-m", "pip", "list"], capture_output=True, text=True, check=True
    ).stdout
    for heavy in ("torch", "transformers", "sentence-transformers", "onnx", "onnxruntime", "scipy"):
        assert not re.search(rf"^{heavy} ", installed, re.MULTILINE)
    code = f"import m2d_train.distil; import m2d_export; from m2d_export import {', '.join(m2d_export.__all__)}"
    code += "; print(m2d_export.__version__)"
    done = subprocess.run([python_of(base), "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{m2d_export.__version__}\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["--help", "--version", "show BUNDLE", "show BUNDLE --json", "verify BUNDLE"])
def test_the_base_install_runs_the_commands_that_need_no_extra(
    base: Path, bundle: Bundle, tmp_path: Path, command: str
) -> None:
    done = run_in(base, tmp_path, *command.replace("BUNDLE", str(bundle.root)).split())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("encode BUNDLE texts.txt -o vectors.npy", "cpu"),
        ("encode BUNDLE texts.txt -o vectors.npy --runtime pytorch", "build"),
        ("bench BUNDLE", "cpu"),
        ("bench BUNDLE --sts stsb", "(cpu|hub)"),
        ("build CHECKPOINT -o new.m2d", "(cpu|build)"),
        ("slice CHECKPOINT --cell 1x64 -o new", "build"),
        ("distil CHECKPOINT --texts texts.txt -o new", "distil"),
    ],
)
def test_the_base_install_names_the_extra_that_a_command_needs(
    base: Path, bundle: Bundle, checkpoint: Path, tmp_path: Path, command: str, extra: str
) -> None:
    (tmp_path / "texts.txt").write_text("a cat\n")
    places = {"BUNDLE": str(bundle.root), "CHECKPOINT": str(checkpoint)}
    done = run_in(base, tmp_path, *(places.get(word, word) for word in command.split()))
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"Error: .*pip install 'm2d-export\[{extra}\]'\n", done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["texts.txt"]
