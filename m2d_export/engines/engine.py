"""ONNX graphs to TensorRT engines: TensorRT and TensorRT for RTX by one function, in a process that can be killed.

What is called here is what TensorRT 10.12, 11 and RTX 1.7 have in common. All of them build strongly typed networks, so
the precision is the graph's, and none has a switch for it.
"""

import ctypes
import hashlib
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from m2d_export.errors import ExportError, IntegrityError, M2DError, RuntimeUnavailable, SpecError, first_line
from m2d_export.host.extras import require
from m2d_export.host.files import atomic_file, writing
from m2d_export.host.gpu import Gpu
from m2d_export.spec import Engine, EngineKey, ShapeRange

LIBRARIES = {"trt": "tensorrt", "trt-rtx": "tensorrt_rtx_bindings"}  # kind, which is its extra's name too -> module
OLDEST = {"trt": (10, 12), "trt-rtx": (1, 7)}
FLAGS = ("strongly-typed", "no-tf32", "detailed")  # what engine_from_graph tells every builder
TYPES = {"FLOAT": "FLOAT", "HALF": "FLOAT16", "BF16": "BFLOAT16"}  # TensorRT's words, and ONNX's
PHASE = "phase: "
TIMEOUT = 3600.0  # seconds for one engine: TensorRT tunes a deep encoder for minutes
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def library(kind: str) -> Any:
    """The module of engines of ``kind``; RuntimeUnavailable names its extra, or the version needed."""
    if kind not in LIBRARIES:
        raise SpecError(f"no engines called {kind!r}: there are {', '.join(LIBRARIES)}")
    module = require(LIBRARIES[kind], kind)
    found = tuple(int(part) for part in module.__version__.split(".")[:2])
    if found < OLDEST[kind]:
        needed = ".".join(map(str, OLDEST[kind]))
        raise RuntimeUnavailable(
            f"{kind} {module.__version__} is too old: {needed} is the first that knows typed networks as they are used "
            f"here. Install it with: pip install -U 'm2d-export[{kind}]'"
        )
    return module


