"""Which runtime is fastest on a GPU, compared with PyTorch and sentence-transformers in fp16 at equal depth?

    python -m benchmarks.gpu -o benchmarks/results/gpu.json
    python -m benchmarks.gpu -o smoke.json --smoke      # a trial on the CPU: float32, few shapes

The encoders are all-MiniLM-L6-v2 (or ``--checkpoint``) and a DistilBERT with random weights: speed does not depend on
weights. Each system turns token ids on the host into float32 vectors on the host. First come batches without padding,
one for each batch size and length. Then come batches of mixed lengths, unsorted and sorted. In this second part,
sentence-transformers without padding is measured too, and systems that compile for each shape are left out. The file
names each system that was not measured, with the reason: it cannot be set up, it fails, or its vectors differ from the
reference. The share of the peak refers to the measured matmul rate of the card, not to its data sheet. A token of a
text of S tokens needs 8 H^2 + 4 H I operations for the projections of a layer of width H and inner width I, and 4 S H
for attention.
"""

import argparse
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

from benchmarks import common
from benchmarks.gpu.systems import OF_ONE_SHAPE, OURS, Call, Setting, Subject, random_distilbert, set_up
from benchmarks.gpu.work import finish, first_two, flops, inputs, mixed, peak_flops
from m2d_export.checkpoints.exits import ExitEncoder
from m2d_export.checkpoints.load import load_checkpoint
from m2d_export.errors import M2DError, ParityError, first_line
from m2d_export.host.gpu import first_gpu
from m2d_export.host.machine import versions
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
LEAST_COSINE = 0.99  # to the float32 reference; vectors in fp16 are much closer
WARM_UP = 3  # rounds
BASELINE_PACKAGES = ("sentence-transformers", "transformers", "flash-attn", "triton")
PEAK = "the measured peak"
# Each aim: compared with what, the ratio, and at which batch sizes and tokens. The aim for a share of the peak is for
# the encoder of DistilBERT's size: the matmuls of MiniLM are too narrow for it.
AIMS = (
    ("pytorch", 3.0, (1, 8), (16, 32)),
    ("pytorch, compiled", 1.5, (1, 8), (16, 32)),
    ("pytorch", 1.3, (32, 128), (128, 256)),
    (PEAK, 0.5, (32, 128), (128, 256)),
)


