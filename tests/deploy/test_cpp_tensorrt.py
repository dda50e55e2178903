"""The TensorRT flavour of `m2d-export cpp`: against NVIDIA's headers, and run on a stand-in for TensorRT and CUDA.

No GPU is needed: the stand-in (tests/cpp/standin) has what the header calls, and its vectors are made here as well.
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
from m2d_export.bundle.bundle import EngineEntry, FileEntry
from m2d_export.deploy.cpp import ENGINES
from m2d_export.deploy.cpp.project import header, write_project
from m2d_export.engines.engine import FLAGS, LIBRARIES
from m2d_export.errors import IntegrityError, RuntimeUnavailable, SpecError
from m2d_export.host.files import sha256_of
from m2d_export.host.gpu import gpus
from m2d_export.spec import EngineKey, ShapeRange, parse_shapes
from m2d_export.vectors import FloatArray, truncate
from tests.conftest import WIDTH
from tests.deploy.test_cpp_tokenizer import STRICT
from tests.support.hard_texts import hard_texts

PROGRAMS = Path(__file__).parent / "cpp"
STANDIN = PROGRAMS / "standin"
CELL = Cell(2, 32)
SHAPES = parse_shapes("1x1:2x4:7x6,1x9:2x16:4x16,1x17:2x32:3x48")  # no profile for 7 and 8 tokens alone
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
    """A copy of a bundle with an engine of every graph, a plan of the stand-in, and ``changes`` of its manifest."""
    root = Path(shutil.copytree(bundle.root, folder))
    numbers = [number for item in shapes for number in (*item.least, *item.most)]
    manifest = replace(bundle.manifest, **changes)
    inputs = 2 if manifest.text.include_prompt else 3
    entries, files = [], dict(manifest.files)
    (root / "engines").mkdir()
    for variant in manifest.variants:
        path = f"engines/{variant.layer}.{variant.precision}.engine"
        (root / path).write_text(" ".join(map(str, (WIDTH, inputs, *numbers))))
        files[path] = FileEntry((root / path).stat().st_size, sha256_of(root / path))
        hashes = (files[variant.path].sha256, files[variant.weights].sha256)
        gpu, targets = ("Made-up GPU", ()) if kind == "trt" else (None, ("sm86", "sm89"))
        key = EngineKey(kind, "11.4.0", *hashes, tuple(shapes), targets, gpu, flags)
        entries.append(EngineEntry(variant.layer, variant.precision, path, key))
    (root / "manifest.json").write_text(replace(manifest, engines=tuple(entries), files=files).to_json())
    return Bundle.open(root)


@pytest.fixture(scope="module")
def planned(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with plans of the stand-in. Never alter it."""
    return engined(bundle, tmp_path_factory.mktemp("planned") / "tiny.m2d")


