"""Find TensorRT and TensorRT for RTX, ask what they can do, and read their engines from a bundle."""

import hashlib
from collections.abc import Sequence
from typing import Any

from m2d_export.errors import IntegrityError, RuntimeUnavailable, SpecError
from m2d_export.host.checked import open_regular
from m2d_export.host.extras import require
from m2d_export.host.gpu import Gpu
from m2d_export.spec import Engine

# The Python module for each kind of engine. The extra has the name of the kind.
LIBRARIES = {"trt": "tensorrt", "trt-rtx": "tensorrt_rtx_bindings"}
OLDEST = {"trt": (10, 12), "trt-rtx": (1, 7)}
FLAGS = ("strongly-typed", "no-tf32", "detailed")  # child.engine_from_graph builds with these settings


def library(kind: str) -> Any:
    """Import the module that builds and runs engines of ``kind``.

    Raises SpecError for an unknown kind, and RuntimeUnavailable if the module is missing or too old.
    """
    if kind not in LIBRARIES:
        raise SpecError(f"no engines called {kind!r}: there are {', '.join(LIBRARIES)}")
    module = require(LIBRARIES[kind], kind)
    found = tuple(int(part) for part in module.__version__.split(".")[:2])
    if found < OLDEST[kind]:
        needed = ".".join(map(str, OLDEST[kind]))
        raise RuntimeUnavailable(
            f"{kind} {module.__version__} is too old: {needed} is the first version with the strongly typed networks "
            f"that this package builds. Install it with: pip install -U 'm2d-export[{kind}]'"
        )
    return module


def check_targets(trt: Any, targets: Sequence[str]) -> tuple[str, ...]:
    """Put ``targets``, such as sm86, in the library's order. Raises SpecError if the library does not know a target."""
    known = [name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    for target in targets:
        if target not in known:
            raise SpecError(f"no compute capability {target!r} in trt-rtx {trt.__version__}: it has {', '.join(known)}")
    return tuple(name for name in known if name in targets)


def logger(trt: Any) -> Any:
    """Make a logger for the library. It stores error messages in ``errors`` and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Log()


def check_flags(engine: Engine) -> None:
    """Raise RuntimeUnavailable if the flags that ``engine`` was built with differ from ``FLAGS``."""
    if engine.key.flags != FLAGS:
        raise RuntimeUnavailable(
            f"{engine.path.name} was built with the flags {', '.join(engine.key.flags) or 'none'}, but this version "
            f"builds with {', '.join(FLAGS)}: build it again"
        )


def read_engine(engine: Engine, version: str, gpu: Gpu) -> bytes:
    """Read the bytes of ``engine``, to run it with ``version`` of the library on ``gpu``.

    Raises RuntimeUnavailable if the engine was built for another version or GPU, or with other flags. The message has
    both values. Raises IntegrityError if the sha256 of the file differs from the sha256 in the manifest.
    """
    key = engine.key
    check_flags(engine)
    sides = [("library", key.version, version)]
    if key.gpu is not None:
        sides.append(("GPU", key.gpu, gpu.name))
    for what, built, here in sides:
        if built != here:
            raise RuntimeUnavailable(
                f"{engine.path.name} was built for {what} {built}, but this machine has {here}: build it again"
            )
    if key.targets and gpu.capability not in key.targets:
        how = f" with --gpu {gpu.capability}" if key.gpu is None else ""
        raise RuntimeUnavailable(
            f"{engine.path.name} was built for {', '.join(key.targets)}, but this machine has {gpu.name} "
            f"({gpu.capability}): build it again{how}"
        )
    try:
        with open_regular(engine.path) as file:
            data = file.read()
    except OSError as error:
        raise IntegrityError(f"{engine.path} cannot be read: {error.strerror}") from error
    if (found := hashlib.sha256(data).hexdigest()) != engine.sha256:
        raise IntegrityError(
            f"{engine.path} is not the engine that the manifest names: the file's sha256 is {found[:12]}, but the "
            f"manifest has {engine.sha256[:12]}. Build the engine again, or copy it again"
        )
    return data
