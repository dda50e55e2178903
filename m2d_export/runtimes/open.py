"""Open a runtime by its name; before that, check that this machine can run what is asked for."""

from pathlib import Path

from m2d_export.errors import SpecError
from m2d_export.host.extras import require
from m2d_export.host.machine import cores
from m2d_export.runtimes.runtime import Runtime, RuntimeOptions
from m2d_export.runtimes.table import RUNTIMES, gpu_for
from m2d_export.spec import Variant


def check_runtime(name: str, precision: str, compute: str) -> None:
    """Raise SpecError for an unknown runtime, precision or compute, RuntimeUnavailable where package or GPU is missing.

    RuntimeUnavailable also where the package is too old, or the processor cannot multiply in ``compute``.
    """
    if name not in RUNTIMES:
        raise SpecError(f"no runtime {name!r}: there are {', '.join(RUNTIMES)}")
    row = RUNTIMES[name]
    if precision not in row.precisions:
        others = ", ".join(other for other, able in RUNTIMES.items() if precision in able.precisions)
        hint = f"; {others} can" if others else ""
        raise SpecError(f"{name} does not run {precision}: it runs {', '.join(row.precisions)}{hint}")
    if compute not in (row.computes or (precision,)):
        computes = ", ".join(row.computes) or f"the type of its graph, here {precision}"
        raise SpecError(f"{name} does not compute in {compute!r}: it computes in {computes}")
    if row.device == "gpu":
        gpu_for(name)
    require(row.package, row.extra)
    row.load().check(RuntimeOptions(name, compute=compute))


def open_runtime(
    name: str, variant: Variant, threads: int | None = None, compute: str | None = None, cache: Path | None = None
) -> Runtime:
    """Open ``variant`` in the runtime called ``name`` on ``threads`` threads, None for every core.

    ``compute`` None is the runtime's default. ``cache`` is a folder where a runtime that compiles stores its code for
    the next process. Raises SpecError for an unknown name, precision, compute or count of threads, and where the bundle
    has no engine for the runtime; RuntimeUnavailable where package or GPU is missing.
    """
    if compute is None:
        compute = RUNTIMES[name].default_compute(variant.precision) if name in RUNTIMES else ""
    options = RuntimeOptions(name, cores() if threads is None else threads, compute, cache)
    check_runtime(name, variant.precision, compute)
    if cache is not None and not RUNTIMES[name].compiles:
        others = ", ".join(other for other, row in RUNTIMES.items() if row.compiles)
        raise SpecError(f"{name} compiles nothing, so it has no cache: leave out cache, or use {others}")
    return RUNTIMES[name].load()(variant, options)