@pytest.fixture(scope="module")
def exported(planned: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder. Never alter it."""
    return write_project(planned, CELL, tmp_path_factory.mktemp("exported") / "parrot", runtime="tensorrt")


@pytest.fixture(scope="module")
def program(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that writes vectors, on the stand-in, under the sanitizers."""
    compiler = shutil.which("c++")
    if not compiler:
        pytest.skip("there is no C++ compiler (c++) here")
    target = tmp_path_factory.mktemp("programs") / "vectors"
    sanitizers = ("-O1", "-g", "-pthread", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    command = [compiler, *STRICT, *sanitizers, f"-I{exported}", f"-I{STANDIN}", PROGRAMS / "vectors.cpp", "-o", target]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def run(program: Path) -> Run:
    def run_(folder: Path, texts: Sequence[str], *, threads: int = 1, gpu: int = 0, fails: int = 0):
        contents = [text.encode() for text in texts]
        message = b"".join(len(content).to_bytes(4, "little") + content for content in contents)
        command = [program, folder / "model", str(threads), str(gpu)]
        environment = LEAK_CHECKED | {"STANDIN_FAILS": str(fails)}
        return subprocess.run(command, input=message, capture_output=True, env=environment)

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


def test_threads_take_turns_on_a_gpu_of_ones_choice(run: Run, exported: Path, planned: Bundle) -> None:
    given = vectors(run(exported, TEXTS, threads=4, gpu=1))
    np.testing.assert_allclose(given, np.tile(expected(planned, TEXTS), (4, 1)), atol=1e-6)


def test_a_prompt_that_is_not_pooled_and_lengths_that_are_kept(run: Run, bundle: Bundle, tmp_path: Path) -> None:
    prompted = {"include_prompt": False, "prompts": {"query": "a cat is "}, "default_prompt_name": "query"}
    text = replace(bundle.manifest.text, **prompted)
    bundle = engined(bundle, tmp_path / "tiny.m2d", "trt-rtx", text=text, normalize=False)
    exported = write_project(bundle, Cell(1, WIDTH), tmp_path / "out", runtime="tensorrt-rtx")
    np.testing.assert_array_equal(vectors(run(exported, TEXTS), WIDTH), expected(bundle, TEXTS, WIDTH))


def test_every_status_is_looked_at(run: Run, exported: Path) -> None:
    said, texts = [], ["a cat", "no", *["a cat on the mat " * 3] * 3]  # two batches, of two profiles
    while (done := run(exported, texts, gpu=1, fails=len(said) + 1)).returncode:
        assert (done.returncode, done.stdout) == (1, b"")
        said.append(done.stderr.decode())
    assert len(said) > 30
    for each in said:
        assert re.fullmatch(r"(CUDA|TensorRT) cannot [^\n]+: [^\n]+\n", each)
    assert len(set(said)) > 12


def test_a_gpu_that_is_not_there_is_named(run: Run, exported: Path) -> None:
    assert b"CUDA cannot use GPU 7 (nvidia-smi shows those there are): " in run(exported, ["a cat"], gpu=7).stderr


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (None, r"model/model\.plan is missing: give the folder that it and vocabulary\.bin lie in"),
        ("no plan", r"TensorRT cannot load .*model\.plan, which runs .* README\.md names: the plan is none"),
        ("16 2 1 1 4 48", "are of different exports: the vocabulary's vectors have 32 numbers"),
        ("64 2 1 1 4 16", "not built for texts of 48 tokens: build it with --shapes to 48"),
        ("64 2 2 1 4 48", "TensorRT cannot take a batch of 1 x 48 tokens: the shape is not in the profile"),
    ],
)
def test_what_is_wrong_with_a_plan_is_said(
    run: Run, exported: Path, tmp_path: Path, plan: str | None, said: str
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    file = folder / "model" / "model.plan"
    file.write_text(plan) if plan else file.unlink()
    done = run(folder, ["a cat on the mat " * 20])
    assert (done.returncode, done.stdout) == (1, b"")
    assert re.search(said, done.stderr.decode())


@pytest.mark.parametrize(
    ("runtime", "shapes", "options", "reason"),
    [
        (
            "tensorrt-rtx",
            "1x1:2x4:4x48",
            {},
            "has no trt-rtx engine of layer 2 in fp32: .* build --engine trt-rtx",
        ),
        ("tensorrt", "1x1:2x4:4x32", {}, "is not for texts of 48 tokens: build it with --shapes"),
        ("tensorrt", "2x1:2x4:4x48", {}, "is not for a single text: build it with --shapes"),
        ("tensorrt", "1x1:2x4:4x48", {"precision": "fp16"}, "no fp16 variant"),
    ],
)
def test_an_engine_that_does_not_serve_is_refused(
    bundle: Bundle, tmp_path: Path, runtime: str, shapes: str, options: dict[str, str], reason: str
) -> None:
    planned = engined(bundle, tmp_path / "tiny.m2d", shapes=parse_shapes(shapes))
    with pytest.raises(SpecError, match=reason):
        write_project(planned, CELL, tmp_path / "out", runtime=runtime, **options)
    assert not (tmp_path / "out").exists()


def test_an_altered_engine_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    planned = engined(bundle, tmp_path / "tiny.m2d")
    for file in (planned.root / "engines").iterdir():
        file.write_text(file.read_text().replace("1", "2"))
    with pytest.raises(IntegrityError, match=r"engines/2\.fp32\.engine has been altered"):
        write_project(planned, CELL, tmp_path / "out", runtime="tensorrt")


def test_an_engine_of_other_flags_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    planned = engined(bundle, tmp_path / "tiny.m2d", flags=("TF32 off",))
    with pytest.raises(RuntimeUnavailable, match="was built with the flags TF32 off, engines are built here with"):
        write_project(planned, CELL, tmp_path / "out", runtime="tensorrt")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("runtime", "kind"), ENGINES.items())