def measured(subject: Subject) -> Iterator[dict[str, Any]]:
    """Times of every system at every shape, then at mixed lengths. Yields all results so far after each of them."""
    checkpoint, setting = subject.checkpoint, subject.setting
    reference = ExitEncoder(checkpoint, [subject.layer]).eval()
    with ExitStack() as opened:
        ready, absent = set_up(subject, inputs(checkpoint, 2, setting.tokens[0]), opened)
        peak = peak_flops(setting)
        rows: list[dict[str, Any]] = []
        of_mixed: list[dict[str, Any]] = []
        result = {"layer": subject.layer, "peak_flops": peak, "absent": absent, "rows": rows, "mixed": of_mixed}
        for batch_size, tokens in product(setting.batch_sizes, setting.tokens):
            batches, where = [inputs(checkpoint, batch_size, tokens)], f"{batch_size} x {tokens}"
            cosines = checked(ready, absent, batches, reference, where)
            found = work_rows(subject, ready, batches, setting.rounds, peak, cosines)
            rows += [{"batch_size": batch_size, "tokens": tokens, **row} for row in found]
            print_fastest(where, found)
            yield result
        ready = {name: call for name, call in ready.items() if name not in OF_ONE_SHAPE}
        for order, batches in mixed(checkpoint, setting).items():
            cosines = checked(ready, absent, batches, reference, f"mixed lengths, {order}")
            found = work_rows(subject, ready, batches, max(3, setting.rounds // 5), peak, cosines)
            real = sum(int(batch.attention_mask.sum()) for batch in batches)
            filled = real / sum(batch.input_ids.size for batch in batches)
            of_mixed += [{"order": order, "filled": filled, **row} for row in found]
            print_fastest(f"mixed lengths, {order}", found)
            yield result


def checked(
    ready: dict[str, Call], absent: dict[str, str], batches: list[Batch], reference: ExitEncoder, where: str
) -> dict[str, float]:
    """The least cosine of each system to the float32 reference, over two texts of every batch.

    A system that fails, or whose vectors differ, is not timed: it moves from ``ready`` to ``absent``.
    """
    expected = np.concatenate([reference.vectors(first_two(batch))[0] for batch in batches])
    found = {}
    for name, call in list(ready.items()):
        try:
            least = float(cosine(np.concatenate([call(batch)[:2] for batch in batches]), expected).min())
            if not least >= LEAST_COSINE:  # NaN fails too
                raise ParityError(f"its vectors differ from the reference (cosine {least:.4f})")
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
    """The time of each system for all ``batches``. Rates count real tokens only."""
    wait = partial(finish, subject.setting.device)
    turns = {
        name: common.timed(lambda call=call: [call(batch) for batch in batches], wait) for name, call in ready.items()
    }
    lengths = np.concatenate([batch.attention_mask.sum(axis=1) for batch in batches])
    operations = sum(flops(subject.checkpoint, subject.layer, int(length)) for length in lengths)
    rows = []
    for name, spent in common.take_turns(turns, rounds, warm_up=WARM_UP).items():
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


def print_fastest(where: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print the fastest system, so that a long run shows its progress."""
    best = min(rows, key=lambda row: row["p50_ms"], default={"system": "none", "p50_ms": 0.0})
    print(f"{where}: fastest is {best['system']}, {best['p50_ms']:.3f} ms", flush=True)


def aims(rows: Sequence[dict[str, Any]], of_peak: bool) -> list[dict[str, Any]]:
    """How far our fastest system meets each aim: the ratio at each shape that was measured, and the least of them.

    ``of_peak`` includes the aim for a share of the peak.
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
    """The card and its driver."""
    if setting.device == "cpu":
        return {"name": "none: a smoke test on the CPU"}
    found = first_gpu("benchmarks.gpu", "try it with --smoke on the CPU")
    versions = {"driver": driver(), "cuda": str(torch.version.cuda)}
    return {"name": found.name, "capability": found.capability, **versions}


def driver() -> str:
    """The driver's version from nvidia-smi, or "unknown": containers may lack it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        lines = []
    return lines[0] if lines else "unknown"


def encoders(arguments: argparse.Namespace, setting: Setting, folder: Path) -> Iterator[dict[str, Any]]:
    """Results of the checkpoint, then of the random DistilBERT. Yields each of them again whenever it has more."""
    own = common.checkpoint_of(arguments)
    for path, weights in ((own, "real"), (random_distilbert(folder, own, setting.made_up), "random")):
        checkpoint = load_checkpoint(str(path))
        name = common.MINILM if path is own and arguments.checkpoint is None else path.name
        layer = min(arguments.layer or checkpoint.depth, checkpoint.depth)
        lengths = tuple(count for count in setting.tokens if count <= checkpoint.text.max_tokens)
        print(f"{name}, layer {layer}, {weights} weights")
        for result in measured(Subject(checkpoint, layer, replace(setting, tokens=lengths))):
            judged = aims(result["rows"], of_peak=weights == "random")
            yield {"encoder": name, "weights": weights, **result, "aims": judged}


def main() -> int:
    """Measure, write, print."""
    parser = common.parser("gpu", __doc__)
    common.add_checkpoint(parser)
    parser.add_argument("--layer", type=common.positive, help="exit layer; default: the deepest")
    parser.add_argument("--smoke", action="store_true", help="a trial on the CPU: float32, few shapes")
    arguments = parser.parse_args()
    setting = SMOKE if arguments.smoke else GPU
    results: dict[str, dict[str, Any]] = {}
    try:
        whole = {"card": card(setting), "precision": setting.precision, "rounds": setting.rounds}
        whole |= {"baselines": versions(BASELINE_PACKAGES)}
        with torch.inference_mode(), tempfile.TemporaryDirectory(prefix="m2d-gpu-") as folder:
            for result in encoders(arguments, setting, Path(folder)):
                results[result["weights"]] = result  # written at once, because a later system may fail
                common.write_results(arguments, whole | {"encoders": list(results.values())})
    except M2DError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    for result in results.values():
        for name, reason in result["absent"].items():
            print(f"not measured: {name} ({reason})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
