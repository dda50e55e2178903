"""``m2d-export cpp`` for TensorRT: compiled with NVIDIA's headers, and run on a stand-in for TensorRT and CUDA.

No GPU is needed: the stand-in (cpp/standin) has the functions that the header calls, and ``expected`` computes the same
vectors as it does.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2d_export import Bundle, Cell, Encoder, pipeline
from m2d_export.bundle.manifest import FileEntry
from m2d_export.deploy.cpp import FLAVOURS
from m2d_export.deploy.cpp.project import header, write_project
from m2d_export.engines.library import FLAGS
from m2d_export.errors import IntegrityError, RuntimeUnavailable, SpecError
from m2d_export.host.files import sha256_of
from m2d_export.host.gpu import gpus
from m2d_export.runtimes.table import RUNTIMES
from m2d_export.spec import EngineEntry, EngineKey, ShapeRange, parse_shapes
from m2d_export.vectors import FloatArray, truncate
from tests.deploy.cpp_programs import PATH, PROGRAMS, SANITIZERS, STRICT, compiled, message, require_programs
from tests.support.checkpoints import WIDTH
from tests.support.hard_texts import hard_texts
from tests.support.shared import Once

pytestmark = pytest.mark.slow

STANDIN = PROGRAMS / "standin"
ENGINES = [name for name, flavour in FLAVOURS.items() if flavour.runs_engine]
CELL = Cell(2, 32)
SHAPES = parse_shapes("1x1:2x4:7x6,1x9:2x16:4x16,1x17:2x32:3x48")  # no profile for 7 and 8 tokens
HEADERS = ("kernel-lens==2.0.1", "nvidia-cuda-runtime", "nvidia-cuda-crt")  # packages that NVIDIA's headers come in
TEXTS = ["A man is playing a guitar.", "no", "", "a cat on the mat " * 20, "nul\0nul", "cat " * 5, *hard_texts(60)]
LEAK_CHECKED = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1"}


def engined(
    bundle: Bundle,
    folder: Path,
    kind: str = "trt",
    shapes: Sequence[ShapeRange] = SHAPES,
    flags: tuple[str, ...] = FLAGS,
    **changes: Any,
) -> Bundle:
    """A copy of a bundle with an engine of the stand-in for every graph, and with ``changes`` to its manifest."""
    root = Path(shutil.copytree(bundle.root, folder))
    numbers = [number for item in shapes for number in (*item.min, *item.max)]
    manifest = replace(bundle.manifest, **changes)
    inputs = 2 if manifest.text.include_prompt else 3
    entries, files = [], dict(manifest.files)
    (root / "engines").mkdir()
    for variant in manifest.variants:
        path = f"engines/{variant.layer}.{variant.precision}.engine"
        (root / path).write_text(" ".join(map(str, (WIDTH, inputs, *numbers))))
        files[path] = FileEntry((root / path).stat().st_size, sha256_of(root / path))
        hashes = (files[variant.graph()].sha256, files[variant.weights].sha256)
        gpu, targets = ("Made-up GPU", ()) if kind == "trt" else (None, ("sm86", "sm89"))
        key = EngineKey(kind, "11.4.0", *hashes, tuple(shapes), targets, gpu, flags)
        entries.append(EngineEntry(variant.layer, variant.precision, path, key))
    (root / "manifest.json").write_text(replace(manifest, engines=tuple(entries), files=files).to_json())
    return Bundle.open(root)


@pytest.fixture(scope="module")
def planned(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with engines of the stand-in. Never alter it."""
    return engined(bundle, tmp_path_factory.mktemp("planned") / "tiny.m2d")


