"""How close is ``encode`` to the speed limit of the machine?

    M2D_STSB=DIR python -m benchmarks.ceiling minilm.m2d -o benchmarks/results/ceiling.json

The limit is the speed of a graph that has only the matrix products (matmuls) of two layers. It has the shapes of the
encoder at the default token budget. It runs in the same runtime, on as many parallel streams as ``encode``. The int8
matmuls are quantized by the same quantizer, so they scale and round their inputs. The share is the useful operations
per second of ``encode``, divided by the operations per second of this graph. Useful operations are those of real
tokens: 24 H^2 + 4 n H for each token of each layer, in a text of n tokens (a multiply-add is two operations, the inner
width is 4 H). The file also shows where the rest of the time goes: by token budget, by stage, and by kind of operation
(from the runtime's own profiler).
"""

import json
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

from benchmarks import common
from m2d_export import Bundle, Encoder
from m2d_export.graphs.int8 import int8_graphs
from m2d_export.host.machine import cores, flags
from m2d_export.runtimes.onnxrt import session_options
from m2d_export.runtimes.openvino import SHORT
from m2d_export.runtimes.tuning import budget_seconds
from m2d_export.spec import Precision
from m2d_export.text.batches import TOKEN_BUDGET, Batch, batches

LAYERS, CALLS = 2, 32
KINDS = 6  # of operations that a profile names
Work = tuple[Callable[[], Any], float]  # a call and its operations


