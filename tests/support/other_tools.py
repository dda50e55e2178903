"""Tools that load what is shipped, for the tests: releases that benchmarks/peers pins, on the packages of this Python.

They want older releases than this package builds with, so each has an environment of its own. What is the same in
both, torch above all, is taken from here. Environments are kept in $M2D_PEERS, by default in the cache of the user.
"""

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).parents[2] / "benchmarks" / "peers"


def python_of(environment: str) -> Path:
    """The Python of an environment, set up where that is not done; skips where it cannot be had."""
    place = Path(os.environ.get("M2D_PEERS") or Path.home() / ".cache" / "m2d-export" / "peers")
    folder, wanted = place / environment, REQUIREMENTS / f"{environment}.txt"
    python, done, packages = folder / "bin" / "python", folder / "done", sysconfig.get_path("purelib")
    made_of = f"{packages}\n{wanted.read_text(encoding='utf-8')}"
    try:
        if not done.exists() or done.read_text(encoding="utf-8") != made_of:
            venv.create(folder, clear=True, with_pip=True)
            (own,) = folder.glob("lib/python*/site-packages")
            (own / "shared.pth").write_text(f"{packages}\n", encoding="utf-8")
            install = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", "-r", wanted]
            subprocess.run(install, check=True, capture_output=True)
            done.write_text(made_of, encoding="utf-8")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"{environment} cannot be had: {getattr(error, 'stderr', b'') or error}")
    return python
