"""The command line, the only room that imports click. A command imports what it needs when it runs."""

import os
import signal
import sys
import traceback
from typing import NoReturn

import click

from m2d_export import __version__
from m2d_export.cli import bundles, decisions, distil, measures, shipping
from m2d_export.cli.common import INTERRUPTED
from m2d_export.cli.streams import standard_streams
from m2d_export.errors import M2DError, first_line

INTERNAL = 70
STOPPING = (signal.SIGTERM, signal.SIGHUP)  # SIGHUP comes when a terminal closes
TRACEBACK = "M2D_TRACEBACK"  # environment variable that shows where an internal error happened
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="m2d-export")
def cli() -> None:
    """ONNX export and optimised inference for 2D-Matryoshka sentence encoders.

    Such an encoder can stop after any of its layers, and its vectors can be cut to any number of dims. An exit is the
    encoder that stops after a layer. A cell is an exit with a number of dims: 3x128 is layer 3 and 128 dims.

    distil makes the exits of an ordinary encoder useful, from texts without labels. build writes a bundle, a folder
    with one ONNX graph per exit. bench measures every cell. select picks one for your budget. encode runs it. onnx,
    triton and cpp write it for other programs.
    """


for command in (
    distil.distil,
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
    """Run the command line and exit; the codes are 0 done, 1 a check failed, 2 wrong use, 129, 130 and 143 stopped."""
    run(cli)


@standard_streams()
def run(command: click.Command) -> NoReturn:
    """Run a command and exit; every error is one line on standard error."""
    for stopping in STOPPING:
        if signal.getsignal(stopping) is not signal.SIG_IGN:  # as nohup asks for
            signal.signal(stopping, lambda number, frame: sys.exit(128 + number))  # so that clean-up runs
    try:
        command.main(standalone_mode=False)
    except M2DError as error:
        click.echo(f"Error: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        path = getattr(getattr(error, "ctx", None), "command_path", "m2d-export")
        click.echo(f"Error: {' '.join(error.format_message().split())} (see {path} --help)", err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except (SystemExit, BrokenPipeError):
        raise
    except MemoryError:
        click.echo("Error: there is not enough memory: close other programs, or use a machine with more", err=True)
        sys.exit(2)
    except BaseException as error:  # a panic of Rust is no Exception
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        kind = f"{type(error).__name__}: {' '.join(first_line(error).split())}"
        click.echo(
            f"Error: internal error ({kind}). This is a bug: please report it, and add what {TRACEBACK}=1 shows",
            err=True,
        )
        sys.exit(INTERNAL)
    finally:
        # If Ctrl-C ended an exec() of text, which dataclasses use, CPython remembers that. ``python -m`` would then die
        # of the signal at its end, whatever the exit code. Another exec() clears it.
        exec("")  # noqa: S102
    sys.exit(0)
