"""Build one engine from one graph, in a child process, because the library may crash, hang or keep its memory.

The same function builds with TensorRT and with TensorRT for RTX. It calls only functions that TensorRT 10.12,
TensorRT 11 and RTX 1.7 have. All of them build strongly typed networks: the graph states the type of each value, and
the builder cannot choose another.
"""

import ctypes
import json
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from m2d_export.engines.library import library, logger
from m2d_export.errors import ExportError, M2DError, first_line
from m2d_export.host.files import output_file, writing
from m2d_export.precisions import PRECISIONS
from m2d_export.spec import EngineKey, ShapeRange

PHASE = "phase: "
TIMEOUT = 3600.0  # seconds for one engine; TensorRT needs minutes for a deep encoder
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Job:
    """One engine to build within ``timeout`` seconds.

    ``matmuls`` counts the matrix products of the graph by type. ``timings`` is the file of a timing cache, which builds
    share.
    """

    graph: Path
    key: EngineKey
    matmuls: Mapping[str, int]
    output: Path
    timings: Path | None = None
    timeout: float = TIMEOUT

    def to_json(self) -> str:
        """Write the job as JSON, for the child process."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """Read a job that ``to_json`` wrote."""
        data: dict[str, Any] = json.loads(text)
        key = data["key"]
        shapes = tuple(ShapeRange(*(tuple(shape[name]) for name in ("min", "opt", "max"))) for shape in key["shapes"])
        lists = {name: tuple(key[name]) for name in ("targets", "flags")}
        paths = {name: Path(data[name]) for name in ("graph", "output", "timings") if data[name] is not None}
        data.update(paths, key=EngineKey(**{**key, "shapes": shapes, **lists}))
        return cls(**data)


def engine_from_graph(trt: Any, job: Job, progress: Callable[[str], None]) -> bytes:
    """Build the engine of ``job`` with the module ``trt``. ``progress`` is called with the name of each phase.

    Raises ExportError if the library fails, or if the network and the graph have different types. If the library
    fails, the error contains its message.
    """
    log = logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(job.graph)):  # the parser finds the weights in the folder of this path
        raise ExportError(f"{job.key.kind} cannot read {job.graph.name}: {_parser_errors(parser)}")
    _check_matmuls(trt, network, job)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # without TF32, fp32 graphs multiply in float32
    config.progress_monitor = _monitor(trt, progress)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # now the engine can report its types
    for shapes in job.key.shapes:
        profile = builder.create_optimization_profile()
        for place in range(network.num_inputs):
            profile.set_shape(network.get_input(place).name, shapes.min, shapes.opt, shapes.max)
        config.add_optimization_profile(profile)
    if job.key.gpu is None and job.key.targets:  # without targets, TensorRT builds for the GPU of this machine
        config.num_compute_capabilities = len(job.key.targets)
        for place, target in enumerate(job.key.targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), place)
    if job.timings is not None:
        _share_timings(config, job.timings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        reason = "; ".join(log.errors[:3]) or "it does not say why"  # the first error is usually the cause
        raise ExportError(f"{job.key.kind} cannot build {job.graph.name}: {reason}")
    if job.timings is not None and (timed := config.get_timing_cache()) is not None:
        with output_file(job.timings) as file:
            file.write(bytes(timed.serialize()))
    return bytes(plan)


def _share_timings(config: Any, path: Path) -> None:
    """Use the timing cache of earlier builds. If it is damaged or from another GPU, use an empty one."""
    known = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if known is None or not config.set_timing_cache(known, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _monitor(trt: Any, progress: Callable[[str], None]) -> Any:
    """Make a progress monitor. It reports the main phases of a build, but not the phases inside them."""

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
    lines = [f"{first_line(Exception(e.desc()))} (node {e.node_name()!r}, {e.node_operator()})" for e in errors]
    return "; ".join(lines) or "it does not say why"


def _check_matmuls(trt: Any, network: Any, job: Job) -> None:
    """Raise ExportError if, for some type, the network and the graph have different numbers of matmuls."""
    onnx_names = {row.tensorrt: row.onnx for row in PRECISIONS.values()}
    found: dict[str, int] = {}
    for layer in (network.get_layer(place) for place in range(network.num_layers)):
        if layer.type == trt.LayerType.MATRIX_MULTIPLY:
            kind = layer.get_output(0).dtype.name
            kind = onnx_names.get(kind, kind)
            found[kind] = found.get(kind, 0) + 1
    if found != dict(job.matmuls):
        raise ExportError(
            f"{job.key.kind} would not compute {job.graph.name} in the types of the graph: the graph has the matmuls "
            f"{dict(job.matmuls)}, the network has {found}"
        )


def main() -> int:
    """Read a job from standard input and build it. Print phases on standard output, and errors on standard error."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))  # Linux kills it with its parent
    job = Job.from_json(sys.stdin.read())
    # On other systems, this process goes on if its parent is killed. The alarm ends it a second after its time limit.
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


if __name__ == "__main__":
    sys.exit(main())
