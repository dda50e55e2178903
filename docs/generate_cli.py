"""Write docs/cli.md from the help of every command; with --check, exit 1 if the page is not up to date."""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from m2d_export.cli import cli

PAGE = Path(__file__).with_name("cli.md")
WIDTH = 100
INTRODUCTION = """# Command line

`make docs` writes this page from the `--help` of each command: to change it, change the help.

The package installs the command `m2d-export`; `python -m m2d_export` does the same. Lists have commas and no spaces. A
**cell** is written LAYERxDIM: `3x128` is the exit after layer 3, with vectors of 128 dims. An error is one line on
standard error.

`-` stands for standard input and standard output. An output may also be a pipe or a character device. If an output is a
symbolic link, the file behind the link is written. An output appears whole or not at all. An output inside a bundle is
refused.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a check failed: parity, integrity, an export, a training |
| 2 | wrong use, something is missing on this machine, or an output cannot be written |
| 70 | an internal error, which is a bug: with the environment variable `M2D_TRACEBACK=1`, its traceback is shown |
| 129, 130, 143 | terminal closed, interrupted, terminated |
"""


def page() -> str:
    """The whole page: the introduction, then a section for each command."""
    group = click.Context(cli, info_name="m2d-export", terminal_width=WIDTH, **cli.context_settings)
    return "\n".join([INTRODUCTION, *_section("m2d-export", cli.get_help(group)), *_sections(group)])


def _sections(group: click.Context) -> Iterator[str]:
    for name in cli.list_commands(group):
        command = cli.commands[name]
        context = click.Context(command, info_name=name, parent=group, terminal_width=WIDTH)
        yield from _section(f"m2d-export {name}", command.get_help(context))


def _section(title: str, text: str) -> tuple[str, str]:
    return f"## {title}\n", f"```text\n{text}\n```\n"


def main(arguments: list[str]) -> int:
    """Write the page, or check it; returns the exit code."""
    if arguments not in ([], ["--check"]):
        click.echo("usage: python docs/generate_cli.py [--check]", err=True)
        return 2
    wanted = page()
    if not arguments:
        PAGE.write_text(wanted, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != wanted:
        click.echo(f"{PAGE} is not up to date: run make docs", err=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
