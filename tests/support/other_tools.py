"""Tools that load deployed cells, in the releases that benchmarks/peers pins.

They need older packages than this project builds with, so each has an environment of its own. Packages that both can
use, such as torch, come from this Python. Environments are stored in $M2D_PEERS, by default in the user's cache.
"""

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).parents[2] / "benchmarks" / "peers"


def python_of(environment: str) -> Path:
    """The Python of an environment, which is set up first if needed; skips the test if it cannot be installed."""
    place = Path(os.environ.get("M2D_PEERS") or Path.home() / ".cache" / "m2d-export" / "peers")
    folder, wanted = place / environment, REQUIREMENTS / f"{environment}.txt"
    python, done, packages = folder / "bin" / "python", folder / "done", sysconfig.get_path("purelib")
    contents = f"{packages}\n{wanted.read_text(encoding='utf-8')}"
    try:
        if not done.exists() or done.read_text(encoding="utf-8") != contents:
            venv.create(folder, clear=True, with_pip=True)
            (own,) = folder.glob("lib/python*/site-packages")
            (own / "shared.pth").write_text(f"{packages}\n", encoding="utf-8")
            install = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", "-r", wanted]
            subprocess.run(install, check=True, capture_output=True)
            done.write_text(contents, encoding="utf-8")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"{environment} cannot be installed: {getattr(error, 'stderr', b'') or error}")
    return python
