"""How fast is the C++ encoder, compared with ``Encoder`` in Python on the same runtime?

    M2D_STSB=DIR python -m benchmarks.cpp minilm.m2d -o benchmarks/results/cpp.json

Both encode at full depth and width, in fp32 and in int8, on as many threads: all sentences of STS-B test in one call,
then some of them one at a time. OpenVINO is measured, and ONNX Runtime if $ONNXRUNTIME_ROOT names the folder of a
release.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import openvino

from benchmarks import common
from m2d_export import Bundle, Encoder
from m2d_export.deploy.cpp.project import write_project
from m2d_export.host.machine import cores

HERE = Path(__file__).resolve().parent
EVERY = 20  # of so many texts, one is encoded by itself


def runtimes() -> dict[str, str]:
    """The runtimes that C++ can be compiled for here, each with its option for CMake."""
    found = {"openvino": f"-DOpenVINO_DIR={Path(openvino.__file__).parent / 'cmake'}"}
    if root := os.environ.get("ONNXRUNTIME_ROOT"):
        found["onnxrt"] = f"-DONNXRUNTIME_ROOT={root}"
    else:
        print("ONNX Runtime is not measured: $ONNXRUNTIME_ROOT does not name a release", flush=True)
    return found


def compiled(project: Path, build: Path, option: str) -> Path:
    """The timing program (times.cpp), compiled with an exported project."""
    for command in (
        ["cmake", "-S", HERE, "-B", build, f"-DEXPORTED={project}", option],
        ["cmake", "--build", build],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return build / "times"


class Worker:
    """The timing program with its model loaded. It waits for requests."""

    def __init__(self, program: Path, project: Path, texts: Path, threads: int) -> None:
        command = [program, project / "model", texts, str(EVERY), str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line()

    def seconds(self, workload: str) -> list[float]:
        """Seconds of each call of a workload: "bulk" or "single"."""
        assert self._process.stdin is not None  # noqa: S101 (for the type checker)
        print(workload, file=self._process.stdin, flush=True)
        return [float(part) for part in self._line().split()]

    def _line(self) -> str:
        assert self._process.stdout is not None  # noqa: S101
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the C++ program ended with code {self._process.wait()}")
        return line

    def close(self) -> None:
        """End the program: it stops when its input ends."""
        self._process.communicate()


def compared(
    bundle: Bundle, runtime: str, option: str, precision: str, texts: Sequence[str], folder: Path, rounds: int
) -> dict[str, Any]:
    """Seconds of both in every round, and their medians."""
    threads, cell = cores(), bundle.grid.full
    project = write_project(bundle, cell, folder / "project", runtime=runtime, precision=precision)
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    worker = Worker(compiled(project, folder / "build", option), project, folder / "texts.txt", threads)
    with Encoder(bundle, cell.layer, runtime=runtime, precision=precision, threads=threads) as encoder:
        singles = [common.timed(lambda text=text: encoder.encode([text])) for text in texts[::EVERY]]
        turns: dict[str, Callable[[], float]] = {
            "cpp_bulk": lambda: worker.seconds("bulk")[0],
            "python_bulk": common.timed(lambda: encoder.encode(texts)),
            "cpp_single": lambda: median(worker.seconds("single")),
            "python_single": lambda: median(single() for single in singles),
        }
        seconds = common.take_turns(turns, rounds)
    worker.close()
    middle = {name: median(spent) for name, spent in seconds.items()}
    return {
        "per_second": {who: len(texts) / middle[f"{who}_bulk"] for who in ("cpp", "python")},
        "single_p50_ms": {who: 1000 * middle[f"{who}_single"] for who in ("cpp", "python")},
        "bulk_over_python": middle["python_bulk"] / middle["cpp_bulk"],
        "single_over_python": middle["cpp_single"] / middle["python_single"],
        "seconds": seconds,
    }


def main() -> None:
    """Compile, measure, write."""
    parser = common.parser("cpp", __doc__, rounds=5)
    parser.add_argument("bundle", type=Path)
    arguments = parser.parse_args()
    bundle, texts = Bundle.open(arguments.bundle), list(common.stsb_test(parser).texts)
    rows: dict[str, dict[str, Any]] = {}
    for (runtime, option), precision in product(runtimes().items(), common.fp32_and_int8(bundle)):
        with tempfile.TemporaryDirectory() as folder:
            row = compared(bundle, runtime, option, precision, texts, Path(folder), arguments.rounds)
        rows.setdefault(runtime, {})[precision] = row
        print(runtime, precision, json.dumps({key: row[key] for key in row if key != "seconds"}), flush=True)
    results = {"rounds": arguments.rounds, "texts": len(texts), "threads": cores(), "bundle": bundle.id}
    common.write_results(arguments, results | {"runtimes": rows})


if __name__ == "__main__":
    main()
