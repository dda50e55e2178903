"""The pages and the help are true: they are up to date, their links lead to files, and their examples run."""

import gzip
import importlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
from m2d_train.distil import pipeline
from m2d_train.distil.corpus import Reading

from m2d_export import Bundle, Precision
from m2d_export.cli import cli
from m2d_export.runtimes.table import RUNTIMES
from tests.cli.commands import ROOT, Outcome, call, run_in, shorten_bench
from tests.support.checkpoints import save_checkpoint
from tests.support.distillations import write_texts
from tests.support.shared import Once

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
COMMANDS = sorted(cli.commands)
FROM_CHECKPOINT = ("build", "slice")
FROM_TEXTS = "distil"
BENCHMARKS = sorted(path.relative_to(ROOT) for path in (ROOT / "benchmarks").rglob("*.py") if path.stem[0] != "_")


def run(line: str, folder: Path) -> Outcome:
    """Run a line as a reader of the page would: a plain command in this process, any other line in a shell."""
    if line.startswith("m2d-export ") and not re.search(r"[|<>;&$]", line):
        with pytest.MonkeyPatch.context() as patched:
            shorten_bench(patched)
            return run_in(folder, lambda: call(*shlex.split(line, comments=True)[1:]))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    shell = ["bash", "-euo", "pipefail", "-c", line]
    done = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True)
    return Outcome(done.returncode, done.stdout, done.stderr)


def run_python(text: str, folder: Path) -> Outcome:
    """Run a Python block in this process, as a program of its own."""
    (folder / "block.py").write_text(text)

    def command() -> int:
        try:
            runpy.run_path("block.py", run_name="__main__")
        except Exception:
            traceback.print_exc()
            return 1
        return 0

    return run_in(folder, command)


def furnish(folder: Path) -> None:
    """Write the texts and pairs that the examples use into a folder."""
    texts = ["A parrot is talking.", *(f"{count} cats sat on the mat." for count in range(24))]  # agreement needs 20
    (folder / "texts.txt").write_text("\n".join(texts) + "\n")
    (folder / "other-texts.txt").write_text((folder / "texts.txt").read_text())
    (folder / "pairs.csv").write_text("left,right,grade\na cat,a dog,3\na cat,the cat,4.5\nno,interest rates rose,0\n")


@pytest.fixture(scope="module")
def with_bundle(once: Once, bundle: Bundle, checkpoint: Path) -> Path:
    """A folder with a bundle, its checkpoint, texts, pairs, and results of bench."""

    def make(folder: Path) -> None:
        furnish(folder)
        shutil.copytree(bundle.root, folder / "minilm.m2d")
        shutil.copytree(checkpoint, folder / "minilm")
        done = run("m2d-export bench minilm.m2d --sts toy --dims 64,32 --batch-size 1 --tokens 16", folder)
        assert done.code == 0, done.err

    return once("examples with a bundle", make)


@pytest.fixture(scope="module")
def with_checkpoint(once: Once) -> Path:
    """A folder with a checkpoint, texts and pairs. Two poolings give the checkpoint the 128 dims that examples use."""

    def make(folder: Path) -> None:
        furnish(folder)
        save_checkpoint(folder / "minilm", pooling=("mean", "max"))
        shutil.rmtree(folder / "minilm-plain")
        save_checkpoint(folder / "distilled", pooling=("mean", "max"), table=True)
        shutil.rmtree(folder / "distilled-plain")
        shutil.copytree(folder / "minilm", folder / "models" / "minilm-l6-2d")  # the README builds this one
        shutil.copytree(folder / "minilm", folder / "my-encoder")  # and distils this one
        write_texts(folder / "documents.txt", 250)

    return once("examples with a checkpoint", make)


def help_of(name: str) -> str:
    """The output of ``m2d-export NAME --help`` on a wide terminal."""
    parent = click.Context(cli, info_name="m2d-export", **cli.context_settings)
    return cli.commands[name].get_help(click.Context(cli.commands[name], info_name=name, parent=parent))


