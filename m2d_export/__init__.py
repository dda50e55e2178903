"""ONNX export and optimised inference for 2D-Matryoshka sentence encoders.

``Bundle``, ``Encoder`` and ``build`` are loaded on first use. Importing this package loads neither torch nor
transformers nor any runtime, so ``m2d-export --help`` stays fast.
"""

import os
import sys
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
    NotFiniteError,
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

# ONNX Runtime, the Hugging Face Hub and OpenVINO report their use to their makers, unless they find one of these
# when they are imported. What a user has set or imported before stays.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__all__ = ["Bundle", "Cell", "Encoder", "Grid", "Precision", "build"]
__all__ += ["BundleError", "CheckpointError", "DataError", "DiskFullError", "ExportError", "InputError"]
__all__ += ["IntegrityError", "M2DError", "ManifestError", "NotFiniteError", "OutputError", "ParityError"]
__all__ += ["RuntimeUnavailable", "SpecError", "TrainingError"]
__version__ = "0.1.0"

_ON_FIRST_USE = {"Bundle": "bundle.disk", "Encoder": "encoder", "build": "pipeline"}


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module 'm2d_export' has no attribute {name!r}")
    return getattr(import_module(f"m2d_export.{_ON_FIRST_USE[name]}"), name)
