"""What the commands share: parameter types, options, examples in the help, steps on a terminal."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from m2d_export.errors import SpecError
from m2d_export.spec import RUNTIMES, Precision, ShapeRange, parse_numbers

RESULTS = "results.jsonl"
PRECISIONS = [precision.value for precision in Precision]
COMPUTES = list(dict.fromkeys(compute for runtime in RUNTIMES.values() for compute in runtime.computes))


UNTOLD = "[default: fp32; of trt, trt-rtx, onnxrt-cuda and onnxrt-trt the precision]"


class Numbers(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.4
    """Whole numbers separated by commas; where ``word`` is given, that word stands for all of them, as None."""

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
            self.fail(f"takes words separated by commas; got {value!r}", param, ctx)
        return words


threads_option = click.option("--threads", type=click.IntRange(min=1), help="Threads to use.  [default: every core]")


def runtime_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what runs a variant."""
    for option in (
        threads_option,
        click.option("--compute", type=click.Choice(COMPUTES), help=f"What floats are multiplied in.  {UNTOLD}"),
        click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", help="What weights are stored in."),
        click.option("--runtime", type=click.Choice(list(RUNTIMES)), default="onnxrt", help="What runs the model."),
    ):
        command = option(command)
    return command


def examples(*lines: str) -> str:
    """The end of a command's help; its first character keeps click from wrapping what follows."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


@contextlib.contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Report steps with their times on a terminal; stay quiet in a pipe."""
    if not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.console import Console
    from rich.markup import escape

    console, started = Console(stderr=True), time.perf_counter()
    with console.status("starting") as status:

        def report(step: str) -> None:
            console.print(f"[dim]{time.perf_counter() - started:6.1f} s[/]  {escape(step)}", highlight=False)
            status.update(escape(step))

        yield report


def say_of_int8(precisions: Sequence[str]) -> None:
    """Say on standard error what int8 is worth on a processor without instructions for it."""
    from m2d_export.host.machine import multiplies_int8

    if "int8" in precisions and multiplies_int8() is False:
        click.echo(
            "note: this processor has no int8 dot products (VNNI): int8 works, but is slower than where it has them",
            err=True,
        )


def say_of_shapes(shapes: Sequence[ShapeRange], max_tokens: int) -> None:
    """Say on standard error that engines take shorter texts than the checkpoint reads."""
    longest = max((shape.most[1] for shape in shapes), default=max_tokens)
    if longest < max_tokens:
        click.echo(
            f"note: --shapes ends at {longest} tokens, the checkpoint reads {max_tokens}: engines refuse longer texts",
            err=True,
        )


def say_others(results: Path, count: int, where: str) -> None:
    """Say on standard error that a file holds more results than what is shown rests on."""
    click.echo(f"{results} has {count} results of other bundles or machines too: not in {where}", err=True)


def listed(numbers: tuple[int, ...]) -> str:
    """Numbers with commas between them."""
    return ", ".join(map(str, numbers))


def is_default(name: str) -> bool:
    """Whether an option of the running command was left at its default."""
    return click.get_current_context().get_parameter_source(name) is click.core.ParameterSource.DEFAULT