def matmul_model(width: int, precision: str) -> bytes:
    """A model of the matmuls of ``LAYERS`` layers, one after the other: x (tokens, width) to (tokens, width)."""
    chance = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    joined = precision == Precision.INT8  # int8 graphs have one matmul for query, key and value
    attention = [(width, 3 * width)] if joined else [(width, width)] * 3
    shapes = [*attention, (width, width), (width, 4 * width), (4 * width, width)] * LAYERS
    for place, (rows, columns) in enumerate(shapes):
        values = chance.standard_normal((rows, columns), dtype=np.float32) / np.float32(rows**0.5)
        weights.append(onnx.numpy_helper.from_array(values, f"w{place}"))
        nodes.append(onnx.helper.make_node("MatMul", [last, f"w{place}"], [f"y{place}"]))
        last = f"y{place}"
        if columns == 3 * width:  # the next matmul takes a third of it
            nodes.append(onnx.helper.make_node("Slice", [last, "start", "end", "axis"], [f"third{place}"]))
            last = f"third{place}"
    bounds = {"start": 0, "end": width, "axis": 1} if joined else {}
    weights += [onnx.numpy_helper.from_array(np.array([number]), name) for name, number in bounds.items()]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", width]) for name in ("x", last)]
    graph = onnx.helper.make_graph(nodes, "matmuls", ends[:1], ends[1:], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    if precision == Precision.INT8:
        samples = [{"x": chance.standard_normal((64, width), dtype=np.float32)} for _ in range(8)]
        graphs = int8_graphs(ir.serde.deserialize_model(model), Precision.INT8, samples)
        model = ir.serde.serialize_model(graphs["default"])
    written: bytes = model.SerializeToString()
    return written


def session(model: bytes | str, profile: str | None) -> onnxruntime.InferenceSession:
    """A session like one stream of the runtime. ``profile`` is where it writes its profile, if anywhere."""
    options = session_options(threads=1)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def bare_matmuls(width: int, runtime: str, precision: str, threads: int) -> Work:
    """A call that runs only matmuls, and the number of its operations."""
    model = matmul_model(width, precision)
    x = np.random.default_rng(1).standard_normal((TOKEN_BUDGET, width), dtype="f4")
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


def useful_operations(bundle: Bundle, texts: list[str]) -> float:
    """The operations that ``texts`` need at full depth, without padding."""
    lengths = np.array([len(item.ids) for item in bundle.tokenizer.encode(texts)], dtype=float)
    width = bundle.grid.width
    return float(bundle.grid.depth * (24 * width**2 * lengths + 4 * width * lengths**2).sum())


def profile(runtime: str, path: Path, made: list[Batch]) -> dict[str, float]:
    """Share of a graph's time by kind of operation, from the runtime's own profiler; the smallest are "others"."""
    spent: Counter[str] = Counter()
    if runtime == "onnxrt":
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


def arithmetic_peak(precision: str) -> float | None:
    """Operations a second that two vector units a core could do at the stated clock; None if that is not known."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    mhz = next((float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")), None)
    lanes = 16 if "avx512f" in flags() else 8 if "avx2" in flags() else None
    if mhz is None or lanes is None:
        return None
    zen4 = any(line.split(":")[1].strip() == "25" for line in lines if line.startswith("cpu family"))
    lanes = min(lanes, 8) if zen4 else lanes  # AMD's family 25 takes two cycles for an instruction of 512 bits
    # In 32 bits: four int8 multiply-adds in one instruction with VNNI, in two without (multiply in pairs, then widen).
    each = 1 if precision == Precision.FP32 else 4 if flags() & {"avx512_vnni", "avx_vnni"} else 2
    return cores() * mhz * 1e6 * 2 * 2 * lanes * each  # two units, and a multiply-add is two operations


def main() -> None:
    """Measure, profile, write."""
    parser = common.parser("ceiling", __doc__, rounds=5)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--limit", type=common.positive, help="take only this many sentences, for a trial")
    arguments = parser.parse_args()
    bundle, threads = Bundle.open(arguments.bundle), cores()
    short = common.sentences(common.stsb_test(parser))[: arguments.limit]
    texts = {"short": short, "long": common.paragraphs(short)}
    setups = [(runtime, kind) for runtime in ("onnxrt", "openvino") for kind in common.fp32_and_int8(bundle)]
    encoders = {
        setup: Encoder(bundle, bundle.grid.depth, runtime=setup[0], precision=setup[1], threads=threads)
        for setup in setups
    }
    work: dict[tuple[tuple[str, str], str], Work] = {}
    for setup, encoder in encoders.items():
        work[setup, "matmuls"] = bare_matmuls(bundle.grid.width, *setup, threads)
        for name, own in texts.items():
            work[setup, name] = (lambda encode=encoder.encode, own=own: encode(own), useful_operations(bundle, own))
    turns = {key: common.timed(call) for key, (call, _) in work.items()}
    seconds = common.take_turns(turns, arguments.rounds, rest=0.2)
    started = time.perf_counter()
    tokens = bundle.tokenizer.encode(short)
    tokenized = time.perf_counter()
    made = list(batches(tokens, bundle.manifest.text))
    tokenizing, batching = tokenized - started, time.perf_counter() - tokenized
    rows = []
    for (runtime, precision), encoder in encoders.items():
        spent = {name: seconds[(runtime, precision), name] for name in ("matmuls", *texts)}
        rates = {name: work[(runtime, precision), name][1] / median(own) for name, own in spent.items()}
        budgets = budget_seconds(encoder.runtime, tokens, bundle.manifest.text, 3)
        path = bundle.variant(bundle.grid.depth, precision, runtime).path
        row = {
            "runtime": runtime,
            "precision": precision,
            "operations_per_second": rates,
            "share_short": rates["short"] / rates["matmuls"],
            "share_long": rates["long"] / rates["matmuls"],
            "peak_operations_per_second": arithmetic_peak(precision),
            "seconds": spent,
            "tokenizing_share_short": tokenizing / median(spent["short"]),
            "batching_share_short": batching / median(spent["short"]),
            "budget_seconds": {str(budget): median(taken) for budget, taken in budgets.items()},
            "profile_short": profile(runtime, path, made[:: max(1, len(made) // 8)]),
        }
        print(json.dumps(row, indent=1), flush=True)
        rows.append(row)
        encoder.close()
    padded = sum(batch.input_ids.size for batch in made) / sum(len(item.ids) for item in tokens) - 1
    results = {
        "rounds": arguments.rounds,
        "token_budget": TOKEN_BUDGET,
        "threads": threads,
        "padding_short": padded,
        "rows": rows,
    }
    common.write_results(arguments, results)


if __name__ == "__main__":
    main()