@pytest.fixture(scope="module")
def exported(planned: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project. Never alter it."""
    return write_project(planned, CELL, tmp_path_factory.mktemp("exported") / "parrot", runtime="trt")


@pytest.fixture(scope="session")
def program(once: Once) -> Path:
    """The program that writes vectors, on the stand-in, under the sanitizers."""
    folder = once("cpp-trt-header", lambda folder: (folder / "m2d_encoder.hpp").write_text(header("trt")))
    return compiled(once, "vectors", *SANITIZERS, "-pthread", f"-I{folder}", f"-I{STANDIN}", label="trt-vectors")


Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def run(program: Path) -> Run:
    def run_(folder: Path, texts: Sequence[str], *, threads: int = 1, gpu: int = 0, fails: int = 0):
        command = [program, folder / "model", str(threads), str(gpu)]
        environment = LEAK_CHECKED | {"STANDIN_FAILS": str(fails)}
        encoded = message([text.encode() for text in texts])
        return subprocess.run(command, input=encoded, capture_output=True, env=environment)

    return run_


def vectors(done: subprocess.CompletedProcess[bytes], dim: int = CELL.dim) -> FloatArray:
    assert (done.returncode, done.stderr) == (0, b"")
    return np.frombuffer(done.stdout, dtype=np.float32).reshape(-1, dim)


def expected(bundle: Bundle, texts: Sequence[str], dim: int = CELL.dim) -> FloatArray:
    """The stand-in's vectors of ``texts``, cut and scaled as ``Encoder`` does."""
    full = []
    for item in bundle.tokenizer.encode(texts, bundle.manifest.text.prompt()):
        ids, places = np.array(item.ids)[:, None], np.arange(len(item.ids))[:, None]
        numbers = (ids * 31 + places * 7 + np.arange(WIDTH) * 13) % 101 - 50
        full.append(numbers[item.prompt_length :].sum(axis=0))
    return truncate(np.array(full, dtype=np.float32).reshape(-1, WIDTH), dim, bundle.manifest.normalize)


@pytest.mark.parametrize("count", [0, 1, 5, len(TEXTS)])
def test_batches_go_to_the_gpu_and_back(run: Run, exported: Path, planned: Bundle, count: int) -> None:
    texts = TEXTS[:count]
    np.testing.assert_allclose(vectors(run(exported, texts)), expected(planned, texts), atol=1e-6)


def test_threads_take_turns_on_the_gpu_that_is_chosen(run: Run, exported: Path, planned: Bundle) -> None:
    given = vectors(run(exported, TEXTS, threads=4, gpu=1))
    np.testing.assert_allclose(given, np.tile(expected(planned, TEXTS), (4, 1)), atol=1e-6)


def test_a_prompt_that_is_not_pooled_and_vectors_that_are_not_scaled(
    run: Run, prompted: Bundle, tmp_path: Path
) -> None:
    bundle = engined(prompted, tmp_path / "tiny.m2d", "trt-rtx", normalize=False)
    exported = write_project(bundle, Cell(1, WIDTH), tmp_path / "out", runtime="trt-rtx")
    np.testing.assert_array_equal(vectors(run(exported, TEXTS), WIDTH), expected(bundle, TEXTS, WIDTH))


def test_every_failing_call_ends_the_program_with_an_error_that_names_it(run: Run, exported: Path) -> None:
    said, texts = [], ["a cat", "no", *["a cat on the mat " * 3] * 3]  # two batches, of two profiles
    while (done := run(exported, texts, gpu=1, fails=len(said) + 1)).returncode:
        assert (done.returncode, done.stdout) == (1, b"")
        said.append(done.stderr.decode())
    assert len(said) > 30
    for each in said:
        assert re.fullmatch(r"(CUDA|TensorRT) cannot [^\n]+: [^\n]+\n", each)
    assert len(set(said)) > 12


def test_a_gpu_that_does_not_exist_is_named(run: Run, exported: Path) -> None:
    assert b"CUDA cannot use GPU 7 " in run(exported, ["a cat"], gpu=7).stderr


@pytest.mark.parametrize(
    ("plan", "error"),
    [
        (None, r"model\.plan is missing"),
        ("no plan", r"TensorRT cannot load .*model\.plan .*: the plan is none"),
        ("16 2 1 1 4 48", r"model\.plan and vocabulary\.bin .* 32 numbers"),
        ("64 2 1 1 4 16", "texts of 48 tokens: .*--shapes"),
        ("64 2 2 1 4 48", "TensorRT cannot take a batch of 1 x 48 tokens: the shape is not in the profile"),
    ],
)
def test_the_error_names_what_is_wrong_with_an_engine(
    run: Run, exported: Path, tmp_path: Path, plan: str | None, error: str
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    file = folder / "model" / "model.plan"
    file.write_text(plan) if plan else file.unlink()
    done = run(folder, ["a cat on the mat " * 20])
    assert (done.returncode, done.stdout) == (1, b"")
    assert re.search(error, done.stderr.decode())


@pytest.mark.parametrize(
    ("runtime", "shapes", "precision", "named"),
    [
        ("trt-rtx", "1x1:2x4:4x48", "fp32", "--engine trt-rtx"),
        ("trt", "1x1:2x4:4x32", "fp32", "--shapes that end at 48"),
        ("trt", "2x1:2x4:4x48", "fp32", "--shapes that begin at 1x"),
        ("trt", "1x1:2x4:4x48", "fp16", "fp16"),
    ],
)
def test_a_missing_engine_or_one_that_refuses_some_texts_is_not_exported(
    bundle: Bundle, tmp_path: Path, runtime: str, shapes: str, precision: str, named: str
) -> None:
    planned = engined(bundle, tmp_path / "tiny.m2d", shapes=parse_shapes(shapes))
    with pytest.raises(SpecError, match=named):
        write_project(planned, CELL, tmp_path / "out", runtime=runtime, precision=precision)
    assert not (tmp_path / "out").exists()


def test_an_altered_engine_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    planned = engined(bundle, tmp_path / "tiny.m2d")
    for file in (planned.root / "engines").iterdir():
        file.write_text(file.read_text().replace("1", "2"))
    with pytest.raises(IntegrityError, match=r"engines/2\.fp32\.engine"):
        write_project(planned, CELL, tmp_path / "out", runtime="trt")


def test_an_engine_that_was_built_with_other_flags_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    planned = engined(bundle, tmp_path / "tiny.m2d", flags=("TF32 off",))
    with pytest.raises(RuntimeUnavailable, match="TF32 off"):
        write_project(planned, CELL, tmp_path / "out", runtime="trt")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("runtime", ENGINES)
def test_the_pages_name_the_library_the_gpu_and_the_shapes(bundle: Bundle, tmp_path: Path, runtime: str) -> None:
    planned = engined(bundle, tmp_path / "tiny.m2d", runtime)
    out = write_project(planned, CELL, tmp_path / "out", runtime=runtime)
    page, cmake = (out / "README.md").read_text(), (out / "CMakeLists.txt").read_text()
    assert not re.search(r"\$\$|\$[a-z]", page + cmake)
    assert len(re.findall(r"```bash\n(.*\n.*\n.*\n.*\n)```", page)) == 1
    assert ("Made-up GPU" if runtime == "trt" else "compute capability sm86, sm89") in page
    assert "7 texts of up to 6 tokens, 4 texts of up to 16 tokens, 3 texts of up to 48 tokens" in page
    assert (out / "model" / "model.plan").read_bytes() == (planned.root / "engines" / "2.fp32.engine").read_bytes()
    assert f" {FLAVOURS[runtime].places['library']} HINTS" in cmake


def test_without_the_headers_cmake_names_the_option(exported: Path, tmp_path: Path) -> None:
    require_programs("c++", "cmake")
    command = ["cmake", "-S", exported, "-B", tmp_path, "-DTENSORRT_INCLUDE=NOTFOUND"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": PATH})
    assert done.returncode != 0
    assert "-DTENSORRT_ROOT=" in done.stderr


@pytest.fixture(scope="module")
def nvidia(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders with the headers of TensorRT and CUDA: $TENSORRT_ROOT and $CUDA_HOME, or packages that have them."""
    roots = [os.environ.get(name) for name in ("TENSORRT_ROOT", "CUDA_HOME")]
    if all(roots):
        return [Path(str(root)) / "include" for root in roots]
    folder = tmp_path_factory.mktemp("nvidia")
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    command = [*pip, "-d", folder, *HEADERS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip("NVIDIA's headers cannot be downloaded: set TENSORRT_ROOT and CUDA_HOME")
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if "/include/" in name])
    return [next(folder.rglob(name)).parent for name in ("NvInferRuntime.h", "cuda_runtime_api.h")]


@pytest.mark.slow
def test_the_header_compiles_with_nvidias_own_headers(nvidia: list[Path], tmp_path: Path) -> None:
    require_programs("c++")
    (tmp_path / "m2d_encoder.hpp").write_text(header("trt"))
    includes = [f"-I{tmp_path}", *(f"-isystem{folder}" for folder in nvidia)]
    command = ["c++", *STRICT, "-fsyntax-only", *includes, PROGRAMS / "vectors.cpp"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ENGINES)
def test_on_a_gpu_it_gives_the_vectors_of_python(checkpoint: Path, tmp_path: Path, runtime: str) -> None:
    """Builds, exports, compiles and runs an engine of the library whose release for C++ $TENSORRT_ROOT names."""
    if not gpus():
        pytest.skip("there is no NVIDIA GPU here")
    root, library = os.environ.get("TENSORRT_ROOT"), FLAVOURS[runtime].places["library"]
    if not root or not list(Path(root).rglob(f"lib{library}.so")):
        pytest.skip(f"$TENSORRT_ROOT names no release of {FLAVOURS[runtime].title} for C++")
    pytest.importorskip(RUNTIMES[runtime].package, reason=f"extra {RUNTIMES[runtime].extra} is not installed")
    bundle = pipeline.build(str(checkpoint), tmp_path / "tiny.m2d", layers=[CELL.layer], engines=[runtime])
    folder = write_project(bundle, CELL, tmp_path / "out", runtime=runtime)
    for command in (
        ["cmake", "-S", folder, "-B", folder / "build", f"-DTENSORRT_ROOT={root}"],
        ["cmake", "--build", folder / "build"],
        [folder / "build" / "example", folder / "model", "A parrot is talking."],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    with Encoder(bundle, CELL.layer, CELL.dim) as encoder:
        printed = np.array(done.stdout.split(), dtype=np.float32)
        np.testing.assert_allclose(printed, encoder.encode(["A parrot is talking."])[0], atol=1e-4)
