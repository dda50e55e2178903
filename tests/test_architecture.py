"""The shape of the package: who imports whom, what importing it costs, how long its modules are."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from m2d_export import Bundle

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "m2d_export"
MODULES = sorted(PACKAGE.rglob("*.py"))
TRAINING = ROOT / "train"
ENTRANCES = ("__init__.py", "__main__.py")  # they lead to everything, and nothing imports them
ROOMS = (
    *(
        "errors",
        "spec",
        "precisions",
        "vectors",
        "host",
        "agreement",
        "text",
        "checkpoints",
        "graphs",
        "engines",
        "runtimes",
    ),
    *("bundle", "gate", "plan", "graph_files", "pipeline", "encoder", "bench", "select", "report", "deploy", "cli"),
)
TRAINING_ORDER = (
    *("wordnet", "losses", "recipes", "data", "model", "evaluate", "log", "job", "work", "screen", "picture"),
    *("distil.card", "card", "publish", "energy", "stop", "memory", "device", "arithmetic"),
    *("distil.settings", "distil.texts", "distil.mix", "distil.corpus", "distil.ridge", "distil.loss"),
    *("distil.features", "distil.judge", "distil.heads", "distil.rotation", "distil.table", "distil.solve"),
    *("distil.order", "distil.average", "distil.steps", "distil.choose", "distil.job", "distil.facts"),
    *("distil.publish", "distil.pipeline", "loop", "grid", "seed", "multitask", "pipeline", "__main__"),
)
HEAVY = {
    *("torch", "transformers", "sentence_transformers", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "scipy"),
    *("openvino", "tensorrt", "tensorrt_rtx_bindings"),
    *("matplotlib", "plotly"),
}


def name_of(module: Path) -> str:
    """The part of the package a module belongs to: its own name, or that of its folder."""
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(module: Path) -> Iterator[str]:
    """Every dotted name that a module imports, at its top or anywhere below, for types alone too.

    Training, which has two names (train in a clone, m2d_train in the wheel), imports its own modules relatively.
    """
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            place = _place(module, node.level) if node.level else []
            yield from (".".join([*place, *filter(None, [node.module]), alias.name]) for alias in node.names)


def _place(module: Path, level: int) -> list[str]:
    """The package that an import of ``level`` dots starts from; only training has such imports."""
    assert TRAINING in module.parents, f"{module}: only training imports relatively"
    return list(module.relative_to(ROOT).parts[:-level])


def own_imports(module: Path, package: Path = PACKAGE) -> set[str]:
    """The parts of ``package`` that a module imports."""
    parts = [name.split(".") for name in imported(module)]
    return {names[1] for names in parts if names[0] == package.name and len(names) > 1 and names[1] != "__version__"}


@pytest.mark.parametrize(
    "module",
    [module for module in MODULES if module.parent != PACKAGE or module.name not in ENTRANCES],
    ids=lambda module: str(module.relative_to(PACKAGE)),
)
def test_a_module_imports_only_from_its_own_room_and_rooms_above_it(module: Path) -> None:
    own = name_of(module)
    assert own in ROOMS, "a new room takes its place in ROOMS and in docs/design.md"
    allowed = set(ROOMS[: ROOMS.index(own)]) | ({own} if module.parent != PACKAGE else set())
    assert own_imports(module) <= allowed


def test_the_rooms_are_those_that_the_design_lists() -> None:
    rooms = {name_of(module) for module in MODULES if module.parent != PACKAGE or module.name not in ENTRANCES}
    assert rooms == set(ROOMS)
    assert " < ".join(ROOMS) in (ROOT / "docs" / "design.md").read_text(encoding="utf-8")


FOLDERS = sorted({module.parent for module in MODULES if module.parent.name != "templates"})


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_room_says_what_it_is_for(folder: Path) -> None:
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))


def test_only_the_command_line_knows_click() -> None:
    knowing = {name_of(module) for module in MODULES if any(n.split(".")[0] == "click" for n in imported(module))}
    assert knowing == {"cli"}


def test_the_package_imports_neither_training_nor_tests_nor_benchmarks() -> None:
    outside = {"train", "m2d_train", "tests", "benchmarks"}
    assert not [module for module in MODULES if outside & {name.split(".")[0] for name in imported(module)}]


def test_only_one_command_names_training_and_imports_it_when_it_runs() -> None:
    naming = {str(module.relative_to(PACKAGE)) for module in MODULES if "m2d_train" in module.read_text("utf-8")}
    assert naming == {"cli/distil.py"}
    assert "m2d_train" not in loaded_by("import m2d_export.cli")


def test_a_module_of_training_imports_only_modules_before_it_and_stays_small() -> None:
    modules = {
        ".".join(module.relative_to(TRAINING).with_suffix("").parts): module
        for module in TRAINING.rglob("*.py")
        if module.name != "__init__.py"
    }
    assert set(modules) == set(TRAINING_ORDER)
    for place, name in enumerate(TRAINING_ORDER):
        found = {own.removeprefix(f"{TRAINING.name}.") for own in imported(modules[name]) if own.startswith("train.")}
        before = tuple(f"{earlier}." for earlier in TRAINING_ORDER[:place])
        assert not [own for own in found if not own.startswith(before)], name
        assert len(modules[name].read_text(encoding="utf-8").splitlines()) <= 250, name


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_no_module_is_over_400_lines(module: Path) -> None:
    assert len(module.read_text(encoding="utf-8").splitlines()) <= 400


def loaded_by(code: str, *arguments: str) -> set[str]:
    """The packages that a fresh interpreter has loaded after ``code``."""
    code += (
        "; import sys; sys.stderr.write('loaded:' + ' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stderr.rpartition("loaded:")[2].split())


@pytest.mark.parametrize("module", ["m2d_export", "m2d_export.cli", "m2d_export.spec", "m2d_export.pipeline"])
def test_importing_the_package_loads_nothing_heavy(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert "m2d_export" in loaded
    assert not loaded & HEAVY


def test_importing_the_command_line_of_training_loads_nothing_heavy() -> None:
    assert not loaded_by("import train.__main__") & HEAVY


def test_touching_every_public_name_loads_no_runtime() -> None:
    assert not loaded_by("from m2d_export import *; from m2d_export import Bundle, Encoder") & HEAVY


RUN = "import sys; from m2d_export.cli import cli; cli.main(sys.argv[1:], standalone_mode=False)"


def test_encoding_needs_onnxruntime_and_no_torch(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a cat\na dog\n")
    output = tmp_path / "vectors.npy"
    loaded = loaded_by(RUN, "encode", str(bundle.root), str(tmp_path / "texts.txt"), "-o", str(output))
    assert output.stat().st_size > 0
    assert loaded & HEAVY == {"onnxruntime"}


def test_help_does_not_even_load_numpy() -> None:
    assert "numpy" not in loaded_by(RUN, "--help")


@pytest.mark.parametrize("command", ["show", "verify"])
def test_looking_at_a_bundle_loads_nothing_heavy(bundle: Bundle, command: str) -> None:
    assert not loaded_by(RUN, command, str(bundle.root)) & HEAVY
