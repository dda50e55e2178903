"""``python -m m2d_export.bench.memory``: encode what standard input says, print this process's peak memory as JSON."""

import json
import resource
import sys
from pathlib import Path

from m2d_export.bundle.bundle import Bundle
from m2d_export.encoder import Encoder

STATUS = Path("/proc/self/status")


def main() -> None:
    """Read the job, do it, print."""
    job = json.load(sys.stdin)
    texts, bundle = job.pop("texts"), Bundle.open(job.pop("bundle"))
    with Encoder(bundle, job.pop("layer"), **job) as encoder:
        encoder.encode(texts)
        found = {"peak_mb": round(peak_bytes() / 1e6, 1), "provider": encoder.runtime.provider}
    sys.stdout.write(json.dumps(found))


def peak_bytes() -> int:
    """The most resident memory this process has had, in bytes."""
    if STATUS.exists():  # Linux hands ru_maxrss down to what a process starts: ours would be our parent's peak
        peak = next(line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


if __name__ == "__main__":
    main()
