"""Build the engines of a bundle. Each has its own child process, so that a failure does not stop the other builds."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Timer

from m2d_export.engines.child import PHASE, TIMEOUT, Job
from m2d_export.engines.library import FLAGS, LIBRARIES, check_targets, library
from m2d_export.errors import SpecError
from m2d_export.host.files import sha256_of
from m2d_export.host.gpu import Gpu, first_gpu
from m2d_export.host.kept import Kept
from m2d_export.precisions import WITH_ENGINES
from m2d_export.spec import EngineEntry, EngineKey, Precision, ShapeRange, default_shapes

Progress = Callable[[str], None]


@dataclass(frozen=True)
class EnginePlan:
    """The engines to build. ``versions`` has each kind of engine (trt, trt-rtx), and the version of its library.

    ``targets`` are the compute capabilities for ``trt-rtx``. ``gpu`` is the GPU that ``trt`` builds on.
    """

    versions: Mapping[str, str]
    shapes: tuple[ShapeRange, ...]
    targets: tuple[str, ...]
    gpu: Gpu | None


@dataclass(frozen=True)
class TypedGraph:
    """The files of a graph and its weights. Engines are built from them."""

    layer: int
    precision: Precision
    graph: Path
    weights: Path


def plan_engines(
    kinds: Sequence[str],
    shapes: Sequence[ShapeRange] | None,
    targets: Sequence[str],
    precisions: Sequence[Precision],
    max_tokens: int,
) -> EnginePlan:
    """Plan the engines, and check everything that can fail later.

    Raises SpecError if the options do not fit. Raises RuntimeUnavailable if a library is missing, or if ``trt`` has no
    GPU.
    """
    if not kinds:
        if shapes or targets:
            raise SpecError("shapes and targets (--gpu) belong to engines: add an engine, trt-rtx or trt")
        return EnginePlan({}, (), (), None)
    for kind in kinds:
        if kind not in LIBRARIES:
            raise SpecError(f"no engines called {kind!r}: there are {', '.join(LIBRARIES)}")
    if not set(precisions) & set(WITH_ENGINES):
        raise SpecError(f"engines are built from {', '.join(WITH_ENGINES)} graphs: add one of them to the precisions")
    if targets and "trt-rtx" not in kinds:
        raise SpecError("targets (--gpu) belong to trt-rtx: trt builds for the GPU of this machine")
    chosen = tuple(shapes) if shapes else default_shapes(max_tokens)
    for item in chosen:
        if item.max[1] > max_tokens:
            raise SpecError(f"shapes {item} reach {item.max[1]} tokens, but this checkpoint reads only {max_tokens}")
    gpu = first_gpu("--engine trt", "--engine trt-rtx builds without one") if "trt" in kinds else None
    modules = {kind: library(kind) for kind in dict.fromkeys(kinds)}
    known = check_targets(modules["trt-rtx"], targets) if targets else ()
    return EnginePlan({kind: module.__version__ for kind, module in modules.items()}, chosen, known, gpu)


def engine_path(layer: int, precision: Precision, kind: str) -> str:
    """The path of an exit's engine in a bundle."""
    return f"engines/layer-{layer:02d}.{precision}.{kind}.engine"


def build_engines(
    plan: EnginePlan,
    graphs: Sequence[TypedGraph],
    staging: Path,
    cache: "EngineCache",
    progress: Progress,
    timeout: float = TIMEOUT,
) -> tuple[tuple[EngineEntry, ...], list[str]]:
    """Put an engine of each kind for each graph into ``staging``.

    If ``cache`` has an engine with the same key, this engine is used. Returns the entries of all engines, and a reason
    for each engine that could not be built.
    """
    import onnx_ir as ir

    from m2d_export.graphs.half import matmuls

    entries, failures = [], []
    for kind, version in plan.versions.items():
        gpu = None if kind == "trt-rtx" else plan.gpu
        for item in graphs:
            name = f"layer {item.layer}, {item.precision}, {kind}"
            key = EngineKey(
                kind=kind,
                version=version,
                graph=sha256_of(item.graph),
                weights=sha256_of(item.weights),
                shapes=plan.shapes,
                targets=(gpu.capability,) if gpu else plan.targets,
                gpu=gpu.name if gpu else None,
                flags=FLAGS,
            )
            path = engine_path(item.layer, item.precision, kind)
            output = staging / path
            if cache.take(key, output):
                progress(f"keeping the engine of {name}: its graph and settings have not changed")
            else:
                progress(f"building the engine of {name}")
                timings = cache.timings() if gpu else None
                job = Job(item.graph, key, matmuls(ir.load(item.graph)), output, timings, timeout)
                failure = run(job, partial(_phase, progress, name))
                if failure:
                    failures.append(f"{name}: {failure}")
                    output.unlink(missing_ok=True)  # the child may have written a part of it
                    continue
                cache.store(key, output)
            entries.append(EngineEntry(item.layer, item.precision, path, key))
    return tuple(entries), failures


def _phase(progress: Progress, name: str, phase: str) -> None:
    progress(f"engine of {name}: {phase.lower()}")


class EngineCache:
    """Finished engines: ``published`` finds them in the published bundle, ``kept`` has engines of stopped builds."""

    def __init__(self, kept: Kept, published: Callable[[EngineKey], bytes | None]) -> None:
        self._kept, self._published = kept, published

    def store(self, key: EngineKey, engine: Path) -> None:
        """Keep a finished engine."""
        self._kept.store(key.digest, True, [engine])

    def timings(self) -> Path | None:
        """The path of the timing cache that all ``trt`` builds share; None if its folder cannot be private."""
        return self._kept.folder / "timings" if self._kept.opened() else None

    def take(self, key: EngineKey, into: Path) -> bool:
        """Put the engine of ``key`` at ``into``; returns False if there is none, or if it is damaged."""
        if (engine := self._published(key)) is not None:
            into.parent.mkdir(exist_ok=True)
            into.write_bytes(engine)
            return True
        return self._kept.take(key.digest, into.parent) is not None


def run(job: Job, progress: Progress) -> str | None:
    """Build ``job`` in a child process. Returns the reason if it failed, otherwise None."""
    command = [sys.executable, "-m", "m2d_export.engines.child"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, this package
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - both are pipes
        expired = Event()

        def expire() -> None:
            expired.set()
            process.kill()

        timer = Timer(job.timeout, expire)
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin as pipe:  # the child may be dead already
                pipe.write(job.to_json())
            for line in process.stdout:
                if line.startswith(PHASE):
                    progress(line.removeprefix(PHASE).strip())
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            process.stdout.close()
        errors.seek(0)
        last = (errors.read().strip().splitlines() or ["it printed nothing"])[-1]
    if expired.is_set():
        return f"not built within {job.timeout:g} s"
    if code:
        return last if code == 1 else f"its process ended with code {code}: {last}"
    return None
