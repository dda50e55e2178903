"""Every error this package raises on purpose.

    M2DError
    ├── SpecError            a layer, dim, precision or option outside what exists
    ├── InputError           a text that cannot be encoded (``index`` says which)
    ├── DataError            a pairs or text file that cannot be used
    ├── CheckpointError      a checkpoint that cannot be loaded, or asks for what cannot be honoured
    ├── TrainingError        a training that cannot go on, or cannot be resumed
    ├── ExportError          an exported graph that is not what it should be
    ├── ParityError          a variant that does not compute what its reference computes
    ├── BundleError          a bundle that is not there, or is not a bundle
    │   ├── ManifestError    a manifest that cannot be read or trusted
    │   └── IntegrityError   a file that is not the one the manifest names
    ├── OutputError          an output that exists already, or cannot be written
    │   └── DiskFullError    no room left while writing, or too little to begin
    └── RuntimeUnavailable   a runtime or an optional package that is not installed, or not working

Messages say what happened, what was expected, and how to fix it. ``exit_code`` is what the command line
returns: 1 where a gate failed, 2 for wrong use or a wrong environment.
"""


class M2DError(Exception):
    """Base of every error raised on purpose."""

    exit_code = 2


class SpecError(M2DError, ValueError):
    """A layer, dim, precision or option is outside what exists."""


class InputError(M2DError, ValueError):
    """A text cannot be encoded; ``index`` is its place in the input, or None for the input as a whole."""

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class DataError(M2DError):
    """A file of sentence pairs or texts cannot be used."""


class CheckpointError(M2DError):
    """A checkpoint cannot be loaded, or asks for something that cannot be honoured."""


class TrainingError(M2DError):
    """A training cannot go on, or cannot be resumed; says what was kept of it."""

    exit_code = 1


class ExportError(M2DError):
    """An exported graph is not what it should be."""

    exit_code = 1


class ParityError(M2DError):
    """A variant does not compute what its reference computes."""

    exit_code = 1


class BundleError(M2DError):
    """A path is not a bundle, or the bundle lacks what was asked of it."""


class ManifestError(BundleError):
    """A manifest cannot be read, or must not be trusted."""

    exit_code = 1


class IntegrityError(BundleError):
    """A file of a bundle is not the one its manifest names."""

    exit_code = 1


class OutputError(M2DError):
    """An output exists already, or cannot be written."""


class DiskFullError(OutputError):
    """There is no room left on the disk."""


class RuntimeUnavailable(M2DError):  # noqa: N818 - reads as a state, and is the name in the design
    """A runtime, or a package that a feature needs, is missing or does not work; names the extra to install."""


def first_line(error: BaseException) -> str:
    """The first line of what another library's error says, or its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
