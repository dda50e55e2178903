"""An engine read from a bundle, after every check that it may run on this machine: an engine is native code."""

import hashlib

from m2d_export.engines.child import FLAGS
from m2d_export.errors import IntegrityError, RuntimeUnavailable
from m2d_export.host.gpu import Gpu
from m2d_export.spec import Engine


def check_flags(engine: Engine) -> None:
    """Raise RuntimeUnavailable if ``engine`` was built with other builder settings than this version uses."""
    if engine.key.flags != FLAGS:
        raise RuntimeUnavailable(
            f"{engine.path.name} was built with the flags {', '.join(engine.key.flags) or 'none'}, but this version "
            f"builds with {', '.join(FLAGS)}: build it again"
        )


def read_engine(engine: Engine, version: str, gpu: Gpu) -> bytes:
    """The bytes of ``engine``, for the library of ``version`` on ``gpu``.

    Raises RuntimeUnavailable with both sides of a mismatch, IntegrityError if the file is not the manifest's.
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
        data = engine.path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{engine.path} cannot be read: {error.strerror}") from error
    if (found := hashlib.sha256(data).hexdigest()) != engine.sha256:
        raise IntegrityError(
            f"{engine.path} is not the engine that the manifest names: its sha256 is {found[:12]}, but the manifest "
            f"has {engine.sha256[:12]}. Build it again, or copy it again"
        )
    return data
