"""What `m2d-export cpp` writes beside `Encoder` in Python: the same cell, runtime, threads and texts, taking turns.

    M2D_STSB=path/to/stsb python -m benchmarks.cpp minilm.m2d -o benchmarks/results/cpp.json

At full depth and width in OpenVINO, in every precision of the bundle: all sentences of STS-B test in one call, and some
of them one at a time, in five rounds.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import openvino

from m2d_export import Bundle, Encoder
from m2d_export.bench.sts import load_pairs
from m2d_export.cpp.project import write_project
from m2d_export.machine import cores, machine

HERE = Path(__file__).resolve().parent
ROUNDS, EVERY = 5, 20  # every so many texts are encoded alone


def compiled(project: Path, build: Path) -> Path:
    """The C++ program of an exported project."""
    cmake = Path(openvino.__file__).parent / "cmake"
    for command in (
        ["cmake", "-S", HERE, "-B", build, f"-DEXPORTED={project}", f"-DOpenVINO_DIR={cmake}"],
        ["cmake", "--build", build],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return build / "times"


class Worker:
    """The C++ program, loaded, which answers when it is asked."""

    def __init__(self, program: Path, project: Path, texts: Path, threads: int) -> None:
        command = [program, project / "model", texts, str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line()

    def ask(self, what: str) -> list[float]:
        """Seconds of a call with all texts, or of one call for each."""
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


def compared(bundle: Bundle, precision: str, texts: Sequence[str], folder: Path) -> dict[str, Any]:
    """Rounds of both, in turns; medians of them."""
    singles, threads, cell = texts[::EVERY], cores(), bundle.grid.full
    project = write_project(bundle, cell, folder / "project", runtime="openvino", precision=precision)
    for name, lines in (("bulk", texts), ("single", singles)):
        (folder / f"{name}.txt").write_text("".join(f"{text}\n" for text in lines), encoding="utf-8")
    spent: dict[str, list[float]] = {f"{who}_{what}": [] for who in ("cpp", "python") for what in ("bulk", "single")}
    program = compiled(project, folder / "build")
    bulk = Worker(program, project, folder / "bulk.txt", threads)
    single = Worker(program, project, folder / "single.txt", threads)
    with Encoder(bundle, cell.layer, runtime="openvino", precision=precision, threads=threads) as encoder:
        for number in range(ROUNDS + 1):  # the first one is not counted
            turn = {
                "cpp_bulk": bulk.ask("bulk"),
                "python_bulk": timed(encoder, [texts]),
                "cpp_single": single.ask("single"),
                "python_single": timed(encoder, [[text] for text in singles]),
            }
            for name, seconds in turn.items() if number else ():
                spent[name].append(median(seconds))
    bulk.close()
    single.close()
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
    rows = {}
    for precision in sorted({entry.precision for entry in bundle.manifest.variants} & {"fp32", "int8"}):
        with tempfile.TemporaryDirectory() as folder:
            rows[precision] = compared(bundle, precision, texts, Path(folder))
        print(precision, json.dumps({key: rows[precision][key] for key in list(rows[precision])[:-1]}), flush=True)
    result = {"runtime": "openvino", "rounds": ROUNDS, "texts": len(texts), "threads": cores(), "bundle": bundle.id}
    arguments.output.write_text(
        json.dumps(result | {"precisions": rows, "machine": machine()}, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
