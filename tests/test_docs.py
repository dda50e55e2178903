"""What is shown to users is true: the pages are up to date, their links lead somewhere, their examples run."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from m2d_export import Bundle
from m2d_export.cli import cli
from tests.conftest import save_checkpoint

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
COMMANDS = sorted(cli.commands)
FROM_CHECKPOINT = ("build", "slice")


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of a page as its reader would, with the programs of this environment."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    shell = ["bash", "-euo", "pipefail", "-c", command]
    return subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True)


def furnish(folder: Path) -> Path:
    """Put the texts and pairs that the examples name into a folder."""
    texts = ["A parrot is talking.", *(f"{count} cats sat on the mat." for count in range(24))]  # agreement asks for 20
    (folder / "texts.txt").write_text("\n".join(texts) + "\n")
    (folder / "pairs.csv").write_text("left,right,grade\na cat,a dog,3\na cat,the cat,4.5\nno,interest rates rose,0\n")
    return folder


@pytest.fixture(scope="module")
def with_bundle(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples that use a bundle start from, and what bench has measured of it."""
    folder = furnish(tmp_path_factory.mktemp("with-bundle"))
    shutil.copytree(bundle.root, folder / "minilm.m2d")
    done = run("m2d-export bench minilm.m2d --sts toy --dims 64,32 --batch-size 1 --tokens 16", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def with_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples that use a checkpoint start from. Two poolings make it 128 wide, as they assume."""
    folder = furnish(tmp_path_factory.mktemp("with-checkpoint"))
    save_checkpoint(folder / "minilm", pooling=("mean", "max"))
    shutil.rmtree(folder / "minilm-plain")
    return folder


def help_of(name: str) -> str:
    """What ``m2d-export NAME --help`` prints on a wide terminal."""
    parent = click.Context(cli, info_name="m2d-export", **cli.context_settings)
    return cli.commands[name].get_help(click.Context(cli.commands[name], info_name=name, parent=parent))


def examples_of(name: str) -> list[str]:
    """The lines below "Examples:" in the help of a command."""
    return [line.strip() for line in help_of(name).partition("\n  Examples:\n")[2].splitlines()]


def name_of(line: str) -> str:
    """The command that an example runs."""
    return line.partition("m2d-export ")[2].split()[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_examples_and_options_that_are_explained(name: str) -> None:
    assert cli.commands[name].get_short_help_str()
    assert examples_of(name)
    assert all(f"m2d-export {name} " in line for line in examples_of(name))
    for parameter in cli.commands[name].params:
        assert isinstance(parameter, click.Argument) or getattr(parameter, "help", None), parameter.name


def run_example(line: str, source: Path, folder: Path) -> None:
    """Run an example in a copy of ``source``, and check that it does what it says without a complaint."""
    if "--engine trt-rtx" in line:
        pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed (extra: trt-rtx)")
    shutil.copytree(source, folder)
    output = re.search(r" -o (\S+)", line)
    if output and "--force" not in line:  # what an example writes is not there yet
        shutil.rmtree(folder / output[1], ignore_errors=True)
    before = set(folder.rglob("*"))
    done = run(line, folder)
    assert done.returncode == 0, done.stderr
    # What there is to doubt about a choice is said beside it, and what int8 is worth on this processor.
    said = [said for said in done.stderr.splitlines() if not said.startswith("note: this processor")]
    assert [words for words in said if name_of(line) != "select" or "warning: " not in words] == []
    assert done.stdout
    if "--dry-run" in line:
        assert set(folder.rglob("*")) == before
    elif output:
        assert (folder / output[1]).exists()


@pytest.mark.parametrize(
    "line", [line for name in COMMANDS if name not in FROM_CHECKPOINT for line in examples_of(name)]
)
def test_every_example_that_uses_a_bundle_runs(line: str, with_bundle: Path, tmp_path: Path) -> None:
    run_example(line, with_bundle, tmp_path / "folder")


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for name in FROM_CHECKPOINT for line in examples_of(name)])
def test_every_example_that_uses_a_checkpoint_runs(line: str, with_checkpoint: Path, tmp_path: Path) -> None:
    run_example(line, with_checkpoint, tmp_path / "folder")


@pytest.mark.parametrize("columns", ["40", "100", "200"])
def test_the_page_of_the_command_line_is_what_the_commands_say(columns: str) -> None:
    command = [sys.executable, str(ROOT / "docs" / "generate_cli.py"), "--check"]
    environment = os.environ | {"COLUMNS": columns, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stale_page_of_the_command_line_is_noticed_and_left_alone(tmp_path: Path) -> None:
    generator = shutil.copy(ROOT / "docs" / "generate_cli.py", tmp_path)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def generate(*options: str) -> int:
        command = [sys.executable, generator, *options]
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode

    assert generate("--check") == 1
    assert not (tmp_path / "cli.md").exists()
    assert generate() == 0
    assert generate("--check") == 0
    (tmp_path / "cli.md").write_text("old")
    assert generate("--check") == 1
    assert (tmp_path / "cli.md").read_text() == "old"
    assert generate("--chekc") == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_section_in_the_page(name: str) -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## m2d-export {name}\n")[2].partition("\n## ")[0]
    assert section.strip().startswith(f"```text\nUsage: m2d-export {name} [OPTIONS]")
    assert all(line in section for line in examples_of(name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(<?([^)\s>]+)", text)
    local = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_every_make_target_that_a_page_names_exists() -> None:
    named = {target for page in PAGES for target in re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.MULTILINE)}
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named
    assert named <= targets


@dataclass(frozen=True)
class Block:
    """A fenced block of a page that is to be run."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """The bash and Python blocks of a page, less those below a comment ``<!-- not run: REASON -->``."""
    text = page.read_text(encoding="utf-8")
    pattern = r"(?P<excused><!-- not run: [^>]+ -->\n)?^```(?P<language>bash|python)\n(?P<text>.*?)^```$"
    for found in re.finditer(pattern, text, re.DOTALL | re.MULTILINE):
        if not found["excused"]:
            yield Block(found["language"], found["text"], text[: found.start()].count("\n") + 1)


def commands(block: Block) -> list[str]:
    """The commands of a bash block, continued lines joined."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def test_every_command_of_the_readme_is_one_that_can_be_run_here_or_is_excused() -> None:
    found = [line for block in blocks(README) if block.language == "bash" for line in commands(block)]
    assert found
    known = re.compile(r"(^|.*\| *)(m2d-export|python -m|make) ")
    assert [line for line in found if not known.match(line)] == []


@pytest.mark.slow
def test_the_readme_runs_from_top_to_bottom(with_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(with_checkpoint, tmp_path / "folder"))
    for block in blocks(README):
        if block.language == "python":
            (folder / "block.py").write_text(block.text)
            steps = ["python block.py"]
        else:
            # Targets are looked up, not made: one of them runs these tests.
            steps = [re.sub(r"^make ", f"make -C {ROOT} --dry-run ", line) for line in commands(block)]
        for step in steps:
            done = run(step, folder)
            assert done.returncode == 0, f"README.md, block at line {block.line}: {step}\n{done.stderr}"


@pytest.mark.parametrize("script", sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py")))
def test_every_benchmark_can_be_imported(script: str) -> None:
    importlib.import_module(f"benchmarks.{script}")  # or it would be found out when its results are wanted
