"""Nothing is reported to the makers of the libraries: no connection, and no file in the user's home."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from m2d_export import Bundle

# Python runs sitecustomize before anything else: from then on a connection is an error that ends the process.
RECORDER = """
import os, sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        os.write(2, f"{event} {arguments}".encode())
        os._exit(77)

sys.addaudithook(refuse)
"""
ENCODE = """
import sys
from m2d_export import Encoder
with Encoder(sys.argv[1], 1, runtime=sys.argv[2]) as encoder:
    encoder.encode(["the cat sat on the mat"] * 100)
"""
BUILD = """
import sys
from m2d_export import build
build(sys.argv[1], sys.argv[2], layers=[1])
"""
VARIABLES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "CI", "XDG_CACHE_HOME")


def ran(tmp_path: Path, program: str, *arguments: str, **environment: str) -> list[str]:
    """Run a program with a fresh home and without connections; returns the files that are in the home after it."""
    (tmp_path / "sitecustomize.py").write_text(RECORDER)
    home = tmp_path / "home"
    home.mkdir()
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    clean |= {"HOME": str(home), "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path[:1], os.getcwd()])}
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=120, env={**clean, **environment}
    )
    assert done.returncode == 0, done.stderr
    return [path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("runtime", "package"), [("onnxrt", "onnxruntime"), ("openvino", "openvino")])
def test_encoding_reports_nothing(runtime: str, package: str, bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip(package)
    started = time.monotonic()
    assert ran(tmp_path, ENCODE, str(bundle.root), runtime) == []
    assert time.monotonic() - started < 60


@pytest.mark.slow
def test_building_reports_nothing(checkpoint: Path, tmp_path: Path) -> None:
    assert ran(tmp_path, BUILD, str(checkpoint), str(tmp_path / "made.m2d")) == []


def test_what_a_user_sets_stays() -> None:
    program = "import os, m2d_export; assert os.environ['ORT_DISABLE_TELEMETRY'] == '0'"
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "ORT_DISABLE_TELEMETRY": "0"})


@pytest.mark.slow
def test_a_cpp_program_turns_it_off(bundle: Bundle, tmp_path: Path) -> None:
    deploy_cpp = [sys.executable, "-m", "m2d_export", "cpp", str(bundle.root), "--cell", "1x64", "--runtime", "onnxrt"]
    subprocess.run([*deploy_cpp, "-o", str(tmp_path / "cpp")], check=True, capture_output=True)
    sources = [path.read_text() for path in (tmp_path / "cpp").rglob("*.hpp")]
    assert any("DisableTelemetryEvents()" in source for source in sources)
