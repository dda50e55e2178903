"""The command line: the only package that imports click; every command imports what it needs when it runs."""

import signal
import sys
from typing import NoReturn

import click

from m2d_export import __version__
from m2d_export.cli import bundles, decisions, measures, shipping
from m2d_export.errors import M2DError

INTERRUPTED, TERMINATED = 130, 143
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="m2d-export")
def cli() -> None:
    """ONNX export and optimised inference for 2D-Matryoshka sentence encoders.

    Every prefix of such an encoder's layers and of its dims is a usable encoder: build makes one verified graph per
    exit layer, bench measures the layer x dim grid, encode runs a cell of it.
    """


for command in (
    bundles.build,
    bundles.show,
    bundles.verify,
    measures.bench,
    decisions.select,
    decisions.report,
    bundles.encode,
    bundles.slice_,
    shipping.cpp,
    shipping.onnx,
    shipping.triton,
):
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 a gate failed, 2 wrong use or environment, 130 and 143 stopped."""
    run(cli)


def run(command: click.Command) -> NoReturn:
    """Run a command with our errors and exit codes."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(TERMINATED))  # so that staging is cleaned up
    try:
        command.main(standalone_mode=False)
    except M2DError as error:
        click.echo(f"Error: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        path = getattr(getattr(error, "ctx", None), "command_path", "m2d-export")
        click.echo(f"Error: {' '.join(error.format_message().split())} ({path} --help says more)", err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    sys.exit(0)