def examples_of(name: str) -> list[str]:
    """The lines below "Examples:" in the help of a command."""
    return [line.strip() for line in help_of(name).partition("\n  Examples:\n")[2].splitlines()]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_its_options_and_has_examples(name: str) -> None:
    assert cli.commands[name].get_short_help_str()
    assert examples_of(name)
    assert all(f"m2d-export {name} " in line for line in examples_of(name))
    for parameter in cli.commands[name].params:
        assert isinstance(parameter, click.Argument) or getattr(parameter, "help", None), parameter.name


def output_of(line: str) -> str | None:
    """The path after ``-o``."""
    found = re.search(r" -o (\S+)", line)
    return found[1] if found else None


def remove_output(line: str, folder: Path) -> None:
    """Remove what an example will write, unless the example replaces it."""
    if (output := output_of(line)) and "--force" not in line:
        shutil.rmtree(folder / output, ignore_errors=True)


def run_example(line: str, source: Path, folder: Path) -> None:
    """Run an example in a copy of ``source``; check its exit code, its output, and that it prints no complaint."""
    if "--engine trt-rtx" in line:
        pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed (extra: trt-rtx)")
    shutil.copytree(source, folder)
    remove_output(line, folder)
    before = set(folder.rglob("*"))
    done = run(line, folder)
    assert done.code == 0, done.err
    # A choice may come with warnings, and int8 with a note about this processor.
    expected = r"note: this processor|warning: " if " select " in line else r"note: this processor"
    assert [line for line in done.err.splitlines() if not re.match(expected, line)] == []
    output = output_of(line)
    assert done.out or output == "-"
    if "--dry-run" in line:
        assert set(folder.rglob("*")) == before
    elif output and output != "-":
        assert (folder / output).exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", [line for name in COMMANDS if name not in (*FROM_CHECKPOINT, FROM_TEXTS) for line in examples_of(name)]
)
def test_every_example_of_a_bundle_runs(line: str, with_bundle: Path, tmp_path: Path) -> None:
    run_example(line, with_bundle, tmp_path / "folder")


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for name in FROM_CHECKPOINT for line in examples_of(name)])
def test_every_example_of_a_checkpoint_runs(line: str, with_checkpoint: Path, tmp_path: Path) -> None:
    run_example(line, with_checkpoint, tmp_path / "folder")


@pytest.mark.slow
@pytest.mark.parametrize("line", examples_of(FROM_TEXTS))
def test_every_example_of_distil_runs(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("minilm", "german"):
        save_checkpoint(tmp_path / name, pooling=("mean", "max"))
    (tmp_path / "texts").mkdir()
    for name in ("documents.txt", "texte.txt", "texts/a.txt"):
        texts = write_texts(tmp_path / name, 250)
    (tmp_path / "queries.txt.gz").write_bytes(gzip.compress(texts.read_bytes()))
    (tmp_path / "documents.jsonl").write_text('{"text": "a parrot"}\n')
    monkeypatch.setattr(pipeline, "prepare", partial(prepared_for_seconds, pipeline.prepare))
    done = run(line.replace("384,128,64", "128,64"), tmp_path)
    assert done.code == 0, done.err
    assert "m2d-export build" in done.out


def prepared_for_seconds(
    prepare: Callable[..., Any], name: str, reading: Reading, *arguments: Any, **options: Any
) -> Any:
    """Prepare a distillation of few texts that takes seconds."""
    return prepare(name, replace(reading, max_texts=400), *arguments, **{**options, "minutes": 0.01})


def generate(generator: Path, *options: str, columns: str = "80") -> int:
    """The exit code of docs/generate_cli.py."""
    environment = os.environ | {"COLUMNS": columns, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, generator, *options], env=environment, stderr=subprocess.DEVNULL).returncode


@pytest.mark.parametrize("columns", ["40", "200"])
def test_the_command_line_page_is_up_to_date(columns: str) -> None:
    assert generate(ROOT / "docs" / "generate_cli.py", "--check", columns=columns) == 0, "run make docs"


