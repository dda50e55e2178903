"""The projects that ``m2d-export cpp`` writes: they build, give Python's vectors, and report what is wrong."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from m2d_export import Bundle, Cell, Encoder
from m2d_export.deploy.cpp import FLAVOURS
from m2d_export.deploy.cpp.project import header, write_project
from m2d_export.errors import OutputError, ParityError, SpecError
from m2d_export.runtimes.onnxrt import SETTINGS
from m2d_export.runtimes.table import RUNTIMES
from m2d_export.text.batches import MIN_FILL, TOKEN_BUDGET
from m2d_export.vectors import FloatArray, cosine
from tests.deploy.cpp_programs import PROGRAMS, message, require_programs, sentences, shell
from tests.support.hard_texts import hard_texts
from tests.support.shared import Once

pytestmark = pytest.mark.slow

CELL = Cell(3, 32)
TEXTS = ["A man is playing a guitar.", "no", "", "The cat sat on the mat. " * 20, "nul\0nul", *hard_texts(150)]
GRAPH_RUNTIMES = [name for name, flavour in FLAVOURS.items() if not flavour.runs_engine]

Vectors = Callable[..., FloatArray]


@pytest.fixture(scope="session")
def cmake_option() -> str:
    """The option that tells CMake where OpenVINO is."""
    require_programs("c++", "cmake")
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed (extra: openvino)")
    return f"-DOpenVINO_DIR={Path(openvino.__file__).parent / 'cmake'}"


@pytest.fixture(scope="session")
def exported(once: Once, bundle: Bundle) -> Path:
    """A project for OpenVINO. Never alter it."""
    return once("cpp-exported", lambda folder: write_project(bundle, CELL, folder / "p", runtime="openvino")) / "p"


@pytest.fixture(scope="session")
def programs(once: Once, cmake_option: str, exported: Path) -> Path:
    """A build folder: the programs of these tests, and the example of the project."""
    return once("cpp-programs", lambda folder: build(folder, exported, cmake_option))


def build(folder: Path, exported: Path, *settings: str) -> None:
    """Build the CMake tree of these tests, with a project inside it and warnings as errors."""
    for command in (
        f"cmake -S {PROGRAMS} -B {folder} -DEXPORTED={exported} {' '.join(settings)}",
        f"cmake --build {folder}",
    ):
        done = shell(command, folder)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def vectors_of(programs: Path) -> Vectors:
    """The vectors that C++ gives: (texts, dim), or (threads, texts, dim) with several threads."""
    return vectors_by(programs)


def vectors_by(programs: Path) -> Vectors:
    def vectors(folder: Path, texts: Sequence[str], dim: int = CELL.dim, threads: int = 1) -> FloatArray:
        command = [programs / "vectors", folder / "model", str(threads)]
        done = subprocess.run(command, input=message([text.encode() for text in texts]), capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        found = np.frombuffer(done.stdout, dtype=np.float32)
        return found.reshape(-1, dim) if threads == 1 else found.reshape(threads, -1, dim)

    return vectors


def test_runtimes_have_the_names_of_the_package() -> None:
    assert set(FLAVOURS) <= set(RUNTIMES)


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


def test_a_text_of_a_megabyte_is_cut_as_in_python(vectors_of: Vectors, exported: Path, bundle: Bundle) -> None:
    texts = ["cat " * 250_000, "x" * 1_000_000, "\0" * 1_000_000, "\u0301" * 500_000]
    with Encoder(bundle, CELL.layer, CELL.dim) as encoder:
        np.testing.assert_allclose(vectors_of(exported, texts), encoder.encode(texts), atol=1e-5)


def test_threads_may_share_an_encoder(vectors_of: Vectors, exported: Path) -> None:
    texts = TEXTS * 12  # in streams
    single = vectors_of(exported, texts)
    for own in vectors_of(exported, texts, threads=4):
        np.testing.assert_allclose(own, single, atol=1e-5)


def test_a_prompt_that_is_not_pooled_and_vectors_that_are_not_scaled(
    vectors_of: Vectors, prompted: Bundle, tmp_path: Path
) -> None:
    exported = write_project(prompted, Cell(2, 64), tmp_path / "out", runtime="openvino")
    with Encoder(prompted, 2, 64) as encoder:
        expected = encoder.encode(TEXTS)
    np.testing.assert_allclose(vectors_of(exported, TEXTS, 64), expected, atol=1e-5 * np.abs(expected).max())
    readme = (exported / "README.md").read_text()
    assert "'a cat is '" in readme
    assert "unit length" not in readme


def test_exit_0_gives_the_vectors_of_python(
    vectors_of: Vectors, tabled: Bundle, prompted_table: Bundle, tmp_path: Path
) -> None:
    texts = [*TEXTS, "The cat sat on the mat. " * 20] * 12  # in streams
    for name, bundle, precision in (
        ("plain", tabled, "fp32"),
        ("int8", tabled, "int8"),
        ("prompted", prompted_table, "fp32"),
    ):
        exported = write_project(bundle, Cell(0, 20), tmp_path / name, runtime="openvino", precision=precision)
        with Encoder(bundle, 0, 20, precision=precision) as encoder:
            for some in (texts, [""], ["no"]):
                np.testing.assert_allclose(vectors_of(exported, some, 20), encoder.encode(some), atol=1e-5)


def onnxruntime_root() -> str:
    """The folder of an ONNX Runtime for C++ with its headers."""
    places = [os.environ.get("ONNXRUNTIME_ROOT", ""), "/usr", "/usr/local"]
    for place in filter(None, places):
        if any((Path(place) / "include" / below / "onnxruntime_cxx_api.h").exists() for below in ("", "onnxruntime")):
            return place
    pytest.skip("the C++ headers of ONNX Runtime are not here: set ONNXRUNTIME_ROOT to the folder of a release")


def test_onnx_runtime_gives_the_vectors_of_python(bundle: Bundle, tmp_path: Path) -> None:
    root = onnxruntime_root()
    require_programs("c++", "cmake")
    exported = write_project(bundle, CELL, tmp_path / "parrot", runtime="onnxrt")
    programs = tmp_path / "programs"
    programs.mkdir()
    build(programs, exported, f"-DONNXRUNTIME_ROOT={root}")
    with Encoder(bundle, CELL.layer, CELL.dim) as encoder:
        np.testing.assert_allclose(vectors_by(programs)(exported, TEXTS), encoder.encode(TEXTS), atol=1e-5)


def test_without_the_headers_of_onnx_runtime_cmake_names_the_option(bundle: Bundle, tmp_path: Path) -> None:
    require_programs("c++", "cmake")
    exported = write_project(bundle, CELL, tmp_path / "parrot", runtime="onnxrt")
    done = shell(f"cmake -S {exported} -B {tmp_path / 'build'} -DONNXRUNTIME_INCLUDE=NOTFOUND", tmp_path)
    assert done.returncode != 0
    assert "-DONNXRUNTIME_ROOT=" in done.stderr


def test_int8_gives_the_vectors_of_python(vectors_of: Vectors, quantized: Bundle, tmp_path: Path) -> None:
    exported = write_project(quantized, CELL, tmp_path / "int8", runtime="openvino", precision="int8")
    with Encoder(quantized, CELL.layer, CELL.dim, runtime="openvino", precision="int8") as encoder:
        assert cosine(vectors_of(exported, TEXTS), encoder.encode(TEXTS)).min() >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "runtime", "bound"), [("fp32", "onnxrt", 0.99999), ("int8", "openvino", 0.999)], ids=["fp32", "int8"]
)
def test_the_sentences_of_stsb_have_the_vectors_of_python(
    vectors_of: Vectors, minilm_bundle: Bundle, stsb: Path, tmp_path: Path, precision: str, runtime: str, bound: float
) -> None:
    exported = write_project(minilm_bundle, Cell(3, 128), tmp_path / "out", runtime="openvino", precision=precision)
    texts = sentences(stsb / "test.csv")
    texts += [" ".join(texts[place : place + 20]) for place in range(0, len(texts), 20)]  # in streams for long texts
    with Encoder(minilm_bundle, 3, 128, runtime=runtime, precision=precision) as encoder:
        assert cosine(vectors_of(exported, texts, 128), encoder.encode(texts)).min() >= bound


@pytest.mark.parametrize("runtime", GRAPH_RUNTIMES)
def test_the_readme_has_four_commands_and_no_empty_place(bundle: Bundle, tmp_path: Path, runtime: str) -> None:
    exported = write_project(bundle, CELL, tmp_path / "out", runtime=runtime)
    page = (exported / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"\$\$|\$[a-z]", page)
    assert len(commands_of(page)) == 4


def commands_of(page: str) -> list[str]:
    return str(re.findall(r"```bash\n(.*?)```", page, re.DOTALL)[0]).splitlines()


@pytest.mark.slow
def test_the_commands_of_the_readme_print_a_vector(
    cmake_option: str, exported: Path, bundle: Bundle, tmp_path: Path
) -> None:
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


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, r"vocabulary\.bin cannot be read"),
    "no vocabulary": (lambda model: (model / "vocabulary.bin").unlink(), r"vocabulary\.bin cannot be read"),
    "a changed vocabulary": (lambda model: alter(model / "vocabulary.bin"), r"vocabulary\.bin was changed"),
    "a short vocabulary": (lambda model: os.truncate(model / "vocabulary.bin", 1000), r"vocabulary\.bin was changed"),
    "a stump": (lambda model: os.truncate(model / "vocabulary.bin", 8), "is not a vocabulary"),
    "an empty vocabulary": (lambda model: (model / "vocabulary.bin").write_bytes(b""), "is not a vocabulary"),
    "a text": (lambda model: (model / "vocabulary.bin").write_text("[PAD]\n" * 9), "is not a vocabulary"),
    "no graph": (lambda model: (model / "model.onnx").unlink(), r"model\.onnx is missing"),
    "not a graph": (lambda model: (model / "model.onnx").write_bytes(b"no graph"), r"cannot read .*model\.onnx"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_error_names_the_damaged_file(programs: Path, exported: Path, tmp_path: Path, damage: str) -> None:
    model = Path(shutil.copytree(exported / "model", tmp_path / "model"))
    make, error = DAMAGES[damage]
    make(model)
    assert re.search(error, error_of(programs, model))


def error_of(programs: Path, model: Path) -> str:
    """What the example prints for a model that it cannot load."""
    done = subprocess.run([programs / "exported" / "example", model, "a cat"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


def test_a_graph_with_another_dim_is_refused(programs: Path, exported: Path, bundle: Bundle, tmp_path: Path) -> None:
    other = write_project(bundle, Cell(CELL.layer, 16), tmp_path / "other", runtime="openvino")
    shutil.copy(exported / "model" / "model.onnx", other / "model" / "model.onnx")
    assert re.search(r"model\.onnx and vocabulary\.bin .* 16 numbers", error_of(programs, other / "model"))


def test_a_graph_with_other_inputs_is_refused(programs: Path, exported: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(exported / "model", tmp_path / "model"))
    graph = onnx.load(model / "model.onnx")
    for node in graph.graph.node:
        node.input[:] = ["ids" if name == "input_ids" else name for name in node.input]
    next(value for value in graph.graph.input if value.name == "input_ids").name = "ids"
    onnx.save(graph, model / "model.onnx")
    assert re.search(r"model\.onnx and vocabulary\.bin", error_of(programs, model))


def test_a_project_appears_whole_or_not_at_all(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ParityError("not the same vectors")

    monkeypatch.setattr("m2d_export.deploy.cpp.project.write_deployed", refuse)
    with pytest.raises(ParityError):
        write_project(bundle, CELL, tmp_path / "out", runtime="openvino")
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match="there"):
        write_project(bundle, CELL, tmp_path / "there", runtime="openvino")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


@pytest.mark.parametrize(
    ("cell", "options", "named"),
    [
        (Cell(9, 32), {}, "layer 9"),
        (Cell(3, 65), {}, "65"),
        (CELL, {"precision": "int8"}, "int8"),
        (CELL, {"runtime": "pytorch"}, "pytorch"),
    ],
)
def test_a_wrong_cell_precision_or_runtime_is_refused(
    bundle: Bundle, tmp_path: Path, cell: Cell, options: dict[str, str], named: str
) -> None:
    with pytest.raises(SpecError, match=named):
        write_project(bundle, cell, tmp_path / "out", **({"runtime": "openvino"} | options))
    assert list(tmp_path.iterdir()) == []


def test_the_header_has_the_settings_of_python() -> None:
    text = header("onnxrt")
    for key, value in SETTINGS.items():
        assert f'{{"{key}", "{value}"}}' in text
    assert f"cpu_token_budget = {TOKEN_BUDGET}, cpu_min_fill = {round(100 * MIN_FILL)};" in text


def test_the_header_includes_every_file_once(exported: Path) -> None:
    text = (exported / "m2d_encoder.hpp").read_text(encoding="utf-8")
    includes = re.findall(r"^#include (.*)$", text, re.MULTILINE)
    assert includes == sorted(set(includes))
    assert all(include.startswith("<") for include in includes)
    assert text.count("#pragma once") == 1
    assert "$" not in text
    assert {path.name for path in exported.iterdir()} == {
        *("m2d_encoder.hpp", "example.cpp", "CMakeLists.txt", "README.md", "model")
    }
