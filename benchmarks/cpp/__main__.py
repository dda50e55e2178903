"""What `m2d-export cpp` writes beside `Encoder` in Python: the same cell, runtime, threads and texts, taking turns.

    M2D_STSB=path/to/stsb python -m benchmarks.cpp minilm.m2d -o benchmarks/results/cpp.json

At full depth and width in OpenVINO, and in ONNX Runtime where $ONNXRUNTIME_ROOT is the folder of a release, in fp32
and int8 as the bundle has them: all sentences of STS-B test in one call, and some of them one at a time, in five
rounds, each begun by the other one.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import openvino

from m2d_export import Bundle, Encoder
from m2d_export.bench.sts import load_pairs
from m2d_export.deploy.cpp.project import write_project
from m2d_export.host.machine import cores, machine

HERE = Path(__file__).resolve().parent
ROUNDS, EVERY = 5, 20  # every so many texts are encoded alone
IN_PYTHON = {"openvino": "openvino", "onnxruntime": "onnxrt"}  # the runtimes, as C++ and as Encoder call them


def runtimes() -> dict[str, str]:
    """The runtimes that C++ can be compiled for here, each with what CMake is told of it."""
    found = {"openvino": f"-DOpenVINO_DIR={Path(openvino.__file__).parent / 'cmake'}"}
    if root := os.environ.get("ONNXRUNTIME_ROOT"):
        found["onnxruntime"] = f"-DONNXRUNTIME_ROOT={root}"
    else:
        print("not ONNX Runtime: $ONNXRUNTIME_ROOT names no release of it", flush=True)
    return found


def compiled(project: Path, build: Path, setting: str) -> Path:
    """The C++ program of an exported project."""
    for command in (
        ["cmake", "-S", HERE, "-B", build, f"-DEXPORTED={project}", setting],
        ["cmake", "--build", build],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return build / "times"


class Worker:
    """The C++ program, loaded, which answers when it is asked."""

    def __init__(self, program: Path, project: Path, texts: Path, threads: int) -> None:
        command = [program, project / "model", texts, str(EVERY), str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line()

    def ask(self, what: str) -> list[float]:
        """Seconds of a call with all texts, or of one call for some of them each."""
        assert self._process.stdin is not None  # noqa: S101 (for the type checker)
        print(what, file=self._process.stdin, flush=True)
        return [float(part) for part in self._line().split()]

    def _line(self) -> str:
        assert self._process.stdout is not None  # noqa: S101
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the C++ program ended with code {self._process.wait()}")
        return line

    def close(self) -> None:
        """End it: it stops when its input does."""
        self._process.communicate()


def timed(encoder: Encoder, calls: Sequence[Sequence[str]]) -> list[float]:
    """Seconds of each call."""
    seconds = []
    for texts in calls:
        started = time.perf_counter()
        encoder.encode(texts)
        seconds.append(time.perf_counter() - started)
    return seconds


def compared(
    bundle: Bundle, runtime: str, setting: str, precision: str, texts: Sequence[str], folder: Path
) -> dict[str, Any]:
    """Rounds of both, in turns; medians of them."""
    threads, cell = cores(), bundle.grid.full
    project = write_project(bundle, cell, folder / "project", runtime=runtime, precision=precision)
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    spent: dict[str, list[float]] = {f"{who}_{what}": [] for who in ("cpp", "python") for what in ("bulk", "single")}
    worker = Worker(compiled(project, folder / "build", setting), project, folder / "texts.txt", threads)
    with Encoder(bundle, cell.layer, runtime=IN_PYTHON[runtime], precision=precision, threads=threads) as encoder:
        turns = {
            "cpp_bulk": lambda: worker.ask("bulk"),
            "python_bulk": lambda: timed(encoder, [texts]),
            "cpp_single": lambda: worker.ask("single"),
            "python_single": lambda: timed(encoder, [[text] for text in texts[::EVERY]]),
        }
        for number in range(ROUNDS + 1):  # the first one is not counted
            for name in list(turns)[:: -1 if number % 2 else 1]:
                middle_of_turn = median(turns[name]())
                if number:
                    spent[name].append(middle_of_turn)
    worker.close()
    middle = {name: median(seconds) for name, seconds in spent.items()}
    return {
        "per_second": {who: len(texts) / middle[f"{who}_bulk"] for who in ("cpp", "python")},
        "single_p50_ms": {who: 1000 * middle[f"{who}_single"] for who in ("cpp", "python")},
        "bulk_over_python": middle["python_bulk"] / middle["cpp_bulk"],
        "single_over_python": middle["cpp_single"] / middle["python_single"],
        "seconds": spent,
    }


def main() -> None:
    """Build, compare, write."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.cpp", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    stsb = os.environ.get("M2D_STSB")
    if not stsb:
        parser.error("set M2D_STSB to a folder with STS-B's test.csv")
    bundle, texts = Bundle.open(arguments.bundle), list(load_pairs(str(Path(stsb) / "test.csv")).texts)
    precisions = sorted({entry.precision for entry in bundle.manifest.variants} & {"fp32", "int8"})
    rows: dict[str, dict[str, Any]] = {}
    for (runtime, setting), precision in product(runtimes().items(), precisions):
        with tempfile.TemporaryDirectory() as folder:
            row = compared(bundle, runtime, setting, precision, texts, Path(folder))
        rows.setdefault(runtime, {})[precision] = row
        print(runtime, precision, json.dumps({key: row[key] for key in list(row)[:-1]}), flush=True)
    result = {"rounds": ROUNDS, "texts": len(texts), "threads": cores(), "bundle": bundle.id}
    arguments.output.write_text(
        json.dumps(result | {"runtimes": rows, "machine": machine()}, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
