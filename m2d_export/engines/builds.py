"""The engines of a bundle: one child process each, none built twice, a failed one leaving the others."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Timer

from m2d_export.bundle.bundle import Bundle, EngineEntry, VariantEntry, engine_path
from m2d_export.engines.engine import FLAGS, LIBRARIES, PHASE, TIMEOUT, Job, check_targets, library
from m2d_export.errors import BundleError, SpecError
from m2d_export.host.files import atomic_file, sha256_of
from m2d_export.host.gpu import Gpu, first_gpu
from m2d_export.runtimes.compile_cache import is_private
from m2d_export.spec import TYPED, EngineKey, Precision, ShapeRange, default_shapes

Report = Callable[[str], None]


@dataclass(frozen=True)
class EnginePlan:
    """The kinds of engine to build, each with its library's version; what each is built for.

    ``targets`` are of engines of RTX, ``gpu`` of those of the full library.
    """

    versions: Mapping[str, str]
    shapes: tuple[ShapeRange, ...]
    targets: tuple[str, ...]
    gpu: Gpu | None


def plan_engines(
    kinds: Sequence[str],
    shapes: Sequence[ShapeRange] | None,
    targets: Sequence[str],
    precisions: Sequence[Precision],
    max_tokens: int,
) -> EnginePlan:
    """Settle what can fail before the work starts.

    Raises SpecError, and RuntimeUnavailable where a library is missing, or ``trt`` has no GPU to build on.
    """
    if not kinds:
        if shapes or targets:
            raise SpecError("--shapes and --gpu are of engines: ask for some with --engine trt-rtx or trt")
        return EnginePlan({}, (), (), None)
    for kind in kinds:
        if kind not in LIBRARIES:
            raise SpecError(f"no engines called {kind!r}: there are {', '.join(LIBRARIES)}")
    if not set(precisions) & set(TYPED):
        raise SpecError(f"engines are built of {', '.join(TYPED)} graphs: add one of them to --precision")
    if targets and "trt-rtx" not in kinds:
        raise SpecError("--gpu goes with --engine trt-rtx: trt builds for the GPU that it runs on")
    chosen = tuple(shapes) if shapes else default_shapes(max_tokens)
    for item in chosen:
        if item.most[1] > max_tokens:
            raise SpecError(f"shapes {item} go to {item.most[1]} tokens, and this checkpoint reads {max_tokens}")
    gpu = first_gpu("--engine trt", "--engine trt-rtx builds without one") if "trt" in kinds else None
    modules = {kind: library(kind) for kind in dict.fromkeys(kinds)}
    known = check_targets(modules["trt-rtx"], targets) if targets else ()
    return EnginePlan({kind: module.__version__ for kind, module in modules.items()}, chosen, known, gpu)


def build_engines(
    plan: EnginePlan,
    staging: Path,
    target: Path,
    variants: Sequence[VariantEntry],
    report: Report,
    timeout: float = TIMEOUT,
) -> tuple[tuple[EngineEntry, ...], list[str]]:
    """Put the engines of every variant into ``staging``; returns what there is, and in words what failed.

    An engine with the same key is taken from the bundle at ``target``, or from what an unfinished build has left.
    """
    shelf = _Shelf(target)
    entries, failures = [], []
    for kind, version in plan.versions.items():
        gpu = None if kind == "trt-rtx" else plan.gpu
        for variant in variants:
            if variant.precision not in TYPED:
                continue
            name = f"layer {variant.layer}, {variant.precision}, {kind}"
            graph, weights = staging / variant.path, staging / variant.weights
            key = EngineKey(
                kind=kind,
                version=version,
                graph=sha256_of(graph),
                weights=sha256_of(weights),
                shapes=plan.shapes,
                targets=(gpu.capability,) if gpu else plan.targets,
                gpu=gpu.name if gpu else None,
                flags=FLAGS,
            )
            path = engine_path(variant.layer, variant.precision, kind)
            if shelf.take(key, staging / path):
                report(f"keeping the engine of {name}: nothing that it hangs on has changed")
            else:
                report(f"building the engine of {name}")
                job = Job(graph, key, _products(graph), staging / path, shelf.timings() if gpu else None, timeout)
                failure = run(job, partial(_phase, report, name))
                if failure:
                    failures.append(f"{name}: {failure}")
                    (staging / path).unlink(missing_ok=True)  # half of it may be there
                    continue
                shelf.keep(key, staging / path)
            entries.append(EngineEntry(variant.layer, variant.precision, path, key))
    return tuple(entries), failures


def _phase(report: Report, name: str, phase: str) -> None:
    report(f"engine of {name}: {phase.lower()}")


def clear_shelf(target: Path) -> None:
    """Remove what unfinished builds of ``target`` kept, now that it is published."""
    shutil.rmtree(_Shelf(target).folder, ignore_errors=True)


def _products(graph: Path) -> dict[str, int]:
    import onnx_ir as ir

    from m2d_export.graphs.half import products

    return products(ir.load(graph))


class _Shelf:
    """Finished engines by key: copies in a folder beside the target, and those of the bundle that is there already.

    The copies are for the build after one that is killed. Engines are code: where the folder cannot be private, as on a
    file system without modes, there are none.
    """

    def __init__(self, target: Path) -> None:
        self.folder = target.parent / f".m2d-engines-{target.name}"
        self._bundle: Bundle | None = None
        with contextlib.suppress(BundleError):
            self._bundle = Bundle.open(target)

    def keep(self, key: EngineKey, made: Path) -> None:
        """Copy a finished engine, then note that the copy is whole."""
        if self._opened():
            shutil.copyfile(made, self.folder / key.digest)
            with atomic_file(self._note(key)) as staged:
                staged.write_text(sha256_of(made), encoding="ascii")

    def timings(self) -> Path | None:
        """Where builds of the full library share what they have timed, if that can be private too."""
        return self.folder / "timings" if self._opened() else None

    def _opened(self) -> bool:
        """Whether the folder is there, made now if need be, and this user's alone."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(mode=0o700, exist_ok=True)
        return self.folder.is_dir() and is_private(self.folder)

    def take(self, key: EngineKey, into: Path) -> bool:
        """Copy the engine of ``key`` to ``into`` if there is one that is whole."""
        source = self._published(key) or self._finished(key)
        if source:
            into.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, into)
        return source is not None

    def _note(self, key: EngineKey) -> Path:
        return self.folder / f"{key.digest}.sha256"

    def _published(self, key: EngineKey) -> Path | None:
        for entry in self._bundle.manifest.engines if self._bundle else ():
            if entry.key == key:
                with contextlib.suppress(BundleError):  # damaged: built anew
                    return self._bundle.checked(entry.path) if self._bundle else None
        return None

    def _finished(self, key: EngineKey) -> Path | None:
        place = self.folder / key.digest
        with contextlib.suppress(OSError):
            if is_private(self.folder) and self._note(key).read_text(encoding="ascii") == sha256_of(place):
                return place
        return None


def run(job: Job, progress: Report) -> str | None:
    """Build ``job`` in a child process; returns what went wrong, in words, or None.

    A library that crashes, hangs or keeps memory takes only its child with it.
    """
    command = [sys.executable, "-m", "m2d_export.engines.engine"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, this package
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, env=environment
        )
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - both are pipes
        expired = Event()

        def expire() -> None:
            expired.set()
            process.kill()

        timer = Timer(job.timeout, expire)
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin as pipe:  # it may have died already
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
        said.seek(0)
        last = (said.read().strip().splitlines() or ["it said nothing"])[-1]
    if expired.is_set():
        return f"not built within {job.timeout:g} s"
    if code:
        return last if code == 1 else f"its process ended with code {code}: {last}"
    return None
