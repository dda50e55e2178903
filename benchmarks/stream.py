"""Does memory grow while a million short texts stream through a tiny encoder?

    python -m benchmarks.stream TINY -o benchmarks/results/stream.json

TINY is any folder that ``m2d-export build`` takes, such as a random BERT with 3 layers of width 64. Its shallowest exit
runs.
"""

import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import common
from m2d_export import Bundle, Encoder, build

STEP = 100_000
WARM_UP = 3  # steps until buffers and the heap have their size
STATUS = Path("/proc/self/status")


def resident_mb() -> float:
    """Memory of this process now, in MB."""
    line = next(line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024 / 1e6


def text(number: int) -> str:
    """A short text with one of a few lengths; no two are equal."""
    return f"text {number} of many" + " and more" * (number % 4)


def streamed(bundle: Bundle, count: int) -> dict[str, object]:
    """Memory after every 100,000 texts, and its slope per 100,000 texts after the warm-up."""
    memory: list[float] = []
    done, started, in_order = 0, time.perf_counter(), True
    with Encoder(bundle, bundle.grid.layers[0]) as encoder:
        for part in encoder.stream(map(text, range(count))):
            own = encoder.encode([text(done), text(done + len(part) - 1)])
            in_order = in_order and bool(np.allclose(part[[0, -1]], own, atol=1e-4))
            done += len(part)
            if done // STEP > len(memory):
                memory.append(resident_mb())
    seconds = time.perf_counter() - started
    warm = memory[WARM_UP - 1 :]
    slope = float(np.polyfit(np.arange(len(warm)), warm, 1)[0])
    return {"texts": done, "seconds": seconds, "memory_mb": memory, "slope_mb": slope, "in_order": in_order}


def main() -> None:
    """Build, stream, write."""
    parser = common.parser("stream", __doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--texts", type=int, default=1_000_000, help="how many texts")
    arguments = parser.parse_args()
    if arguments.texts < (WARM_UP + 1) * STEP:
        parser.error(f"--texts must be at least {(WARM_UP + 1) * STEP}, because memory is still warming up before that")
    with tempfile.TemporaryDirectory() as folder:
        bundle = build(arguments.checkpoint, Path(folder) / "bundle.m2d", layers=[1])
        results = streamed(bundle, arguments.texts)
    common.write_results(arguments, results)


if __name__ == "__main__":
    main()
