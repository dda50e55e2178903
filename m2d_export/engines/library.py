"""TensorRT and TensorRT for RTX: found, and asked what they can do."""

from collections.abc import Sequence
from typing import Any

from m2d_export.errors import RuntimeUnavailable, SpecError
from m2d_export.host.extras import require

LIBRARIES = {"trt": "tensorrt", "trt-rtx": "tensorrt_rtx_bindings"}  # by kind, which is also the extra
OLDEST = {"trt": (10, 12), "trt-rtx": (1, 7)}


def library(kind: str) -> Any:
    """The module that builds and runs engines of ``kind``.

    Raises SpecError for an unknown kind; RuntimeUnavailable, naming the extra or the version that is needed.
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
    """``targets``, such as sm86, in the library's order; raises SpecError listing the capabilities that it knows."""
    known = [name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    for target in targets:
        if target not in known:
            raise SpecError(f"no compute capability {target!r} in trt-rtx {trt.__version__}: it has {', '.join(known)}")
    return tuple(name for name in known if name in targets)


def logger(trt: Any) -> Any:
    """A logger for the library: it keeps error messages in ``errors`` and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Log()
