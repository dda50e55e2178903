"""What `m2d-export cpp` writes: it builds, gives Python's vectors, and says what is wrong."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from m2d_export import Bundle, Cell, Encoder, pipeline
from m2d_export.deploy.cpp import ENGINES, RUNTIMES
from m2d_export.deploy.cpp.project import write_project
from m2d_export.errors import OutputError, ParityError, SpecError
from m2d_export.vectors import FloatArray, cosine
from tests.conftest import save_checkpoint
from tests.deploy.test_cpp_tokenizer import sentences
from tests.support.hard_texts import hard_texts

PROGRAMS = Path(__file__).parent / "cpp"
CELL = Cell(3, 32)
TEXTS = ["A man is playing a guitar.", "no", "", "The cat sat on the mat. " * 20, "nul\0nul", *hard_texts(150)]


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a reader of the README would, with the programs of this environment."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "CMAKE_BUILD_PARALLEL_LEVEL": "2"}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def compiler() -> None:
    for program in ("c++", "cmake"):
        if not shutil.which(program, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"):
            pytest.skip(f"there is no {program} here")


@pytest.fixture(scope="module")
def tools(compiler: None) -> Path:
    """The folder of OpenVINO's CMake files."""
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed (extra: openvino)")
    return Path(openvino.__file__).parent / "cmake"


