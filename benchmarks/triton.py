"""How fast is Triton Inference Server with 32 clients at once, compared with the encoder?

    M2D_STSB=DIR python -m benchmarks.triton minilm.m2d -o benchmarks/results/triton.json

The server is the one that the tests unpack. It runs its Python backend with ONNX Runtime on the CPU. 32 clients send
requests over gRPC for 60 seconds. Each request has one sentence of STS-B test. The clients do this twice: with the
dynamic batcher of the exported model, and with ``max_batch_size`` 1. Clients and server share the cores.
``Encoder.encode`` of the same sentences is measured in the same rounds. Each round starts new servers. In the first
round every vector of the server is compared with the encoder's. The file also holds the seconds to write the cell's
graph, and to compare it with ``Encoder``. ``--seconds 2 --rounds 1`` is a quick trial.
"""

import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from benchmarks import common
from m2d_export import Bundle, Cell, Encoder
from m2d_export.deploy.graph import check_deployed, deployed_graph, save_graph
from m2d_export.deploy.triton.repository import Service, model_name, write_repository
from m2d_export.spec import OUTPUT
from m2d_export.vectors import FloatArray, cosine
from tests.support.tritonserver import Server, served

CLIENTS, SECONDS, WARM_UP_SECONDS = 32, 60.0, 3.0
BATCH_SIZES = (Service.max_batch_size, 1)


def request(client: grpc.InferenceServerClient, model: str, texts: Sequence[str]) -> FloatArray:
    """The server's vectors of some texts, in one request."""
    tensor = grpc.InferInput("TEXT", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()] for text in texts], dtype=np.object_))
    vectors: FloatArray = client.infer(model, [tensor]).as_numpy(OUTPUT)
    return vectors


def all_vectors(server: Server, model: str, texts: Sequence[str], step: int) -> FloatArray:
    """The server's vectors of all texts, with ``step`` texts a request."""
    with grpc.InferenceServerClient(server.grpc) as client:
        requests = [request(client, model, texts[start : start + step]) for start in range(0, len(texts), step)]
    return np.concatenate(requests)


def load(server: Server, model: str, texts: Sequence[str], seconds: float) -> dict[str, Any]:
    """Send requests from all clients; returns rate, latencies, failures and the mean batch."""
    outcomes: Counter[str] = Counter()
    latencies: list[float] = []
    lock, ends = threading.Lock(), time.monotonic() + seconds

    def work(number: int) -> None:
        own, taken, turn = Counter[str](), [], number
        with grpc.InferenceServerClient(server.grpc) as client:
            while time.monotonic() < ends:
                started = time.perf_counter()
                try:
                    request(client, model, texts[turn % len(texts) : turn % len(texts) + 1])
                    own["answered"] += 1
                    taken.append(time.perf_counter() - started)
                except InferenceServerException as error:
                    own[str(error.status())] += 1
                except Exception as error:  # otherwise the thread would end without a trace
                    own[type(error).__name__] += 1
                turn += CLIENTS
        with lock:
            outcomes.update(own)
            latencies.extend(taken)

    with grpc.InferenceServerClient(server.grpc) as observer:

        def counts() -> tuple[int, int]:
            found = observer.get_inference_statistics(model).model_stats[0]
            return found.inference_count, found.execution_count

        before, started = counts(), time.perf_counter()
        workers = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        spent, after = time.perf_counter() - started, counts()
    texts_done, calls = (end - start for start, end in zip(before, after, strict=True))
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    return {
        "per_second": outcomes.pop("answered") / spent,
        "failed": dict(outcomes),
        "mean_batch": texts_done / calls,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
    }


def graph_seconds(bundle: Bundle, cell: Cell, precision: str) -> tuple[float, float]:
    """Seconds to write the cell's graph, and then to compare it with ``Encoder``."""
    with tempfile.TemporaryDirectory() as folder:
        path, started = Path(folder) / "model.onnx", time.perf_counter()
        save_graph(deployed_graph(bundle, cell, precision), path)
        written = time.perf_counter()
        check_deployed(bundle, cell, path, precision)
        return written - started, time.perf_counter() - written


@dataclass
class Measured:
    """The rounds of one precision."""

    graphs: list[tuple[float, float]] = field(default_factory=list)
    encoder_per_second: list[float] = field(default_factory=list)
    loads: dict[int, list[dict[str, Any]]] = field(default_factory=lambda: {size: [] for size in BATCH_SIZES})
    least_cosine: float = 1.0

    def result(self) -> dict[str, Any]:
        """Medians of the rounds."""
        merged, single = (summary(rounds) for rounds in self.loads.values())
        encoded = median(self.encoder_per_second)
        written, compared = (median(seconds) for seconds in zip(*self.graphs, strict=True))
        return {
            "graph_written_seconds": written,
            "graph_compared_seconds": compared,
            "least_cosine_to_encoder": self.least_cosine,
            "merged": merged,
            "single": single,
            "merged_over_single": merged["per_second"] / single["per_second"],
            "encoder_per_second": encoded,
            "share_of_encoder": merged["per_second"] / encoded,
        }


def summary(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the rounds, and the failures of all rounds."""
    failed: Counter[str] = sum((Counter(row["failed"]) for row in rounds), Counter())
    middle = {key: median(row[key] for row in rounds) for key in ("per_second", "mean_batch", "p50_ms", "p99_ms")}
    return middle | {"failed": dict(failed), "rounds": [row["per_second"] for row in rounds]}


def measure_round(
    bundle: Bundle, precision: str, texts: Sequence[str], seconds: float, place: Path, found: Measured
) -> None:
    """One round of one precision: graph, encoder, server with merged requests, server with single requests."""
    cell, first = bundle.grid.full, not found.graphs
    found.graphs.append(graph_seconds(bundle, cell, precision))
    with Encoder(bundle, cell.layer, cell.dim, precision=precision) as encoder:
        expected = encoder.encode(texts)
        found.encoder_per_second.append(len(texts) / common.timed(lambda: encoder.encode(texts))())
    model = model_name(cell, precision)
    for size, loads in found.loads.items():
        repository = place / f"{precision}-{size}"
        if first:
            write_repository(bundle, [cell], repository, precision=precision, service=Service(max_batch_size=size))
        with served(repository, place / "server.log") as server:
            if first:
                vectors = all_vectors(server, model, texts, min(size, CLIENTS))
                found.least_cosine = min(found.least_cosine, float(cosine(vectors, expected).min()))
            load(server, model, texts, WARM_UP_SECONDS)
            loads.append(load(server, model, texts, seconds))
        print(len(loads), precision, size, json.dumps(loads[-1]), flush=True)


def main() -> None:
    """Measure, write."""
    parser = common.parser("triton", __doc__, rounds=3)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of each load; default {SECONDS:.0f}")
    arguments = parser.parse_args()
    bundle, texts = Bundle.open(arguments.bundle), list(common.stsb_test(parser).texts)
    measured = {precision: Measured() for precision in common.fp32_and_int8(bundle)}
    with tempfile.TemporaryDirectory() as place:
        for _ in range(arguments.rounds):
            for precision, found in measured.items():
                measure_round(bundle, precision, texts, arguments.seconds, Path(place), found)
    results = {
        "cell": str(bundle.grid.full),
        "clients": CLIENTS,
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "texts": len(texts),
        "bundle": bundle.id,
        "precisions": {precision: found.result() for precision, found in measured.items()},
    }
    common.write_results(arguments, results)


if __name__ == "__main__":
    main()
