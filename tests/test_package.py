"""What is installed: its names, its version, its files, and how it stands without its extras."""

import os
import re
import shutil
import statistics
import subprocess
import sys
import time
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

import m2d_export
from m2d_export import Bundle

ROOT = Path(__file__).parent.parent
CHANGELOG = ROOT / "CHANGELOG.md"


def test_every_public_name_resolves_to_what_bears_it() -> None:
    assert m2d_export.__all__ == sorted(m2d_export.__all__)
    for name in m2d_export.__all__:
        assert getattr(m2d_export, name).__name__ == name
        assert getattr(m2d_export, name) is getattr(import_module(getattr(m2d_export, name).__module__), name)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'm2d_export' has no attribute 'Encodr'"):
        _ = m2d_export.Encodr
    assert not hasattr(m2d_export, "default_dims")  # of spec, and not public


def test_type_checkers_are_told_of_the_same_names() -> None:
    source = (ROOT / "m2d_export" / "__init__.py").read_text(encoding="utf-8")
    block = source.partition("if TYPE_CHECKING:\n")[2].partition("\n\n")[0]
    told = {name.strip() for names in re.findall(r"import (.+)", block) for name in names.split(",")}
    assert told == set(m2d_export.__all__)


def test_the_version_is_the_newest_of_the_changelog() -> None:
    newest = re.search(
        r"^## \[?(\d+\.\d+\.\d+\S*?)\]? - (unreleased|\d{4}-\d\d-\d\d)$", CHANGELOG.read_text(), re.MULTILINE
    )
    assert newest
    assert newest[1] == m2d_export.__version__


def test_help_answers_at_once() -> None:
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "m2d_export", "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    assert statistics.median(seconds) < 0.4


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: setuptools leaves folders behind, and takes in what it finds in them."""
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
def test_the_wheel_holds_the_package_whole_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == f"m2d_export-{m2d_export.__version__}-py3-none-any.whl"
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "m2d_export").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"m2d_export/py.typed", "m2d_export/text/toy_sts.csv", "m2d_export/runtimes/onnxrt.py"} <= sources
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == sources
    assert f"m2d_export-{m2d_export.__version__}.dist-info/licenses/LICENSE" in names


def python_of(environment: Path) -> str:
    return str(environment / "bin" / "python")


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel and none of its extras."""
    environment = tmp_path_factory.mktemp("base") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    command = [python_of(environment), "-m", "pip", "install", "-q", "--disable-pip-version-check", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return environment


def run_in(base: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed program, away from this repository."""
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
    code = f"import m2d_export; from m2d_export import {', '.join(m2d_export.__all__)}; print(m2d_export.__version__)"
    done = subprocess.run([python_of(base), "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{m2d_export.__version__}\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["--help", "--version", "show BUNDLE", "show BUNDLE --json", "verify BUNDLE"])
def test_the_base_install_does_what_needs_no_extra(base: Path, bundle: Bundle, tmp_path: Path, command: str) -> None:
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
        ("slice CHECKPOINT --layer 1 -o new", "build"),
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
