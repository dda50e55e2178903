"""Import optional packages when they are needed; if one is missing, the error names the extra that installs it."""

import importlib
from types import ModuleType

from m2d_export.errors import RuntimeUnavailable


def require(package: str, extra: str) -> ModuleType:
    """Import ``package``. If this fails, raise RuntimeUnavailable with the name of the ``extra`` that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        root = package.partition(".")[0]
        missing = error.name is not None and error.name.partition(".")[0] == root
        problem = f"{root} is not installed" if missing else f"{root} cannot be imported ({error})"
        raise RuntimeUnavailable(f"{problem}. Install it with: pip install 'm2d-export[{extra}]'") from error
