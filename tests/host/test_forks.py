"""Processes made by ``os.fork``: nothing hangs, in a call or at the end of the process."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from m2d_export import Bundle
from m2d_export.runtimes.table import RUNTIMES

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
# Each child does one thing and then ends as a program does, with all destructors. A child that hangs is killed.
PROGRAM = """
import json, os, sys, threading, time
from m2d_export import Bundle, Encoder, encoder as module

runtime, path, checkpoint, *cases = sys.argv[1:]
module.WINDOW = 250
bundle = Bundle.open(path, checkpoint)
texts = ["the cat sat on the mat " * (1 + place % 5) for place in range(300)]

def opened():
    return Encoder(bundle, 1, runtime=runtime, threads=2)

def in_child(work):
    source, target = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(target, str(work()).encode())
        except Exception as error:
            os.write(target, f"{type(error).__name__}: {error}".encode())
        sys.exit(0)
    os.close(target)
    deadline = time.monotonic() + 20
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return "hangs"
        time.sleep(0.01)
    with open(source) as file:
        return file.read()

def shape_of_new():
    with opened() as new:
        return new.encode(texts).shape

found = {}

def child(what, work):
    if what in cases:
        found[what] = in_child(work)

child("new in a clean parent", shape_of_new)
with opened() as first:
    first.encode(texts)
child("closed before", lambda: "ends")
encoder = opened()
encoder.encode(texts)
stream = encoder.stream(texts)
next(stream)
child("unused", lambda: "ends")
child("close", encoder.close)
child("encode", lambda: encoder.encode(texts))
child("one text", lambda: encoder.encode(texts[:1]))
child("stream", lambda: next(stream))
child("tune", lambda: encoder.tune(texts))
child("new", shape_of_new)
child("grandchild", lambda: in_child(lambda: encoder.encode(texts)))
stop = threading.Event()

def work():
    while not stop.is_set():
        encoder.encode(texts)

thread = threading.Thread(target=work)
thread.start()
time.sleep(0.05)
child("encode during a call", lambda: encoder.encode(texts))
child("new during a call", shape_of_new)
stop.set()
thread.join()
encoder.encode(texts)  # the parent goes on
stream.close()
encoder.close()  # else OpenVINO may crash when the interpreter ends, after everything else
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def children(bundle: Bundle, checkpoint: Path) -> Any:
    """What each child says, by the runtime."""

    def children(runtime: str, cases: Sequence[str], **environment: str) -> dict[str, str]:
        command = [sys.executable, "-c", PROGRAM, runtime, str(bundle.root), str(checkpoint), *cases]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=240, env={**os.environ, **environment}
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        return found

    return children


ENDS = {"closed before": "ends", "unused": "ends", "close": "None"}
OF_PARENT = ("encode", "one text", "stream", "tune", "grandchild", "encode during a call")
NEW = ("new", "new during a call")
SHAPE = "(300, 64)"


@pytest.mark.parametrize("runtime", ["onnxrt", "openvino", pytest.param("pytorch", marks=pytest.mark.slow)])
def test_an_encoder_of_the_parent_is_an_error_in_a_child_and_no_child_hangs(runtime: str, children: Any) -> None:
    row = RUNTIMES[runtime]
    pytest.importorskip(row.package)
    cases = ("encode", "new") if runtime == "pytorch" else ("new in a clean parent", *ENDS, *OF_PARENT, *NEW)
    found = children(runtime, cases, TOKENIZERS_PARALLELISM="true")  # a user who sets it must not wait for ever either
    assert [what for what, said in found.items() if said == "hangs"] == []
    for what, said in found.items():
        if what in OF_PARENT or (what in NEW and not row.survives_fork):
            assert said.partition(":")[0] == "RuntimeUnavailable", what
            assert "os.fork" in said, what
        else:
            assert said == ENDS.get(what, SHAPE), what


POOL = """
import multiprocessing, sys
from m2d_export import Encoder

def encode(text):
    return encoder.encode([text]).shape

if __name__ == "__main__":
    encoder = Encoder(sys.argv[1], 1)
    encoder.encode(["the cat sat on the mat"] * 300)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(encode, ["a cat", "a dog"])
"""


def test_a_pool_of_forked_processes_passes_the_error_on(bundle: Bundle) -> None:
    done = subprocess.run(
        [sys.executable, "-c", POOL, str(bundle.root)], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "RuntimeUnavailable" in done.stderr.splitlines()[-1]
