"""Write a cell as a CMake project: a folder with a header, an example, the model and the vocabulary."""

from functools import partial
from pathlib import Path

from m2d_export import __version__
from m2d_export.bundle.disk import Bundle
from m2d_export.deploy.cpp import FLAVOURS, Flavour
from m2d_export.deploy.cpp.vocabulary import vocabulary_file
from m2d_export.deploy.graph import write_deployed
from m2d_export.engines.library import check_flags
from m2d_export.errors import SpecError
from m2d_export.host import templates
from m2d_export.host.files import followed
from m2d_export.host.folders import new_folder
from m2d_export.runtimes.onnxrt import SETTINGS
from m2d_export.spec import Cell, Engine, Precision
from m2d_export.text.batches import MIN_FILL, TOKEN_BUDGET

HEADER_PARTS = ("tokenizer.hpp", "batches.hpp", "model_file.hpp", "{flavour}.hpp", "encoder.hpp")
ABOUT = """\
// A sentence encoder: it turns texts into vectors. m2d-export {version} wrote this file. README.md says how to use it.
//
// This header has a tokenizer, batches, a runtime and an encoder. Everything about one model is in the folder model/.
"""
template = partial(templates.template, "m2d_export.deploy.cpp")


def write_project(
    bundle: Bundle, cell: Cell, target: str | Path, *, runtime: str, precision: str = Precision.FP32
) -> Path:
    """Write the CMake project of ``cell`` for ``runtime``, and return its folder.

    A graph is compared with the bundle's graph before it is published. An engine is a copy of the bundle's file.
    Raises SpecError if the engine is missing, or if C++ does not support the tokenizer. Raises OutputError if
    ``target`` exists. Also raises IntegrityError, ParityError and RuntimeUnavailable.
    """
    if runtime not in FLAVOURS:
        raise SpecError(f"there is no C++ for the runtime {runtime!r}: choose one of {', '.join(FLAVOURS)}")
    flavour, path = FLAVOURS[runtime], followed(target)
    with new_folder(path) as staging:
        cell = Cell(bundle.grid.check_layer(cell.layer), bundle.grid.check_dim(cell.dim))
        bundle.entry(cell.layer, precision)
        engine = _engine(bundle, cell, precision, runtime) if flavour.runs_engine else None
        model = staging / "model"
        model.mkdir()
        (model / "vocabulary.bin").write_bytes(_vocabulary(bundle, cell))
        if engine is None:
            write_deployed(bundle, cell, model / "model.onnx", precision, runtime=runtime)
        else:
            (model / "model.plan").write_bytes(bundle.read(engine.path.relative_to(bundle.root).as_posix()))
        build = template(f"{flavour.templates}.cmake", title=flavour.title, **flavour.places)
        pages = {
            "m2d_encoder.hpp": header(runtime),
            "example.cpp": template("example.cpp"),
            "CMakeLists.txt": template("CMakeLists.txt", runtime=build.strip()),
            "README.md": _readme(bundle, cell, flavour, precision, engine),
        }
        for name, content in pages.items():
            (staging / name).write_text(content, encoding="utf-8")
    return path


def _engine(bundle: Bundle, cell: Cell, precision: str, kind: str) -> Engine:
    """Find the bundle's engine of ``kind``. The file of the engine is not read here.

    Raises SpecError if there is no engine, or if the engine does not accept every text that the checkpoint reads.
    Raises RuntimeUnavailable if the engine was built with settings that this version does not use.
    """
    longest = bundle.manifest.text.max_tokens
    engine = bundle.variant(cell.layer, precision).engine(kind)
    path = engine.path.relative_to(bundle.root).as_posix()
    if max(shapes.max[1] for shapes in engine.key.shapes) < longest:
        raise SpecError(
            f"the checkpoint reads texts of {longest} tokens, but {path} does not: build it with --shapes that end at "
            f"{longest} tokens"
        )
    if any(shapes.min[0] > 1 for shapes in engine.key.shapes):
        raise SpecError(f"{path} does not accept a single text: build it with --shapes that begin at 1x")
    check_flags(engine)
    return engine


def _vocabulary(bundle: Bundle, cell: Cell) -> bytes:
    text = bundle.manifest.text
    (empty,) = bundle.tokenizer.encode([""], text.prompt())
    return vocabulary_file(bundle.tokenizer_json, text, cell.dim, empty.prompt_length, bundle.manifest.normalize)


def header(runtime: str) -> str:
    """Return all parts of the header as one file. The standard headers are included once, at its top."""
    values = {
        "token_budget": TOKEN_BUDGET,
        "min_fill": round(100 * MIN_FILL),
        "session_settings": ",\n      ".join(f'{{"{key}", "{value}"}}' for key, value in SETTINGS.items()),
    }
    includes: set[str] = set()
    bodies = []
    for part in HEADER_PARTS:
        lines = template(part.format(flavour=FLAVOURS[runtime].templates), **values).splitlines()
        includes |= {line for line in lines if line.startswith("#include <")}
        bodies.append("\n".join(line for line in lines if not line.startswith(("#include", "#pragma once"))).strip())
    top = ABOUT.format(version=__version__) + "#pragma once\n\n" + "\n".join(sorted(includes))
    return "\n\n".join([top, *bodies]) + "\n"


def _readme(bundle: Bundle, cell: Cell, flavour: Flavour, precision: str, engine: Engine | None) -> str:
    text, prompt = bundle.manifest.text, bundle.manifest.text.prompt()
    places = {"title": flavour.title, **flavour.places, **({} if engine is None else _facts(engine))}
    if engine is None:
        file, inside, notes = "model.onnx", f"pooling, the cut to {cell.dim} numbers and scaling", ""
        where = '`m2d::Encoder encoder("model", 4)` runs on 4 threads. Without the number, it runs on every core.'
    else:
        file, inside = "model.plan", f"pooling; the header cuts vectors to {cell.dim} numbers and scales them"
        where = '`m2d::Encoder encoder("model", 1)` runs on the second GPU. Without the number, it uses the first.'
        where += " Threads take turns."
        notes = "\n\n" + template(f"{flavour.templates}_notes.md", **places).strip()
    return template(
        "README.md",
        title=flavour.title,
        build=template(f"{flavour.templates}.md", **places).strip(),
        notes=notes,
        file=file,
        inside=inside,
        where=where,
        cell=cell,
        layer=cell.layer,
        dim=cell.dim,
        precision=precision,
        length="have unit length" if bundle.manifest.normalize else "are not scaled, as in the checkpoint",
        max_tokens=text.max_tokens,
        prompt=f" The checkpoint's default prompt, {templates.markdown_text(repr(prompt))}, is put before every text."
        if prompt
        else "",
        version=__version__,
        bundle=bundle.id[:12],
    )


def _facts(engine: Engine) -> dict[str, str]:
    key = engine.key
    cards = f"compute capability {', '.join(key.targets)}" if key.targets else "any GPU that its library supports"
    return {
        "built": templates.markdown_text(key.version),
        "gpu": templates.markdown_text(key.gpu or cards),
        "shapes": ", ".join(f"{shapes.max[0]} texts of up to {shapes.max[1]} tokens" for shapes in key.shapes),
        "sha256": engine.sha256,
    }
