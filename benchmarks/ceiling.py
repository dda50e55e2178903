"""How near the machine's limit: useful operations a second of a whole ``encode``, over those of its products alone.

    M2D_STSB=path/to/stsb python -m benchmarks.ceiling minilm.m2d -o benchmarks/results/ceiling.json

For every runtime and precision of the bundle, taking turns: the sentences of STS-B test and paragraphs of ten of them,
from text to vector; and a graph of nothing but the matrix products of two layers, in the encoder's own shapes, at the
default token budget, in the parallel streams that a whole ``encode`` runs in; for int8 quantized by the same quantizer,
so with what scales and rounds the inputs of each product, as in the encoder. Useful operations are those of real
tokens: 24 H^2 + 4 n H for each token of each layer, in a text of n tokens
(a multiply-add is two; inner width 4 H). Beside it what else the time goes to: by token budget, by stage, and by kind
of operation as the runtime's own profiler has it.
"""

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import openvino

from m2d_export import Bundle, Encoder
from m2d_export.bench.sts import load_pairs
from m2d_export.graphs.int8 import int8_models
from m2d_export.host.machine import cores, flags, machine
from m2d_export.runtimes.onnxrt import SETTINGS
from m2d_export.runtimes.openvino import SHORT
from m2d_export.runtimes.tuning import budget_seconds
from m2d_export.spec import RUNTIMES, Precision
from m2d_export.text.batches import TOKEN_BUDGET, Batch, batches

ROUNDS, PARAGRAPH, LAYERS, CALLS = 5, 10, 2, 32
KINDS = 6  # of operations, that a profile names