def check_targets(trt: Any, targets: Sequence[str]) -> tuple[str, ...]:
    """``targets`` in order, such as sm86; SpecError lists the compute capabilities that the library knows."""
    known = [name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    for target in targets:
        if target not in known:
            raise SpecError(f"no compute capability {target!r} in trt-rtx {trt.__version__}: it has {', '.join(known)}")
    return tuple(name for name in known if name in targets)


@dataclass(frozen=True)
class Job:
    """One engine to build, within ``timeout`` seconds.

    ``products`` counts the graph's matrix products by type, ``timings`` is a file that builds share.
    """

    graph: Path
    key: EngineKey
    products: Mapping[str, int]
    output: Path
    timings: Path | None = None
    timeout: float = TIMEOUT

    def to_json(self) -> str:
        """The job as a child process reads it."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """Read what ``to_json`` wrote."""
        data = json.loads(text)
        timings = data["timings"]
        return cls(
            Path(data["graph"]),
            key_from_dict(data["key"]),
            data["products"],
            Path(data["output"]),
            None if timings is None else Path(timings),
            data["timeout"],
        )


def key_from_dict(data: Mapping[str, Any]) -> EngineKey:
    """The key that ``dataclasses.asdict`` made ``data`` of."""
    shapes = tuple(ShapeRange(*(tuple(shape[name]) for name in ("least", "best", "most"))) for shape in data["shapes"])
    return EngineKey(**{**data, "shapes": shapes, **{name: tuple(data[name]) for name in ("targets", "flags")}})


def engine_from_graph(trt: Any, job: Job, progress: Callable[[str], None]) -> bytes:
    """Build the engine of ``job`` with the module ``trt``; ``progress`` is told each phase.

    Raises ExportError with the parser's or builder's own words, and where the network has other types than the graph.
    """
    log = logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(job.graph)):  # by path, so that it finds the weights beside it
        raise ExportError(f"{job.key.kind} cannot read {job.graph.name}: {_parser_errors(parser)}")
    _check_products(trt, network, job)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 is fp32: who wants less asks for fp16
    config.progress_monitor = _monitor(trt, progress)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that an engine can tell the types it computes in
    for shapes in job.key.shapes:
        profile = builder.create_optimization_profile()
        for place in range(network.num_inputs):
            profile.set_shape(network.get_input(place).name, shapes.least, shapes.best, shapes.most)
        config.add_optimization_profile(profile)
    if job.key.gpu is None and job.key.targets:  # the full library builds for the card that it is on
        config.num_compute_capabilities = len(job.key.targets)
        for place, target in enumerate(job.key.targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), place)
    if job.timings is not None:
        _share_timings(config, job.timings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        said = "; ".join(log.errors[:3]) or "unsaid"  # the first is the cause, what follows from it comes last
        raise ExportError(f"{job.key.kind} cannot build {job.graph.name}: {said}")
    if job.timings is not None and (timed := config.get_timing_cache()) is not None:
        with atomic_file(job.timings) as staged:
            staged.write_bytes(bytes(timed.serialize()))
    return bytes(plan)


def _share_timings(config: Any, path: Path) -> None:
    """Begin with what earlier builds have timed, or with nothing, where that is damaged or of another card."""
    known = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if known is None or not config.set_timing_cache(known, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def logger(trt: Any) -> Any:
    """A logger that keeps errors, and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Log()


def _monitor(trt: Any, progress: Callable[[str], None]) -> Any:
    """What tells ``progress`` the phases directly below the whole build."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.root: str | None = None

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.root = name
            elif parent == self.root:
                progress(name)

        def step_complete(self, name: str, step: int) -> bool:
            return True

        def phase_finish(self, name: str) -> None:
            pass

    return Monitor()


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(place) for place in range(parser.num_errors)]
    said = [f"{first_line(Exception(e.desc()))} (node {e.node_name()!r}, {e.node_operator()})" for e in errors]
    return "; ".join(said) or "it does not say why"


def _check_products(trt: Any, network: Any, job: Job) -> None:
    """Raise ExportError unless the network multiplies in just the types that the graph is written in."""
    found: dict[str, int] = {}
    for layer in (network.get_layer(place) for place in range(network.num_layers)):
        if layer.type == trt.LayerType.MATRIX_MULTIPLY:
            kind = layer.get_output(0).dtype.name
            found[TYPES.get(kind, kind)] = found.get(TYPES.get(kind, kind), 0) + 1
    if found != dict(job.products):
        raise ExportError(
            f"{job.key.kind} would not compute {job.graph.name} as it is typed: products in the graph "
            f"{dict(job.products)}, in the network {found}"
        )


def check_flags(engine: Engine) -> None:
    """Raise RuntimeUnavailable where the builder of ``engine`` was told something else than it is told here."""
    if engine.key.flags != FLAGS:
        raise RuntimeUnavailable(
            f"{engine.path.name} was built with the flags {', '.join(engine.key.flags) or 'none'}, engines are built "
            f"here with {', '.join(FLAGS)}: build it again"
        )


def read_engine(engine: Engine, version: str, gpu: Gpu) -> bytes:
    """The bytes of an engine, once all says that the library of ``version`` may run them on ``gpu``: native code.

    Raises RuntimeUnavailable with both sides of a mismatch, IntegrityError where the file is not the manifest's.
    """
    key = engine.key
    check_flags(engine)
    sides = [("library", key.version, version)]
    if key.gpu is not None:
        sides.append(("GPU", key.gpu, gpu.name))
    for what, built, here in sides:
        if built != here:
            raise RuntimeUnavailable(f"{engine.path.name} was built for {what} {built}, here is {here}: build it again")
    if key.targets and gpu.capability not in key.targets:
        how = f" with --gpu {gpu.capability}" if key.gpu is None else ""
        raise RuntimeUnavailable(
            f"{engine.path.name} was built for {', '.join(key.targets)}, here is {gpu.name} ({gpu.capability}): "
            f"build it again{how}"
        )
    try:
        data = engine.path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{engine.path} cannot be read: {error.strerror}") from error
    if (found := hashlib.sha256(data).hexdigest()) != engine.sha256:
        raise IntegrityError(
            f"{engine.path} is not the engine that the manifest names: its sha256 is {found[:12]}, the "
            f"manifest's {engine.sha256[:12]}. Build it again, or copy it again"
        )
    return data


def main() -> int:
    """Build the job on standard input, as a child process: phases on standard output, what fails on standard error."""
    _end_with_parent()
    job = Job.from_json(sys.stdin.read())
    # For where the parent is killed and cannot end this: a second later than it would. The library sees no exception.
    signal.setitimer(signal.ITIMER_REAL, job.timeout + 1)
    try:
        plan = engine_from_graph(library(job.key.kind), job, lambda name: print(PHASE + name, flush=True))  # noqa: T201
        with writing(job.output):
            job.output.parent.mkdir(exist_ok=True)
            job.output.write_bytes(plan)
    except M2DError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _end_with_parent() -> None:
    """Have Linux kill this process when the one that started it has gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))


if __name__ == "__main__":
    sys.exit(main())
