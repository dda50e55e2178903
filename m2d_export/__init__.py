"""ONNX export and optimised inference for 2D-Matryoshka sentence encoders.

Importing this package loads neither torch, transformers nor any runtime; each public name loads what it needs when
it is first used, so that ``m2d-export --help`` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m2d_export.bundle.bundle import Bundle
    from m2d_export.encoder import Encoder
    from m2d_export.errors import M2DError
    from m2d_export.spec import Cell, Grid, Precision

__all__ = ["Bundle", "Cell", "Encoder", "Grid", "M2DError", "Precision"]
__version__ = "0.1.0"

_HOMES = {"Bundle": "bundle.bundle", "Encoder": "encoder", "M2DError": "errors"}  # all others live in spec


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'm2d_export' has no attribute {name!r}")
    return getattr(import_module(f"m2d_export.{_HOMES.get(name, 'spec')}"), name)