@pytest.fixture(scope="module")
def exported(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder. Never alter it."""
    return write_project(bundle, CELL, tmp_path_factory.mktemp("exported") / "parrot", runtime="openvino")


@pytest.fixture(scope="module")
def programs(tools: Path, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a tree that the folder was dropped into builds."""
    return built(tmp_path_factory.mktemp("programs"), exported, f"-DOpenVINO_DIR={tools}")


def built(folder: Path, exported: Path, *settings: str) -> Path:
    """Build the tree beside these tests, warnings being errors, with an exported folder in it."""
    folder.mkdir(exist_ok=True)
    for command in (
        f"cmake -S {PROGRAMS} -B {folder} -DEXPORTED={exported} {' '.join(settings)}",
        f"cmake --build {folder}",
    ):
        done = shell(command, folder)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


Vectors = Callable[..., FloatArray]


@pytest.fixture(scope="module")
def vectors_of(programs: Path) -> Vectors:
    """The vectors that C++ gives: (texts, dim), or as many of them as there are threads."""
    return vectors_by(programs)


def vectors_by(programs: Path) -> Vectors:
    def vectors(folder: Path, texts: Sequence[str], dim: int = CELL.dim, threads: int = 1) -> FloatArray:
        contents = [text.encode() for text in texts]
        message = b"".join(len(content).to_bytes(4, "little") + content for content in contents)
        command = [programs / "vectors", folder / "model", str(threads)]
        done = subprocess.run(command, input=message, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        found = np.frombuffer(done.stdout, dtype=np.float32)
        return found.reshape(-1, dim) if threads == 1 else found.reshape(threads, -1, dim)

    return vectors


@pytest.mark.parametrize("count", [1, 5, len(TEXTS)])
def test_vectors_are_those_of_python(vectors_of: Vectors, exported: Path, bundle: Bundle, count: int) -> None:
    with Encoder(bundle, CELL.layer, CELL.dim) as encoder:
        np.testing.assert_allclose(vectors_of(exported, TEXTS[:count]), encoder.encode(TEXTS[:count]), atol=1e-5)


def test_many_batches_in_streams_give_the_same_vectors(vectors_of: Vectors, exported: Path) -> None:
    texts = ["The cat sat on the mat. " * 20, *TEXTS] * 12  # 10 of the long texts fill a batch
    many = vectors_of(exported, texts)
    np.testing.assert_allclose(many, np.tile(vectors_of(exported, texts[: len(texts) // 12]), (12, 1)), atol=1e-5)


def test_no_texts_give_no_vectors(vectors_of: Vectors, exported: Path) -> None:
    assert vectors_of(exported, []).shape == (0, CELL.dim)


def test_a_text_of_a_megabyte_is_cut_off_as_in_python(vectors_of: Vectors, exported: Path, bundle: Bundle) -> None:
    texts = ["cat " * 250_000, "x" * 1_000_000, "\0" * 1_000_000, "\u0301" * 500_000]
    with Encoder(bundle, CELL.layer, CELL.dim) as encoder:
        np.testing.assert_allclose(vectors_of(exported, texts), encoder.encode(texts), atol=1e-5)


def test_threads_may_share_an_encoder(vectors_of: Vectors, exported: Path) -> None:
    texts = TEXTS * 12  # in streams
    alone = vectors_of(exported, texts)
    for own in vectors_of(exported, texts, threads=4):
        np.testing.assert_allclose(own, alone, atol=1e-5)


def test_a_prompt_that_is_not_pooled_and_lengths_that_are_kept(vectors_of: Vectors, tmp_path: Path) -> None:
    settings = {"include_prompt": False, "prompts": {"query": "a cat is "}, "default_prompt_name": "query"}
    checkpoint = save_checkpoint(tmp_path / "prompted", normalize=False, **settings)
    bundle = pipeline.build(pipeline.plan(str(checkpoint), tmp_path / "prompted.m2d"))
    exported = write_project(bundle, Cell(2, 64), tmp_path / "out", runtime="openvino")
    with Encoder(bundle, 2, 64) as encoder:
        expected = encoder.encode(TEXTS)
    np.testing.assert_allclose(vectors_of(exported, TEXTS, 64), expected, atol=1e-5 * np.abs(expected).max())
    readme = (exported / "README.md").read_text()
    assert "'a cat is '" in readme
    assert "are not normalised" in readme


def onnxruntime_root() -> str:
    """The folder of an ONNX Runtime for C++, with its headers."""
    places = [os.environ.get("ONNXRUNTIME_ROOT", ""), "/usr", "/usr/local"]
    for place in filter(None, places):
        if any((Path(place) / "include" / below / "onnxruntime_cxx_api.h").exists() for below in ("", "onnxruntime")):
            return place
    pytest.skip("the C++ headers of ONNX Runtime are not here: set ONNXRUNTIME_ROOT to the folder of a release")


def test_onnx_runtime_gives_the_vectors_of_python(compiler: None, bundle: Bundle, tmp_path: Path) -> None:
    root = onnxruntime_root()
    exported = write_project(bundle, CELL, tmp_path / "parrot", runtime="onnxruntime")
    programs = built(tmp_path / "programs", exported, f"-DONNXRUNTIME_ROOT={root}")
    with Encoder(bundle, CELL.layer, CELL.dim) as encoder:
        np.testing.assert_allclose(vectors_by(programs)(exported, TEXTS), encoder.encode(TEXTS), atol=1e-5)


def test_without_the_headers_of_onnx_runtime_cmake_says_what_to_do(
    compiler: None, bundle: Bundle, tmp_path: Path
) -> None:
    exported = write_project(bundle, CELL, tmp_path / "parrot", runtime="onnxruntime")
    done = shell(
        f"cmake -S {exported} -B {tmp_path / 'build'} -DONNXRUNTIME_INCLUDE=NOTFOUND",
        tmp_path,
    )
    assert done.returncode != 0
    assert "name its folder with -DONNXRUNTIME_ROOT" in " ".join(done.stderr.split())


@pytest.mark.slow
def test_int8_gives_the_vectors_of_python(vectors_of: Vectors, quantized: Bundle, tmp_path: Path) -> None:
    exported = write_project(quantized, CELL, tmp_path / "int8", runtime="openvino", precision="int8")
    with Encoder(quantized, CELL.layer, CELL.dim, runtime="openvino", precision="int8") as encoder:
        assert cosine(vectors_of(exported, TEXTS), encoder.encode(TEXTS)).min() >= 0.999


@pytest.mark.slow
def test_stsb_in_int8_has_the_vectors_of_python(vectors_of: Vectors, minilm: Path, stsb: Path, tmp_path: Path) -> None:
    plan = pipeline.plan(str(minilm), tmp_path / "minilm.m2d", layers=[3], precisions=["int8"])
    bundle = pipeline.build(plan)
    exported = write_project(bundle, Cell(3, 128), tmp_path / "int8", runtime="openvino", precision="int8")
    texts = sentences(stsb / "test.csv")
    with Encoder(bundle, 3, 128, runtime="openvino", precision="int8") as encoder:
        assert cosine(vectors_of(exported, texts, 128), encoder.encode(texts)).min() >= 0.999


@pytest.mark.slow
def test_stsb_has_the_vectors_of_python(vectors_of: Vectors, minilm_bundle: Bundle, stsb: Path, tmp_path: Path) -> None:
    exported = write_project(minilm_bundle, Cell(3, 128), tmp_path / "minilm", runtime="openvino")
    texts = sentences(stsb / "test.csv")
    texts += [" ".join(texts[place : place + 20]) for place in range(0, len(texts), 20)]  # in streams for long texts
    with Encoder(minilm_bundle, 3, 128) as encoder:
        assert cosine(vectors_of(exported, texts, 128), encoder.encode(texts)).min() >= 0.99999


@pytest.mark.parametrize("runtime", [name for name in RUNTIMES if name not in ENGINES])
def test_its_readme_says_four_commands_and_leaves_nothing_to_be_filled_in(
    bundle: Bundle, tmp_path: Path, runtime: str
) -> None:
    page = (write_project(bundle, CELL, tmp_path / "out", runtime=runtime) / "README.md").read_text(encoding="utf-8")
    assert "@" not in page
    assert len(commands_of(page)) == 4


def commands_of(page: str) -> list[str]:
    return str(re.findall(r"```bash\n(.*?)```", page, re.DOTALL)[0]).splitlines()


@pytest.mark.slow
def test_the_commands_of_its_readme_print_a_vector(tools: Path, exported: Path, bundle: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "fresh")
    for command in commands_of((folder / "README.md").read_text(encoding="utf-8")):
        done = shell(command, folder)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    with Encoder(bundle, CELL.layer, CELL.dim) as encoder:
        printed = np.array(done.stdout.split(), dtype=np.float32)
        np.testing.assert_allclose(printed, encoder.encode(["A parrot is talking."])[0], atol=1e-5)


def alter(vocabulary: Path) -> None:
    content = bytearray(vocabulary.read_bytes())
    content[len(content) // 2] ^= 1
    vocabulary.write_bytes(content)


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (shutil.rmtree, r"model/vocabulary\.bin cannot be read: give the folder"),
    (
        lambda model: (model / "model.onnx").unlink(),
        r"model/model\.onnx is missing: give the folder that it and vocabulary\.bin lie in",
    ),
    (
        lambda model: (model / "model.onnx").write_bytes(b"no graph"),
        r"OpenVINO cannot read .*model\.onnx, copy it again",
    ),
    (lambda model: (model / "vocabulary.bin").unlink(), r"vocabulary\.bin cannot be read"),
    (lambda model: alter(model / "vocabulary.bin"), r"vocabulary\.bin has been altered, its checksum is wrong"),
    (lambda model: os.truncate(model / "vocabulary.bin", 1000), "has been altered"),
    (lambda model: os.truncate(model / "vocabulary.bin", 8), "is not a vocabulary of this version"),
    (lambda model: (model / "vocabulary.bin").write_bytes(b""), "is not a vocabulary of this version"),
    (lambda model: (model / "vocabulary.bin").write_text("[PAD]\n" * 9), "is not a vocabulary of this version"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGES, ids=[said for _, said in DAMAGES])
def test_damage_is_named(
    programs: Path, exported: Path, tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    model = Path(shutil.copytree(exported / "model", tmp_path / "model"))
    damage(model)
    done = subprocess.run([programs / "exported" / "example", model, "a cat"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(said, done.stderr)


def test_a_graph_of_another_dim_is_named(programs: Path, exported: Path, bundle: Bundle, tmp_path: Path) -> None:
    other = write_project(bundle, Cell(CELL.layer, 16), tmp_path / "other", runtime="openvino")
    shutil.copy(exported / "model" / "model.onnx", other / "model" / "model.onnx")
    done = subprocess.run([programs / "exported" / "example", other / "model", "cat"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "are of different exports: the vocabulary's vectors have 16 numbers" in done.stderr


def test_a_graph_of_other_inputs_is_named(programs: Path, exported: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(exported / "model", tmp_path / "model"))
    graph = onnx.load(model / "model.onnx")
    for node in graph.graph.node:
        node.input[:] = ["ids" if name == "input_ids" else name for name in node.input]
    next(value for value in graph.graph.input if value.name == "input_ids").name = "ids"
    onnx.save(graph, model / "model.onnx")
    done = subprocess.run([programs / "exported" / "example", model, "cat"], capture_output=True, text=True)
    assert (done.returncode, "are of different exports" in done.stderr) == (1, True)


def test_a_folder_appears_whole_or_not_at_all(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ParityError("not the same vectors")

    monkeypatch.setattr("m2d_export.deploy.cpp.project.write_deployed", refuse)
    with pytest.raises(ParityError):
        write_project(bundle, CELL, tmp_path / "out", runtime="openvino")
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match="exists"):
        write_project(bundle, CELL, tmp_path / "there", runtime="openvino")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


@pytest.mark.parametrize(
    ("cell", "options", "reason"),
    [
        (Cell(9, 32), {}, "no exit at layer 9"),
        (Cell(3, 65), {}, "dim 65 is out of range"),
        (CELL, {"precision": "int8"}, "no int8 variant"),
        (CELL, {"runtime": "pytorch"}, r"no C\+\+ for the runtime 'pytorch'"),
    ],
)
def test_what_is_not_there_is_refused(
    bundle: Bundle, tmp_path: Path, cell: Cell, options: dict[str, str], reason: str
) -> None:
    with pytest.raises(SpecError, match=reason):
        write_project(bundle, cell, tmp_path / "out", **({"runtime": "openvino"} | options))
    assert list(tmp_path.iterdir()) == []


def test_one_header_includes_what_it_needs_once(exported: Path) -> None:
    header = (exported / "m2d_encoder.hpp").read_text(encoding="utf-8")
    includes = re.findall(r"^#include (.*)$", header, re.MULTILINE)
    assert includes == sorted(set(includes))
    assert all(include.startswith("<") for include in includes)
    assert header.count("#pragma once") == 1
    assert {path.name for path in exported.iterdir()} == {
        *("m2d_encoder.hpp", "example.cpp", "CMakeLists.txt", "README.md", "model")
    }
