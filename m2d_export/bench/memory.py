"""``python -m m2d_export.bench.memory`` encodes the texts of a job, and prints how much memory this needed."""

import json
import resource
import sys
from pathlib import Path

from m2d_export.bundle.disk import Bundle
from m2d_export.encoder import Encoder

STATUS = Path("/proc/self/status")


def main() -> None:
    """Read a job as JSON from standard input, encode its texts, and print the peak memory in MB and the provider."""
    job = json.load(sys.stdin)
    texts, bundle = job.pop("texts"), Bundle.open(job.pop("bundle"), job.pop("checkpoint"))
    with Encoder(bundle, job.pop("layer"), **job) as encoder:
        encoder.encode(texts)
        found = {"peak_mb": round(peak_bytes() / 1e6, 1), "provider": encoder.runtime.provider}
    sys.stdout.write(json.dumps(found))


def peak_bytes() -> int:
    """The largest resident memory that this process has had so far, in bytes."""
    if STATUS.exists():  # on Linux, ru_maxrss is wrong: a process starts with its parent's value
        peak = next(line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts it in bytes


if __name__ == "__main__":
    main()
