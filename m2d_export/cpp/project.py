"""A cell of a bundle as a folder that CMake builds: one header, one example, the graph, the vocabulary."""

from importlib import resources
from pathlib import Path

from m2d_export import __version__
from m2d_export.bundle import TOKENIZER, Bundle
from m2d_export.cpp import RUNTIMES
from m2d_export.cpp.vocabulary import vocabulary_file
from m2d_export.deployed import write_deployed
from m2d_export.errors import OutputError, SpecError
from m2d_export.files import publish, remove_stale, staged_directory, writing
from m2d_export.spec import Cell, Precision

HEADER_PARTS = ("tokenizer.hpp", "batches.hpp", "{runtime}.hpp", "encoder.hpp")
ABOUT = """\
// A sentence encoder: texts in, vectors out. Written by m2d-export {version}; README.md beside it says how to use it.
//
// Tokenizer, batches, runtime, encoder: nothing here is about one model, which lies in model.onnx and vocabulary.bin.
"""


def write_project(
    bundle: Bundle, cell: Cell, target: str | Path, *, runtime: str, precision: str = Precision.FP32
) -> Path:
    """Write the CMake project of ``cell`` for ``runtime`` to ``target``, which appears whole or not at all.

    The graph is compared with ``Encoder`` before. Raises SpecError, naming what of a tokenizer C++ does not have,
    IntegrityError, ParityError, RuntimeUnavailable, OutputError if ``target`` exists.
    """
    path = Path(target).expanduser().absolute()
    if path.exists() or path.is_symlink():
        raise OutputError(f"{path} exists: choose another path, or remove it yourself")
    if runtime not in RUNTIMES:
        raise SpecError(f"no C++ for the runtime {runtime!r}: there is {', '.join(RUNTIMES)}")
    cell = Cell(bundle.grid.check_layer(cell.layer), bundle.grid.check_dim(cell.dim))
    bundle.entry(cell.layer, precision)
    text = bundle.manifest.text
    (empty,) = bundle.tokenizer.encode([""], text.prompt())
    tokenizer_json = bundle.checked(TOKENIZER).read_text(encoding="utf-8")
    vocabulary = vocabulary_file(tokenizer_json, text, cell.dim, empty.prompt_length)

    remove_stale(path)
    with staged_directory(path) as staging, writing(path):
        (staging / "m2d_encoder.hpp").write_text(header(runtime), encoding="utf-8")
        (staging / "example.cpp").write_text(_template("example.cpp"), encoding="utf-8")
        (staging / "CMakeLists.txt").write_text(_template(f"{runtime}.CMakeLists.txt"), encoding="utf-8")
        (staging / "README.md").write_text(_readme(bundle, cell, runtime, precision), encoding="utf-8")
        model = staging / "model"
        model.mkdir()
        (model / "vocabulary.bin").write_bytes(vocabulary)
        write_deployed(bundle, cell, model / "model.onnx", precision)
        publish(staging, path, replace=False)
    return path


def header(runtime: str) -> str:
    """The parts of the header in one file: what they include at its top, once."""
    includes: set[str] = set()
    bodies = []
    for part in HEADER_PARTS:
        lines = _template(part.format(runtime=runtime)).splitlines()
        includes |= {line for line in lines if line.startswith("#include <")}
        bodies.append("\n".join(line for line in lines if not line.startswith(("#include", "#pragma once"))).strip())
    top = ABOUT.format(version=__version__) + "#pragma once\n\n" + "\n".join(sorted(includes))
    return "\n\n".join([top, *bodies]) + "\n"


def _template(name: str) -> str:
    return (resources.files("m2d_export.cpp") / "templates" / name).read_text(encoding="utf-8")


def _readme(bundle: Bundle, cell: Cell, runtime: str, precision: str) -> str:
    text, prompt = bundle.manifest.text, bundle.manifest.text.prompt()
    values = {
        "shared": _template("shared.md").strip(),
        "cell": str(cell),
        "layer": str(cell.layer),
        "dim": str(cell.dim),
        "precision": precision,
        "length": "have unit length"
        if bundle.manifest.normalize
        else "are not normalised, as the checkpoint leaves them",
        "max_tokens": str(text.max_tokens),
        "prompt": f" The checkpoint's default prompt, {prompt!r}, is put before every text." if prompt else "",
        "version": __version__,
        "bundle": bundle.id[:12],
    }
    page = _template(f"{runtime}.README.md")
    for name, value in values.items():
        page = page.replace(f"@{name}@", value)
    return page
