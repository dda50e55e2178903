"""ONNX export and optimised inference for 2D-Matryoshka sentence encoders.

``Bundle``, ``Encoder`` and ``build`` are loaded on first use. Importing this package loads neither torch nor
transformers nor any runtime, so ``m2d-export --help`` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from m2d_export.errors import (
    BundleError,
    CheckpointError,
    DataError,
    DiskFullError,
    ExportError,
    InputError,
    IntegrityError,
    M2DError,
    ManifestError,
    OutputError,
    ParityError,
    RuntimeUnavailable,
    SpecError,
    TrainingError,
)
from m2d_export.spec import Cell, Grid, Precision

if TYPE_CHECKING:
    from m2d_export.bundle.disk import Bundle
    from m2d_export.encoder import Encoder
    from m2d_export.pipeline import build

__all__ = ["Bundle", "Cell", "Encoder", "Grid", "Precision", "build"]
__all__ += ["BundleError", "CheckpointError", "DataError", "DiskFullError", "ExportError", "InputError"]
__all__ += ["IntegrityError", "M2DError", "ManifestError", "OutputError", "ParityError", "RuntimeUnavailable"]
__all__ += ["SpecError", "TrainingError"]
__version__ = "0.1.0"

_ON_FIRST_USE = {"Bundle": "bundle.disk", "Encoder": "encoder", "build": "pipeline"}


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module 'm2d_export' has no attribute {name!r}")
    return getattr(import_module(f"m2d_export.{_ON_FIRST_USE[name]}"), name)
