"""What the commands share: parameter types, options, examples in the help, progress on a terminal."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from m2d_export.errors import SpecError
from m2d_export.runtimes.table import RUNTIMES
from m2d_export.spec import Cell, Precision, ShapeRange, parse_numbers

RESULTS = "results.jsonl"
PRECISIONS = [precision.value for precision in Precision]
COMPUTES = list(dict.fromkeys(compute for runtime in RUNTIMES.values() for compute in runtime.computes))
OF_PRECISION = ", ".join(name for name, runtime in RUNTIMES.items() if not runtime.computes)
DEFAULT_COMPUTE = f"[default: fp32; with {OF_PRECISION}: the precision]"


class Numbers(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """Whole numbers separated by commas; ``word``, if given, stands for all of them and becomes None."""

    name = "1,2,.."

    def __init__(self, word: str | None = None) -> None:
        self.word = word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the list, or fail as click does."""
        if not isinstance(value, str):
            return value
        if value == self.word:
            return None
        try:
            return parse_numbers(value, param.opts[-1] if param else "this option")
        except SpecError as error:
            self.fail(str(error), param, ctx)


class Words(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """Words separated by commas, in their order, without repeats."""

    name = "a,b,.."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Split the list, or fail as click does."""
        if not isinstance(value, str):
            return value
        words = tuple(dict.fromkeys(word.strip() for word in value.split(",")))
        if not all(words):
            self.fail(f"expected words separated by commas, got {value!r}", param, ctx)
        return words


class CellType(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """A cell written LAYERxDIM, such as 3x128; the command gets a Cell."""

    name = "LAYERxDIM"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The name as it is; click would write it in capitals. ``ctx`` came with click 8.2."""
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Cell:
        """Parse the cell, or fail as click does."""
        if isinstance(value, Cell):
            return value
        try:
            return Cell.parse(value)
        except SpecError as error:
            self.fail(str(error), param, ctx)


cell_option = click.option(
    "--cell", type=CellType(), help="Exit layer and dim.  [default: the deepest exit, with the checkpoint's own dim]"
)
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads of the runtime.  [default: one per core]"
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
    """The end of a command's help: one example a line."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])  # \b keeps click from wrapping the lines


@contextlib.contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Give a function that shows the step that begins, with the time, on a terminal; in a pipe it shows nothing."""
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
