"""A cell of a bundle as a folder that CMake builds: one header, one example, the model, the vocabulary."""

import shutil
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from m2d_export import __version__
from m2d_export.bundle.disk import Bundle
from m2d_export.bundle.manifest import TOKENIZER
from m2d_export.deploy.cpp import ENGINES, RUNTIMES
from m2d_export.deploy.cpp.vocabulary import vocabulary_file
from m2d_export.deploy.graph import write_deployed
from m2d_export.engines.load import check_flags
from m2d_export.errors import SpecError
from m2d_export.host.files import new_folder
from m2d_export.precisions import TYPED
from m2d_export.spec import Cell, Engine, Precision

TENSORRT = {  # what CMakeLists.txt and README.md of both are filled with
    "tensorrt": {"library": "nvinfer", "name": "TensorRT", "archive": "TensorRT-[0-9]*.tar.*"},
    "tensorrt-rtx": {"library": "tensorrt_rtx", "name": "TensorRT for RTX", "archive": "TensorRT-RTX-*.tar.*"},
}
OF_GRAPH = {  # what README.md says of a model that is a graph, on processors
    "file": "model.onnx",
    "inside": "pooling, the cut to @dim@ numbers and scaling inside",
    "where": "runs on 4 threads, otherwise on every core",
    "number": "4",
}
OF_PLAN = {  # and of one that is an engine, on a GPU
    "file": "model.plan",
    "inside": "pooling inside; the cut to @dim@ numbers and scaling are the header's",
    "where": "runs on the second GPU, without a number on the first; threads take turns",
    "number": "1",
}
HEADER_PARTS = ("tokenizer.hpp", "batches.hpp", "model_file.hpp", "{flavour}.hpp", "encoder.hpp")
ABOUT = """\
// A sentence encoder: texts in, vectors out. Written by m2d-export {version}; README.md beside it says how to use it.
//
// Tokenizer, batches, runtime, encoder: nothing here is about one model, which lies in the folder model/.
"""


def write_project(
    bundle: Bundle, cell: Cell, target: str | Path, *, runtime: str, precision: str = Precision.FP32
) -> Path:
    """Write the CMake project of ``cell`` for ``runtime`` to ``target``, which appears whole or not at all.

    A graph is compared with ``Encoder`` before; an engine is the bundle's own. Raises SpecError, naming what of a
    tokenizer C++ does not have, or what the engine lacks, IntegrityError, ParityError, RuntimeUnavailable, OutputError
    if ``target`` exists.
    """
    path = Path(target).expanduser().absolute()
    if runtime not in RUNTIMES:
        raise SpecError(f"no C++ for the runtime {runtime!r}: there is {', '.join(RUNTIMES)}")
    with new_folder(path) as staging:
        cell = Cell(bundle.grid.check_layer(cell.layer), bundle.grid.check_dim(cell.dim))
        bundle.entry(cell.layer, precision)
        engine = _engine(bundle, cell, precision, ENGINES[runtime]) if runtime in ENGINES else None
        text = bundle.manifest.text
        (empty,) = bundle.tokenizer.encode([""], text.prompt())
        tokenizer_json = bundle.checked(TOKENIZER).read_text(encoding="utf-8")
        vocabulary = vocabulary_file(tokenizer_json, text, cell.dim, empty.prompt_length, bundle.manifest.normalize)
        (staging / "m2d_encoder.hpp").write_text(header(runtime), encoding="utf-8")
        (staging / "example.cpp").write_text(_template("example.cpp"), encoding="utf-8")
        (staging / "CMakeLists.txt").write_text(_cmake(runtime), encoding="utf-8")
        (staging / "README.md").write_text(_readme(bundle, cell, runtime, precision, engine), encoding="utf-8")
        model = staging / "model"
        model.mkdir()
        (model / "vocabulary.bin").write_bytes(vocabulary)
        if engine is None:
            write_deployed(bundle, cell, model / "model.onnx", precision)
        else:
            shutil.copyfile(engine.path, model / "model.plan")
    return path