def products(width: int, precision: str) -> bytes:
    """A model of the products of ``LAYERS`` layers, one after the other: x (tokens, width) to (tokens, width)."""
    generator = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    joined = precision == Precision.INT8  # query, key and value are one product in int8 graphs
    attention = [(width, 3 * width)] if joined else [(width, width)] * 3
    shapes = [*attention, (width, width), (width, 4 * width), (4 * width, width)] * LAYERS
    for place, (rows, columns) in enumerate(shapes):
        values = generator.standard_normal((rows, columns), dtype=np.float32) / np.float32(rows**0.5)
        weights.append(onnx.numpy_helper.from_array(values, f"w{place}"))
        nodes.append(onnx.helper.make_node("MatMul", [last, f"w{place}"], [f"y{place}"]))
        last = f"y{place}"
        if columns == 3 * width:  # the next one takes a third of it
            nodes.append(onnx.helper.make_node("Slice", [last, "start", "end", "axis"], [f"third{place}"]))
            last = f"third{place}"
    bounds = {"start": 0, "end": width, "axis": 1} if joined else {}
    weights += [onnx.numpy_helper.from_array(np.array([number]), name) for name, number in bounds.items()]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", width]) for name in ("x", last)]
    graph = onnx.helper.make_graph(nodes, "products", ends[:1], ends[1:], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    if precision == Precision.INT8:
        samples = [{"x": generator.standard_normal((64, width), dtype=np.float32)} for _ in range(8)]
        model = ir.serde.serialize_model(int8_models(ir.serde.deserialize_model(model), samples)[0])
    written: bytes = model.SerializeToString()
    return written


def session(model: bytes | str, profile: str | None) -> onnxruntime.InferenceSession:
    """A session as the runtime opens it for one of its streams; ``profile`` is where it writes how long it took."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for key, value in SETTINGS.items():
        options.add_session_config_entry(key, value)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def products_alone(width: int, runtime: str, precision: str, threads: int) -> tuple[Callable[[], Any], float]:
    """What multiplies, and how many operations that is."""
    model, x = products(width, precision), np.random.default_rng(1).standard_normal((TOKEN_BUDGET, width), dtype="f4")
    operations = 24.0 * width**2 * LAYERS * TOKEN_BUDGET * CALLS
    if runtime == "onnxrt":
        opened, pool = session(model, profile=None), ThreadPoolExecutor(threads)
        return lambda: list(pool.map(lambda _: opened.run(None, {"x": x}), range(CALLS))), operations
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, **SHORT}
    queue = openvino.AsyncInferQueue(core.compile_model(core.read_model(model), "CPU", settings), 2 * threads)

    def run() -> None:
        for _ in range(CALLS):
            queue.start_async({"x": x})
        queue.wait_all()

    return run, operations


def useful(bundle: Bundle, texts: list[str]) -> float:
    """Operations that ``texts`` need at full depth, padding not counted."""
    lengths = np.array([len(item.ids) for item in bundle.tokenizer.encode(texts)], dtype=float)
    width = bundle.grid.width
    return float(bundle.grid.depth * (24 * width**2 * lengths + 4 * width * lengths**2).sum())


def profiled(encoder: Encoder, path: Path, made: list[Batch]) -> dict[str, float]:
    """Shares of the time of a graph by kind of operation, by the runtime's own profiler; the smallest together."""
    spent: Counter[str] = Counter()
    if encoder.runtime.name == "onnxrt":
        with tempfile.TemporaryDirectory() as folder:
            opened = session(str(path), f"{folder}/profile")
            names = [value.name for value in opened.get_inputs()]
            for batch in made:
                opened.run(None, {name: getattr(batch, name) for name in names})
            for event in json.loads(Path(opened.end_profiling()).read_text(encoding="utf-8")):
                if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                    spent[event["args"]["op_name"]] += event["dur"]
    else:
        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": "YES", "INFERENCE_NUM_THREADS": 1, **SHORT}
        request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
        names = [value.get_any_name() for value in request.model_inputs]
        for batch in made:
            request.infer({name: getattr(batch, name) for name in names})
            for node in request.get_profiling_info():
                spent[node.node_type] += node.real_time.total_seconds()
    whole = sum(spent.values())
    shares = {kind: value / whole for kind, value in spent.most_common(KINDS)}
    return shares | {"others": 1 - sum(shares.values())}


def peak(precision: str) -> float | None:
    """Operations a second that the processor's vector units have room for; None where that is not known here."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    mhz = next((float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")), None)
    lanes = 16 if "avx512f" in flags() else 8 if "avx2" in flags() else None
    if mhz is None or lanes is None:
        return None
    zen4 = any(line.split(":")[1].strip() == "25" for line in lines if line.startswith("cpu family"))
    lanes = min(lanes, 8) if zen4 else lanes  # AMD's family 25 takes two turns for an instruction of 512 bits
    # In 32 bits: four int8 multiply-adds in one instruction with VNNI, in two without (multiply in pairs, then widen).
    each = 1 if precision == Precision.FP32 else 4 if flags() & {"avx512_vnni", "avx_vnni"} else 2
    return cores() * mhz * 1e6 * 2 * 2 * lanes * each  # two units, a multiply-add is two


def main() -> None:
    """Measure in turns, profile, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="the first sentences only: to try it out")
    arguments = parser.parse_args()
    folder = os.environ.get("M2D_STSB")
    if not folder:
        parser.error("set M2D_STSB to a folder with STS-B's test.csv")
    bundle, threads = Bundle.open(arguments.bundle), cores()
    pairs = load_pairs(str(Path(folder) / "test.csv"))
    short = [text for pair in zip(*pairs.sides(), strict=True) for text in pair][: arguments.limit]
    long = [" ".join(short[start : start + PARAGRAPH]) for start in range(0, len(short), PARAGRAPH)]
    built = {entry.precision for entry in bundle.manifest.variants}
    layer = bundle.grid.depth
    encoders = {
        (name, kind): Encoder(bundle, layer, runtime=name, precision=kind, threads=threads)
        for name in ("onnxrt", "openvino")
        for kind in RUNTIMES[name].precisions
        if kind in built and kind in (Precision.FP32, Precision.INT8)
    }
    calls: dict[tuple[tuple[str, str], str], tuple[Callable[[], Any], float]] = {}
    for way, encoder in encoders.items():
        calls[way, "products"] = products_alone(bundle.grid.width, *way, threads)
        for name, texts in {"short": short, "long": long}.items():
            calls[way, name] = (lambda encoder=encoder, texts=texts: encoder.encode(texts), useful(bundle, texts))
    seconds: dict[Any, list[float]] = {key: [] for key in calls}
    for number in range(ROUNDS + 1):
        print(f"round {number} of {ROUNDS}", flush=True)
        for key, (call, _) in calls.items():
            time.sleep(0.2)  # threads of the last one come to rest
            started = time.perf_counter()
            call()
            if number:
                seconds[key].append(time.perf_counter() - started)
    started = time.perf_counter()
    tokens = bundle.tokenizer.encode(short)
    tokenized = time.perf_counter()
    made = list(batches(tokens, bundle.manifest.text))
    tokenizing, batching = tokenized - started, time.perf_counter() - tokenized
    rows = []
    for way, encoder in encoders.items():
        rate = {name: calls[way, name][1] / median(seconds[way, name]) for name in ("products", "short", "long")}
        budgets = budget_seconds(encoder.runtime, tokens, bundle.manifest.text, 3)
        path = bundle.variant(layer, way[1], way[0]).path
        row = {
            "runtime": way[0],
            "precision": way[1],
            "operations_per_second": rate,
            "share_short": rate["short"] / rate["products"],
            "share_long": rate["long"] / rate["products"],
            "peak_operations_per_second": peak(way[1]),
            "seconds": {name: seconds[way, name] for name in ("products", "short", "long")},
            "tokenizing_share_short": tokenizing / median(seconds[way, "short"]),
            "batching_share_short": batching / median(seconds[way, "short"]),
            "budget_seconds": {str(budget): median(taken) for budget, taken in budgets.items()},
            "profile_short": profiled(encoder, path, made[:: max(1, len(made) // 8)]),
        }
        print(json.dumps(row, indent=1), flush=True)
        rows.append(row)
        encoder.close()
    padded = sum(batch.input_ids.size for batch in made) / sum(len(item.ids) for item in tokens) - 1
    result = {"rounds": ROUNDS, "token_budget": TOKEN_BUDGET, "threads": threads, "padding_short": padded, "rows": rows}
    arguments.output.write_text(json.dumps(result | {"machine": machine()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
