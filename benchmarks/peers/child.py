"""Processes in the environments of the systems: install, run a command, or keep a worker that answers requests."""

import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.peers.systems import OURS

HERE = Path(__file__).resolve().parent
VERSIONS = """
import json, sys
from importlib.metadata import version
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""


class CannotRunError(Exception):
    """A system cannot run here. The message is the reason, in one line."""


class LacksFlagError(CannotRunError):
    """The CPU lacks a flag that the system needs, which is no failure."""


def python_of(environment: str, work: Path) -> Path:
    """The Python of an environment, installed from its pinned requirements if they have changed."""
    if environment == OURS:
        return Path(sys.executable)
    wanted, folder = HERE / f"{environment}.txt", work / "venvs" / environment
    python, done = folder / "bin" / "python", folder / "requirements.txt"
    if not done.exists() or done.read_text(encoding="utf-8") != wanted.read_text(encoding="utf-8"):
        venv.create(folder, clear=True, with_pip=True)
        run([str(python), "-m", "pip", "install", "-q", "-r", str(wanted)], work / "logs" / f"{environment}.log")
        done.write_text(wanted.read_text(encoding="utf-8"), encoding="utf-8")
    return python


def versions(environment: str, work: Path) -> dict[str, str]:
    """The installed versions of the packages in an environment's requirements."""
    lines = (HERE / f"{environment}.txt").read_text(encoding="utf-8").splitlines()
    names = [re.split(r"[\[=]", line)[0] for line in lines if "==" in line]
    command = [python_of(environment, work), "-c", VERSIONS, *names]
    found: dict[str, str] = json.loads(subprocess.check_output(command, env=variables(environment, work, 1)))
    return found


def variables(environment: str, work: Path, threads: int) -> dict[str, str]:
    """Environment variables: the same threads for all and no Hub. A peer sees only its own packages."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if environment == OURS:
        own["PYTHONPATH"] = str(common.ROOT)
    counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
    return own | counts | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(work / "hf"), "TOKENIZERS_PARALLELISM": "true"}


def run(command: list[str], log: Path, variables: Mapping[str, str] | None = None) -> None:
    """Run a command to its end. Raises CannotRunError with the error in its output."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        code = subprocess.call(command, stdout=file, stderr=subprocess.STDOUT, env=variables)
    if code:
        raise CannotRunError(_error_in(log, code))


def _error_in(log: Path, code: int) -> str:
    """The last line of a log that names an error, or its last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b|ERROR", line)]
    return (errors or lines or [f"ended with code {code} and no output"])[-1]


class Child:
    """A worker process with its system loaded. It waits for requests."""

    def __init__(self, python: Path, settings: Mapping[str, Any], log: Path, variables: Mapping[str, str]) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        with log.open("w", encoding="utf-8") as file:
            # -P: the folder of worker.py is not searched for packages.
            self._process = subprocess.Popen(
                [python, "-P", HERE / "worker.py", json.dumps(dict(settings))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env=dict(variables),
            )
        try:
            self.computes: str = self._reply()["computes"]
        except CannotRunError:
            self.close()
            raise

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and return its reply. Raises CannotRunError."""
        assert self._process.stdin is not None  # noqa: S101 (for the type checker)
        try:
            print(json.dumps(request, default=str), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise CannotRunError(_error_in(self._log, self._process.wait())) from None
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101
        line = self._process.stdout.readline()
        if not line:
            raise CannotRunError(f"ended with code {self._process.wait()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise CannotRunError(reply["error"].splitlines()[0])
        return reply

    def close(self) -> None:
        """End the worker: it stops when its input ends."""
        self._process.communicate()