def _engine(bundle: Bundle, cell: Cell, precision: str, kind: str) -> Engine:
    """The bundle's engine of a kind, its file checked; SpecError where there is none, or not for all texts.

    Raises RuntimeUnavailable where another version of this package built it otherwise.
    """
    most_tokens = bundle.manifest.text.max_tokens
    for entry in bundle.manifest.engines:
        if (entry.layer, entry.precision, entry.key.kind) != (cell.layer, precision, kind):
            continue
        if max(shapes.max[1] for shapes in entry.key.shapes) < most_tokens:
            raise SpecError(f"{entry.path} is not for texts of {most_tokens} tokens: build it with --shapes that are")
        if any(shapes.min[0] > 1 for shapes in entry.key.shapes):
            raise SpecError(f"{entry.path} is not for a single text: build it with --shapes that begin at 1x")
        bundle.checked(entry.path)
        found = next(engine for engine in bundle.variant(cell.layer, precision).engines if engine.key == entry.key)
        check_flags(found)
        return found
    raise SpecError(
        f"{bundle.root} has no {kind} engine of layer {cell.layer} in {precision}: engines are built of "
        f"{', '.join(TYPED)} graphs, with m2d-export build --engine {kind}"
    )


def header(runtime: str) -> str:
    """The parts of the header in one file: what they include at its top, once."""
    includes: set[str] = set()
    bodies = []
    for part in HEADER_PARTS:
        lines = _template(part.format(flavour=_flavour(runtime))).splitlines()
        includes |= {line for line in lines if line.startswith("#include <")}
        bodies.append("\n".join(line for line in lines if not line.startswith(("#include", "#pragma once"))).strip())
    top = ABOUT.format(version=__version__) + "#pragma once\n\n" + "\n".join(sorted(includes))
    return "\n\n".join([top, *bodies]) + "\n"


def _flavour(runtime: str) -> str:
    """What the templates of a runtime are called: TensorRT and TensorRT for RTX have the same."""
    return "tensorrt" if runtime in ENGINES else runtime


def _template(name: str) -> str:
    return (resources.files("m2d_export.deploy.cpp") / "templates" / name).read_text(encoding="utf-8")


def _filled(page: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        page = page.replace(f"@{name}@", value)
    return page


def _cmake(runtime: str) -> str:
    page = _template(f"{_flavour(runtime)}.CMakeLists.txt")
    return _filled(page, TENSORRT[runtime]) if runtime in ENGINES else page


def _readme(bundle: Bundle, cell: Cell, runtime: str, precision: str, engine: Engine | None) -> str:
    text, prompt = bundle.manifest.text, bundle.manifest.text.prompt()
    values = {
        "shared": _template("shared.md").strip(),
        "cell": str(cell),
        "layer": str(cell.layer),
        "precision": precision,
        "length": "have unit length"
        if bundle.manifest.normalize
        else "are not normalised, as the checkpoint leaves them",
        "max_tokens": str(text.max_tokens),
        "prompt": f" The checkpoint's default prompt, {prompt!r}, is put before every text." if prompt else "",
        "version": __version__,
        "bundle": bundle.id[:12],
    }
    own = OF_GRAPH if engine is None else OF_PLAN | TENSORRT[runtime] | _built_for(engine)
    return _filled(_template(f"{_flavour(runtime)}.README.md"), values | own | {"dim": str(cell.dim)})


def _built_for(engine: Engine) -> dict[str, str]:
    """What an engine hangs on, in words."""
    key = engine.key
    cards = f"compute capability {', '.join(key.targets)}" if key.targets else "any GPU that its library supports"
    return {
        "built": key.version,
        "gpu": key.gpu or cards,
        "shapes": ", ".join(f"{shapes.max[0]} of up to {shapes.max[1]} tokens" for shapes in key.shapes),
        "sha256": engine.sha256,
    }
