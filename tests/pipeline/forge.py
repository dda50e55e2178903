"""What the tests of the pipeline share: builds in processes of their own, which can be killed, and what is left."""

import functools
import multiprocessing
import os
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from m2d_export import Bundle, pipeline
from m2d_export import plan as planning
from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.errors import M2DError
from m2d_export.gate import reference
from m2d_export.graphs import export as graphs
from m2d_export.host.staging import STAGING
from m2d_export.plan import Progress

STEPS = (  # of a build of one exit
    "loading the checkpoint",
    "exporting all exits once",
    "making the fp32 graphs of every exit",
    "writing fp32 graphs and their shared weights",
    "running the reference",
    "parity of layer 1, fp32",
    "writing the manifest",
    "publishing",
)
PROBES = 4
load_once = functools.cache(load_checkpoint)
TEXTS = ["A man is playing a guitar.", "", "The cat sat on the mat. " * 9]


def tree(folder: Path) -> dict[str, tuple[int, bytes | str | None]]:
    """Everything under a path, itself included: its mode, and its content, or where a link points."""
    found: dict[str, tuple[int, bytes | str | None]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = path.lstat().st_mode, content
    return found


def staging(target: Path) -> list[Path]:
    return sorted(target.parent.glob(f"{STAGING}*"))


def sound(target: Path) -> bool:
    return Bundle.open(target).problems() == []


# Builds in processes of their own, so that they can be killed. One server process imports everything and exports once;
# each build runs in a fork of it.


def build(
    checkpoint: Path,
    target: Path,
    force: bool = False,
    layers: Sequence[int] | None = (1,),
    progress: Progress = lambda step: None,
) -> None:
    planned = planning.plan(str(checkpoint), target, layers=layers, force=force, progress=progress)
    pipeline.build_planned(planned, progress)


def serve(connection: Connection, checkpoint: Path, exported: Path) -> None:
    """Export ``checkpoint`` to ``exported``, then run each task in a fork: answers its exit code and its error."""
    torch.set_num_threads(1)  # thread pools do not survive a fork
    loaded = load_checkpoint(str(checkpoint))
    exits = ExitEncoder(loaded, range(1, loaded.depth + 1)).eval()
    model = graphs.export_exits(exits, loaded.width, loaded.text)
    ir.save(model, exported)
    # What every fork would do alike, done once; and a few probe texts only.
    planning.load_checkpoint = lambda *arguments: loaded
    graphs.export_exits = lambda *arguments: model
    reference.PROBES = reference.PROBES[:PROBES]
    connection.send((0, "ready"))
    while task := connection.recv():
        function, arguments = task
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            message, code = "", 0
            try:
                function(checkpoint, *arguments)
            except M2DError as error:
                message, code = f"{type(error).__name__}: {error}", error.exit_code
            except SystemExit as error:
                code = int(error.code or 0)
            except BaseException as error:
                message, code = repr(error), 99
            os.write(writing, message.encode())
            os._exit(code)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as pipe:
            message = pipe.read()
        connection.send((os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), message))


class Forge:
    """The server process. It starts exporting at once, and is waited for when it is needed."""

    def __init__(self, checkpoint: Path, exported: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, checkpoint, exported), daemon=True)
        self._process.start()
        theirs.close()
        self._exported, self._ready = exported, False

    def _answer(self) -> tuple[int, str]:
        assert self._connection.poll(300), "the server process does not answer"
        code, message = self._connection.recv()
        return code, message

    def exported(self) -> Path:
        """The file of the one graph with all exits."""
        if not self._ready:
            self._answer()
            self._ready = True
        return self._exported

    def run(self, function: Callable[..., None], *arguments: Any) -> tuple[int, str]:
        """Exit code, negative for a signal, and error of ``function(checkpoint, *arguments)`` in a new process."""
        self.exported()
        self._connection.send((function, arguments))
        return self._answer()

    def close(self) -> None:
        self.exported()
        self._connection.send(None)
        self._process.join(30)
