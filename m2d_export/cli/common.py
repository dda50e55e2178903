"""What the commands share: parameter types, options, examples in the help, progress on a terminal."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from m2d_export.errors import BundleError, OutputError, SpecError
from m2d_export.host.files import STDOUT, descriptor_of, expanded, writing
from m2d_export.host.machine import MAX_THREADS
from m2d_export.runtimes.table import RUNTIMES
from m2d_export.spec import Cell, Precision, ShapeRange, parse_numbers

RESULTS = "results.jsonl"
INTERRUPTED = 130  # the exit code after Ctrl-C
PRECISIONS = [precision.value for precision in Precision]
COMPUTES = list(dict.fromkeys(compute for runtime in RUNTIMES.values() for compute in runtime.computes))
OF_PRECISION = ", ".join(name for name, runtime in RUNTIMES.items() if not runtime.computes)
DEFAULT_COMPUTE = f"[default: fp32; with {OF_PRECISION}: as --precision]"


class Parsed(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """A value that ``parse`` makes from a string and the option's name; SpecError becomes an error of click.

    The help shows ``name``.
    """

    def __init__(self, name: str, parse: Callable[[str, str], Any]) -> None:
        self.name, self.parse = name, parse

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The name as it is; click would write it in capitals. ``ctx`` came with click 8.2."""
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse a string, or fail as click does; a default that is no string is returned as it is."""
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value, param.opts[-1] if param else self.name)
        except SpecError as error:
            self.fail(str(error), param, ctx)


def words(shown: str) -> Parsed:
    """Words separated by commas, in their order, without repeats; the help shows ``shown``."""

    def parse(text: str, option: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
        if not all(found):
            raise SpecError(f"{option} takes words separated by commas, got {text!r}")
        return found

    return Parsed(shown, parse)


class _Path(click.Path):
    """A path; ``~`` stands for the home folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Put the home folder in place of ``~``."""
        return super().convert(expanded(value), param, ctx)


class _Output(_Path):
    """The path of an output, which must not lie in a bundle; ``-`` is standard output."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return standard output for ``-``. A file of this name is written ``./-``."""
        if value == "-" or descriptor_of(Path(value)) == 1:
            return STDOUT
        path = super().convert(value, param, ctx)
        _check_outside_bundles(path)
        return path.absolute() if path == STDOUT else path


class _OutputFolder(_Output):
    """The path of a folder to write."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse standard output."""
        path = super().convert(value, param, ctx)
        if path == STDOUT:
            self.fail("a folder cannot be written to standard output: give its path", param, ctx)
        return path


class TextFile(click.File):
    """A file of texts that is read as bytes; ``-`` is standard input."""

    def __init__(self) -> None:
        super().__init__("rb")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Open the file."""
        if value == "-" and sys.stdin is None:
            self.fail("standard input is closed: name a file", param, ctx)
        return super().convert(value if value == "-" else os.fspath(expanded(value)), param, ctx)


def _check_outside_bundles(path: Path) -> None:
    """Raise OutputError for an output inside a bundle: a published bundle is never changed."""
    from m2d_export.bundle.disk import Bundle
    from m2d_export.bundle.manifest import MANIFEST

    with writing(path):
        folders = [folder for folder in Path(os.path.realpath(path)).parents if (folder / MANIFEST).is_file()]
    for folder in folders:
        with contextlib.suppress(BundleError):
            bundle = Bundle.open(folder)
            raise OutputError(f"{path} lies in the bundle {bundle.root}, which is never changed: choose another path")


PATH, OUTPUT_FILE, OUTPUT_FOLDER = _Path(), _Output(), _OutputFolder()
CELL = Parsed("LAYERxDIM", lambda text, option: Cell.parse(text))
NUMBERS = Parsed("1,2,..", parse_numbers)
ALL_OR_NUMBERS = Parsed("all|1,2,..", lambda text, name: None if text == "all" else parse_numbers(text, name))
bundle_argument = click.argument("bundle", type=PATH)
cell_option = click.option(
    "--cell", type=CELL, help="Exit layer and dim.  [default: the deepest exit, with the checkpoint's own dim]"
)
threads_option = click.option(
    "--threads", type=click.IntRange(1, MAX_THREADS), help="CPU threads of the runtime.  [default: one per core]"
)
checkpoint_option = click.option(
    "--checkpoint", metavar="FOLDER", help="The bundle's checkpoint; pytorch and pytorch-cuda need it."
)
precision_option = click.option(
    "--precision", type=click.Choice(PRECISIONS), default="fp32", help="Precision of the stored weights."
)


def runtime_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose what runs a variant: runtime, precision, compute, threads."""
    for option in (
        threads_option,
        click.option(
            "--compute", type=click.Choice(COMPUTES), help=f"Type that floats are multiplied in.  {DEFAULT_COMPUTE}"
        ),
        precision_option,
        click.option(
            "--runtime", type=click.Choice(list(RUNTIMES)), default="onnxrt", help="Library that runs the graph."
        ),
    ):
        command = option(command)
    return command


def examples(*lines: str) -> str:
    """The end of a command's help, with one example per line."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])  # \b keeps click from wrapping the lines


@contextlib.contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Give a function that shows each step, with the time, on a terminal; in a pipe it shows nothing."""
    if not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.console import Console
    from rich.markup import escape

    console, started = Console(stderr=True), time.perf_counter()
    with console.status("starting") as status:

        def show(step: str) -> None:
            console.print(f"[dim]{time.perf_counter() - started:6.1f} s[/]  {escape(step)}", highlight=False)
            status.update(escape(step))

        yield show


def warn_if_int8_is_slow(precisions: Sequence[str]) -> None:
    """Warn on standard error if int8 is among ``precisions`` and this processor has no instructions for it."""
    from m2d_export.host.machine import multiplies_int8

    if "int8" in precisions and multiplies_int8() is False:
        click.echo(
            "note: this processor has no int8 dot products (VNNI): int8 works here, but is slower than with them",
            err=True,
        )


def warn_if_shapes_are_short(shapes: Sequence[ShapeRange], max_tokens: int) -> None:
    """Warn on standard error if engines of ``shapes`` refuse texts that the checkpoint can read."""
    longest = max((shape.max[1] for shape in shapes), default=max_tokens)
    if longest < max_tokens:
        click.echo(
            f"note: --shapes ends at {longest} tokens, but the checkpoint reads {max_tokens}: "
            "the engines refuse longer texts",
            err=True,
        )


def note_other_results(results: Path, count: int, where: str) -> None:
    """Note on standard error how many results of a file are not part of the output."""
    click.echo(f"note: {results} has {count} results of other bundles or machines: they are not in {where}", err=True)


def listed(numbers: Sequence[int]) -> str:
    """Numbers with commas between them."""
    return ", ".join(map(str, numbers))


def is_default(name: str) -> bool:
    """Whether an option of the running command was left at its default."""
    return click.get_current_context().get_parameter_source(name) is click.core.ParameterSource.DEFAULT
