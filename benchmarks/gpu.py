"""Time an exit on a GPU: what PyTorch and sentence-transformers make of it in fp16, at equal depth, calls taking turns.

    python -m benchmarks.gpu CHECKPOINT -o benchmarks/results/gpu.json
    python -m benchmarks.gpu CHECKPOINT -o smoke.json --smoke    # on the CPU, in float32, a few shapes: does it run

Token ids come from a fixed seed and are never padded, so that all systems have the same work. A system that cannot be
set up here (flash attention that is not installed) is recorded with its reason. The share of the card's peak is of the
matrix products that the card is measured to do, not of its data sheet: 8 H^2 + 4 H I for the projections of a token
in each layer of width H and inner width I, and 4 S H for its attention over S tokens.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from m2d_export.checkpoint import Checkpoint, load_checkpoint
from m2d_export.errors import M2DError, RuntimeUnavailable, first_line
from m2d_export.exits import ExitEncoder, truncate
from m2d_export.gpu import first_gpu
from m2d_export.machine import machine

Call = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Setting:
    """Where and how much is measured: the GPU's grid, or a smoke test of the script."""

    device: str
    dtype: torch.dtype
    batch_sizes: tuple[int, ...]
    tokens: tuple[int, ...]
    rounds: int
    matrix: int
    compiler: str


GPU = Setting("cuda", torch.float16, (1, 8, 32, 128), (16, 32, 128, 256), 100, 8192, "inductor")
SMOKE = Setting("cpu", torch.float32, (1, 2), (8, 16), 3, 128, "eager")


def finish(device: str) -> None:
    """Wait until the device has done all it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def exit_of(checkpoint: Checkpoint, layer: int, setting: Setting) -> nn.Module:
    """The encoder cut to ``layer``, with the attention that transformers chooses (SDPA), in half."""
    return ExitEncoder(truncate(checkpoint, layer), [layer]).eval().to(setting.device, setting.dtype)


def eager(checkpoint: Checkpoint, layer: int, setting: Setting) -> Call:
    """PyTorch as it stands."""
    module = exit_of(checkpoint, layer, setting)
    return lambda ids, mask: module(ids, mask)[0]


def compiled(checkpoint: Checkpoint, layer: int, setting: Setting) -> Call:
    """torch.compile, each shape on its own."""
    module = torch.compile(exit_of(checkpoint, layer, setting), dynamic=False, backend=setting.compiler)
    return lambda ids, mask: module(ids, mask)[0]


def graphed(checkpoint: Checkpoint, layer: int, setting: Setting) -> Call:
    """PyTorch captured in one CUDA graph a shape: no launch from Python is left."""
    if setting.device != "cuda":
        raise RuntimeUnavailable("CUDA graphs need a GPU")
    module = exit_of(checkpoint, layer, setting)
    captured: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor]] = {}

    def call(ids: Tensor, mask: Tensor) -> Tensor:
        shape = tuple(ids.shape)
        if shape not in captured:
            own_ids, own_mask = ids.clone(), mask.clone()
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # what runs for the first time allocates, which a capture must not
                for _ in range(3):
                    module(own_ids, own_mask)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                output = module(own_ids, own_mask)[0]
            captured[shape] = graph, own_ids, own_mask, output
        graph, own_ids, own_mask, output = captured[shape]
        own_ids.copy_(ids)
        own_mask.copy_(mask)
        graph.replay()
        return output

    return call


def sentence_transformers(checkpoint: Checkpoint, layer: int, setting: Setting, **options: Any) -> Call:
    """sentence-transformers' own modules at the same depth, from token ids to vectors, before it normalises them."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        checkpoint.origin.name,
        device=setting.device,
        model_kwargs={"dtype": setting.dtype, **options},
        config_kwargs={"num_hidden_layers": layer},
    ).eval()
    modules = [module for module in model if type(module).__name__ != "Normalize"]

    def call(ids: Tensor, mask: Tensor) -> Tensor:
        features: Any = {"input_ids": ids, "attention_mask": mask}
        for module in modules:
            features = module(features)
        return features["sentence_embedding"]

    return call


def unpadded(checkpoint: Checkpoint, layer: int, setting: Setting) -> Call:
    """sentence-transformers with flash attention over the tokens alone."""
    return sentence_transformers(checkpoint, layer, setting, attn_implementation="flash_attention_2")


SYSTEMS: dict[str, Callable[[Checkpoint, int, Setting], Call]] = {
    "pytorch": eager,
    "pytorch, compiled": compiled,
    "pytorch, CUDA graph": graphed,
    "sentence-transformers": sentence_transformers,
    "sentence-transformers, flash attention": unpadded,
}


def peak_flops(setting: Setting) -> float:
    """Floating-point operations a second of the fastest of many large matrix products: the median of the best five."""
    left = torch.randn(setting.matrix, setting.matrix, device=setting.device, dtype=setting.dtype)
    seconds = []
    for _ in range(5 * setting.rounds if setting.device == "cuda" else setting.rounds):
        finish(setting.device)
        started = time.perf_counter()
        left @ left
        finish(setting.device)
        seconds.append(time.perf_counter() - started)
    return 2 * setting.matrix**3 / float(np.median(sorted(seconds)[:5]))


