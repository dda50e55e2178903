"""Memory while a million short texts stream through a tiny encoder.

    python -m benchmarks.stream CHECKPOINT [--texts 1000000] -o benchmarks/results/stream.json

CHECKPOINT is any folder that ``m2d-export build`` takes; the shallowest exit is run.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from m2d_export import Bundle, Encoder, pipeline
from m2d_export.host.machine import machine

STEP = 100_000
WARM_UP = 3  # steps until buffers and the heap have their size
STATUS = Path("/proc/self/status")


def resident_mb() -> float:
    """Memory of this process at the moment, in MB."""
    line = next(line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024 / 1e6


def text(number: int) -> str:
    """A short text, like no other, of one of a few lengths."""
    return f"text {number} of many" + " and more" * (number % 4)


def streamed(bundle: Bundle, count: int) -> dict[str, object]:
    """Memory after every 100,000 texts, and its slope per 100,000 from the third time on."""
    memory, done, started, in_order = [], 0, time.perf_counter(), True
    with Encoder(bundle, bundle.grid.layers[0]) as encoder:
        for part in encoder.stream(map(text, range(count))):
            own = encoder.encode([text(done), text(done + len(part) - 1)])
            in_order = in_order and bool(np.allclose(part[[0, -1]], own, atol=1e-4))
            done += len(part)
            if done // STEP > len(memory):
                memory.append(resident_mb())
    seconds = time.perf_counter() - started
    settled = memory[WARM_UP - 1 :]
    slope = float(np.polyfit(np.arange(len(settled)), settled, 1)[0])
    return {"texts": done, "seconds": seconds, "memory_mb": memory, "slope_mb": slope, "in_order": in_order}


def main() -> None:
    """Build, stream, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.texts < (WARM_UP + 1) * STEP:
        parser.error(f"--texts is at least {(WARM_UP + 1) * STEP}: before that memory is still warming up")
    with tempfile.TemporaryDirectory() as folder:
        plan = pipeline.plan(arguments.checkpoint, Path(folder) / "bundle.m2d", layers=[1])
        result = streamed(pipeline.build(plan), arguments.texts)
    arguments.output.write_text(json.dumps({**result, "machine": machine()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