def test_its_pages_name_the_library_the_gpu_and_the_shapes(
    bundle: Bundle, tmp_path: Path, runtime: str, kind: str
) -> None:
    planned = engined(bundle, tmp_path / "tiny.m2d", kind)
    out = write_project(planned, CELL, tmp_path / "out", runtime=runtime)
    page, cmake = (out / "README.md").read_text(), (out / "CMakeLists.txt").read_text()
    assert "@" not in page + cmake
    assert len(re.findall(r"```bash\n(.*\n.*\n.*\n.*\n)```", page)) == 1
    assert ("Made-up GPU" if kind == "trt" else "compute capability sm86, sm89") in page
    assert "7 of up to 6 tokens, 4 of up to 16 tokens, 3 of up to 48 tokens" in page
    assert (out / "model" / "model.plan").read_bytes() == (planned.root / "engines" / "2.fp32.engine").read_bytes()
    assert f" {'nvinfer' if kind == 'trt' else 'tensorrt_rtx'} HINTS" in cmake


def test_without_the_headers_cmake_says_what_to_do(exported: Path, tmp_path: Path) -> None:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    if not all(shutil.which(name, path=path) for name in ("c++", "cmake")):
        pytest.skip("there is no c++ or no cmake here")
    command = ["cmake", "-S", exported, "-B", tmp_path, "-DTENSORRT_INCLUDE=NOTFOUND"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.returncode != 0
    assert "unpack TensorRT for C++, and name its folder with -DTENSORRT_ROOT" in " ".join(done.stderr.split())


@pytest.fixture(scope="module")
def nvidia(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders with the headers of TensorRT and CUDA: $TENSORRT_ROOT and $CUDA_HOME, or packages that have them."""
    roots = [os.environ.get(name) for name in ("TENSORRT_ROOT", "CUDA_HOME")]
    if all(roots):
        return [Path(str(root)) / "include" for root in roots]
    folder = tmp_path_factory.mktemp("nvidia")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--only-binary=:all:",
        "-d",
        folder,
        *HEADERS,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip("NVIDIA's headers are not here and not to be had: set TENSORRT_ROOT and CUDA_HOME")
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if "/include/" in name])
    return [next(folder.rglob(name)).parent for name in ("NvInferRuntime.h", "cuda_runtime_api.h")]


@pytest.mark.slow
def test_nvidias_own_headers_have_what_it_calls(nvidia: list[Path], tmp_path: Path) -> None:
    compiler = shutil.which("c++")
    if not compiler:
        pytest.skip("there is no C++ compiler (c++) here")
    (tmp_path / "m2d_encoder.hpp").write_text(header("tensorrt"))
    includes = [f"-I{tmp_path}", *(f"-isystem{folder}" for folder in nvidia)]
    done = subprocess.run(
        [compiler, *STRICT, "-fsyntax-only", *includes, PROGRAMS / "vectors.cpp"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(("runtime", "kind"), ENGINES.items())
def test_where_a_gpu_is_it_gives_the_vectors_of_python(
    checkpoint: Path, tmp_path: Path, runtime: str, kind: str
) -> None:
    """Of the library whose release for C++ $TENSORRT_ROOT names: an engine is built, shipped, compiled and run."""
    if not gpus():
        pytest.skip("there is no NVIDIA GPU here")
    root = os.environ.get("TENSORRT_ROOT")
    if not root or not list(Path(root).rglob(f"lib{'nvinfer' if kind == 'trt' else 'tensorrt_rtx'}.so")):
        pytest.skip(f"$TENSORRT_ROOT names no release of {runtime} for C++")
    pytest.importorskip(LIBRARIES[kind], reason=f"extra {kind} is not installed")
    bundle = pipeline.build(pipeline.plan(str(checkpoint), tmp_path / "tiny.m2d", layers=[CELL.layer], engines=[kind]))
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