def test_an_outdated_command_line_page_is_reported_and_not_changed(tmp_path: Path) -> None:
    generator = Path(shutil.copy(ROOT / "docs" / "generate_cli.py", tmp_path))
    assert generate(generator, "--check") == 1
    assert not (tmp_path / "cli.md").exists()
    assert generate(generator) == 0
    assert generate(generator, "--check") == 0
    (tmp_path / "cli.md").write_text("old")
    assert generate(generator, "--check") == 1
    assert (tmp_path / "cli.md").read_text() == "old"
    assert generate(generator, "--chekc") == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_section_in_the_command_line_page(name: str) -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## m2d-export {name}\n")[2].partition("\n## ")[0]
    assert section.strip().startswith(f"```text\nUsage: m2d-export {name} [OPTIONS]")
    assert all(line in section for line in examples_of(name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(<?([^)\s>]+)", text) + re.findall(r'(?:src|href|srcset)="([^"]+)"', text)
    local = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_every_make_target_in_a_page_exists() -> None:
    named = {target for page in PAGES for target in re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.MULTILINE)}
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named
    assert named <= targets


@dataclass(frozen=True)
class Block:
    """A bash or Python block of a page, and the ```text block directly below it, if there is one."""

    language: str
    text: str
    output: str | None
    line: int

    def steps(self) -> list[str]:
        """The commands of a bash block, with continued lines joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.startswith("#")]


def blocks(page: Path) -> Iterator[Block]:
    """The bash and Python blocks of a page, except those below a comment ``<!-- not run: REASON -->``."""
    text = page.read_text(encoding="utf-8")
    pattern = (
        r"(?P<excused><!-- not run: [^>]+ -->\n)?^```(?P<language>bash|python)\n(?P<text>.*?)^```\n"
        r"(?:\n?```text\n(?P<output>.*?)^```$)?"
    )
    for found in re.finditer(pattern, text, re.DOTALL | re.MULTILINE):
        if not found["excused"]:
            line = text[: found.start()].count("\n") + 1
            yield Block(found["language"], found["text"], found["output"], line)


RUN_PAGES = [page for page in PAGES if any(True for _ in blocks(page))]


@pytest.mark.parametrize("page", RUN_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_can_be_run_here_or_is_excused(page: Path) -> None:
    known = re.compile(r"(^|.*\| *)(m2d-export|python -m|make) ")
    found = [line for block in blocks(page) if block.language == "bash" for line in block.steps()]
    assert [line for line in found if not known.match(line)] == []


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_runs_from_top_to_bottom(
    page: Path, with_checkpoint: Path, with_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "prepare", partial(prepared_for_seconds, pipeline.prepare))
    folder = Path(shutil.copytree(with_checkpoint, tmp_path / "folder"))
    shutil.copytree(with_bundle / "minilm.m2d", folder / "minilm.m2d")
    for block in blocks(page):
        place = f"{page.name}, block at line {block.line}"
        if block.language == "python":
            if "build(" in block.text:
                shutil.rmtree(folder / "minilm.m2d")
            done = run_python(block.text, folder)
            assert done.code == 0, f"{place}\n{done.err}"
            if block.output is not None:
                wanted = ".*".join(map(re.escape, block.output.split("...")))  # ... stands for any text
                assert re.fullmatch(wanted, done.out, re.DOTALL), f"{place} prints\n{done.out}"
            continue
        for step in block.steps():
            remove_output(step, folder)
            # Make targets are only looked up, because one of them runs these tests.
            done = run(re.sub(r"^make ", f"make -C {ROOT} --dry-run ", step), folder)
            assert done.code == 0, f"{place}: {step}\n{done.err}"


def test_the_readme_lists_every_runtime_and_what_it_runs() -> None:
    row = re.compile(r"^\| (`.*?) \|[^|]*\|" + r"([^|]*)\|" * len(Precision), re.MULTILINE)
    listed = {
        name: [cell.strip() == "yes" for cell in cells]
        for names, *cells in row.findall((ROOT / "README.md").read_text(encoding="utf-8"))
        for name in re.findall(r"`(.+?)`", names)
    }
    assert listed == {name: [kind in row.precisions for kind in Precision] for name, row in RUNTIMES.items()}


@pytest.mark.parametrize("script", BENCHMARKS, ids=str)
def test_every_benchmark_can_be_imported(script: Path) -> None:
    importlib.import_module(".".join(script.with_suffix("").parts))