def flops(checkpoint: Checkpoint, layer: int, tokens: int) -> float:
    """Floating-point operations of the matrix products of one text."""
    config = checkpoint.encoder.config
    width = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or config.hidden_dim  # DistilBERT's word for it
    return layer * tokens * (8 * width**2 + 4 * width * inner + 4 * tokens * width)


def inputs(checkpoint: Checkpoint, batch_size: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Token ids without padding, the same for every system."""
    generator = torch.Generator().manual_seed(batch_size * 1000 + tokens)
    ids = torch.randint(5, checkpoint.encoder.config.vocab_size, (batch_size, tokens), generator=generator)
    return ids, torch.ones_like(ids)


def timed(calls: Sequence[Callable[[], Any]], setting: Setting) -> list[list[float]]:
    """Seconds of each call in each round, calls taking turns, after rounds that do not count."""
    seconds: list[list[float]] = [[] for _ in calls]
    for done in range(-3, setting.rounds):
        for call, measured in zip(calls, seconds, strict=True):
            finish(setting.device)
            started = time.perf_counter()
            call()
            finish(setting.device)
            if done >= 0:
                measured.append(time.perf_counter() - started)
    return seconds


def set_up(checkpoint: Checkpoint, layer: int, setting: Setting) -> tuple[dict[str, Call], dict[str, str]]:
    """The systems that run one batch here, and why each of the others does not."""
    ready, absent = {}, {}
    for name, make in SYSTEMS.items():
        try:
            call = make(checkpoint, layer, setting)
            call(*(tensor.to(setting.device) for tensor in inputs(checkpoint, 2, setting.tokens[0])))
            finish(setting.device)
            ready[name] = call
        except Exception as error:
            absent[name] = first_line(error)
    return ready, absent


def measured(checkpoint: Checkpoint, layer: int, setting: Setting) -> dict[str, Any]:
    """Every system over every shape, with how close its vectors are to the float32 reference on the CPU."""
    ready, absent = set_up(checkpoint, layer, setting)
    reference = ExitEncoder(checkpoint, [layer]).eval()
    peak, rows = peak_flops(setting), []
    for batch_size in setting.batch_sizes:
        for tokens in setting.tokens:
            ids, mask = inputs(checkpoint, batch_size, tokens)
            on_device = ids.to(setting.device), mask.to(setting.device)
            calls = {name: partial(call, *on_device) for name, call in ready.items()}
            seconds = timed(list(calls.values()), setting)
            few = [tensor[:2] for tensor in (ids, mask)]
            expected = reference(*few)[0]
            for (name, call), spent in zip(calls.items(), seconds, strict=True):
                vectors = call()[:2].float().cpu()
                p50, p99 = (float(np.percentile(spent, percent)) for percent in (50, 99))
                rows.append(
                    {
                        "system": name,
                        "batch_size": batch_size,
                        "tokens": tokens,
                        "seconds": spent,
                        "p50_ms": p50 * 1e3,
                        "p99_ms": p99 * 1e3,
                        "sentences_per_second": batch_size / p50,
                        "tokens_per_second": batch_size * tokens / p50,
                        "share_of_peak": batch_size * flops(checkpoint, layer, tokens) / p50 / peak,
                        "cosine_min": float(nn.functional.cosine_similarity(vectors, expected).min()),
                    }
                )
            best = min(rows[-len(ready) :], key=lambda row: row["p50_ms"])
            print(f"{batch_size:4} x {tokens:4}: fastest is {best['system']}, {best['p50_ms']:.3f} ms")
    return {"layer": layer, "peak_flops": peak, "absent": absent, "rows": rows}


def card(setting: Setting) -> dict[str, str]:
    """The card and its driver, as the driver tells them."""
    if setting.device == "cpu":
        return {"name": "none: a smoke test on the CPU"}
    found = first_gpu("benchmarks/gpu.py", "try it with --smoke on the CPU")
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    return {"name": found.name, "capability": found.capability, "driver": driver, "cuda": str(torch.version.cuda)}


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--layer", type=int, help="exit layer, by default the deepest")
    parser.add_argument("--smoke", action="store_true", help="on the CPU, in float32, a few shapes")
    arguments = parser.parse_args()
    setting = SMOKE if arguments.smoke else GPU
    try:
        found = card(setting)
        checkpoint = load_checkpoint(arguments.checkpoint)
        layer = arguments.layer or checkpoint.depth
        longest = tuple(count for count in setting.tokens if count <= checkpoint.text.max_tokens)
        with torch.inference_mode():
            result = measured(checkpoint, layer, replace(setting, tokens=longest))
    except M2DError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    command = f"python -m benchmarks.gpu {Path(arguments.checkpoint).name}" + " --smoke" * arguments.smoke
    whole = {"command": command, "card": found, "dtype": str(setting.dtype), **result, "machine": machine()}
    arguments.output.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    for name, reason in result["absent"].items():
        print(f"not here: {name} ({reason})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
