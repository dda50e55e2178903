"""Every error that this package raises on purpose.

A message says what happened, what was expected, and how to fix it. ``exit_code`` is the exit code of the command line:
1 if a check failed, 2 if the use or the environment is wrong.
"""

import contextlib
from collections.abc import Callable, Iterator


class M2DError(Exception):
    """The base class of every error that this package raises on purpose."""

    exit_code = 2


class SpecError(M2DError, ValueError):
    """A layer, dim, precision or option does not exist or does not fit the others, or an object is closed already."""


class InputError(M2DError, ValueError):
    """A text cannot be encoded; ``index`` is its place in the input, or None if the whole input is wrong."""

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class NotFiniteError(InputError):
    """The vector of a text has NaN or infinity; ``index`` is the text's place in the input."""

    exit_code = 1


class DataError(M2DError):
    """A file of texts, pairs, documents or results cannot be used, or does not have the requested values."""


class CheckpointError(M2DError):
    """A checkpoint cannot be loaded, or needs something that is not supported."""


class TrainingError(M2DError):
    """A training cannot continue or be resumed."""

    exit_code = 1


class ExportError(M2DError):
    """An exported graph or engine is not as expected."""

    exit_code = 1


class ParityError(M2DError):
    """Vectors or token ids differ too much from the expected ones."""

    exit_code = 1


class BundleError(M2DError):
    """A path is not a bundle."""


class ManifestError(BundleError):
    """A manifest cannot be read, or must not be trusted."""

    exit_code = 1


class IntegrityError(BundleError):
    """A file of a bundle is not as the manifest says."""

    exit_code = 1


class OutputError(M2DError):
    """An output exists already, or cannot be written."""


class DiskFullError(OutputError):
    """The disk has too little room."""


class RuntimeUnavailable(M2DError):  # noqa: N818 - it names a state
    """A runtime, package or GPU is missing or does not work; the message names the extra that installs a package."""


def first_line(error: BaseException) -> str:
    """The first line of another library's error message, or the error's type if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextlib.contextmanager
def raised_as(error: Callable[[str], M2DError]) -> Iterator[None]:
    """Turn an exception of another library into an M2DError. ``error`` makes it from the exception's type and message.

    Only an M2DError, and an exception that ends a process or a generator, is raised unchanged. A panic of Rust is not
    an ``Exception``, but it is turned into an M2DError too.
    """
    try:
        yield
    except (M2DError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as found:
        raise error(f"{type(found).__name__}: {first_line(found)}") from found
