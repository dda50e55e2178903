"""A cell in Triton Inference Server: what shipping it takes, and how it bears 32 clients at once.

    M2D_STSB=path/to/stsb python -m benchmarks.triton minilm.m2d -o benchmarks/results/triton.json

For each precision of the bundle, at full depth and width: the seconds that its graph takes to be written, and to be
compared with ``Encoder``; then, in the server that the tests unpack (CPU, Python backend, ONNX Runtime inside), 32
clients with one sentence of STS-B test a request, over gRPC, for 60 seconds, once with the dynamic batcher as it is set
up and once with ``max_batch_size`` 1; and ``Encoder.encode`` of the same sentences in this process. All take turns,
three times, the server started anew for each; clients share the server's cores. In the first round every sentence's
vector is compared with the encoder's. Three rounds of two precisions take 20 minutes; ``--seconds 2 --rounds 1`` tries
it out.
"""

import argparse
import json
import os
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

from m2d_export import Bundle, Cell, Encoder
from m2d_export.bench.sts import load_pairs
from m2d_export.deploy.graph import check_deployed, deployed_graph, save_graph
from m2d_export.deploy.triton.repository import Service, model_name, write_repository
from m2d_export.host.machine import machine
from m2d_export.vectors import FloatArray, cosine
from tests.support.tritonserver import Server, served

CLIENTS, SECONDS, ROUNDS, WARM = 32, 60.0, 3, 3.0
BATCHES = (Service.max_batch_size, 1)


def asked(client: grpc.InferenceServerClient, model: str, texts: Sequence[str]) -> FloatArray:
    """The server's vectors of some texts, in one request."""
    tensor = grpc.InferInput("TEXT", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()] for text in texts], dtype=np.object_))
    vectors: FloatArray = client.infer(model, [tensor]).as_numpy("sentence_embedding")
    return vectors


def vectors_of(server: Server, model: str, texts: Sequence[str], step: int) -> FloatArray:
    """The server's vectors of all texts, ``step`` of them a request."""
    with grpc.InferenceServerClient(server.grpc) as client:
        requests = [asked(client, model, texts[start : start + step]) for start in range(0, len(texts), step)]
    return np.concatenate(requests)


def load(server: Server, model: str, texts: Sequence[str], seconds: float) -> dict[str, Any]:
    """Ask for one text after another from every client; what was answered, how fast, and in which batches."""
    outcomes: Counter[str] = Counter()
    latencies: list[float] = []
    lock, ends = threading.Lock(), time.monotonic() + seconds

    def work(number: int) -> None:
        own, taken, turn = Counter[str](), [], number
        with grpc.InferenceServerClient(server.grpc) as client:
            while time.monotonic() < ends:
                started = time.perf_counter()
                try:
                    asked(client, model, texts[turn % len(texts) : turn % len(texts) + 1])
                    own["answered"] += 1
                    taken.append(time.perf_counter() - started)
                except InferenceServerException as error:
                    own[str(error.status())] += 1
                except Exception as error:  # or this client would end, unseen
                    own[type(error).__name__] += 1
                turn += CLIENTS
        with lock:
            outcomes.update(own)
            latencies.extend(taken)

    with grpc.InferenceServerClient(server.grpc) as observer:

        def counted() -> tuple[int, int]:
            found = observer.get_inference_statistics(model).model_stats[0]
            return found.inference_count, found.execution_count

        before, started = counted(), time.perf_counter()
        workers = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        spent, after = time.perf_counter() - started, counted()
    texts_done, calls = (end - start for start, end in zip(before, after, strict=True))
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    return {
        "per_second": outcomes.pop("answered") / spent,
        "failed": dict(outcomes),
        "mean_batch": texts_done / calls,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
    }


def specialised(bundle: Bundle, cell: Cell, precision: str) -> tuple[float, float]:
    """Seconds until the cell's graph is written, and then until it has been compared with ``Encoder``."""
    with tempfile.TemporaryDirectory() as folder:
        path, started = Path(folder) / "model.onnx", time.perf_counter()
        save_graph(deployed_graph(bundle, cell, precision), path)
        written = time.perf_counter()
        check_deployed(bundle, cell, path, precision)
        return written - started, time.perf_counter() - written


@dataclass
class Measured:
    """What the rounds gave in one precision."""

    graphs: list[tuple[float, float]] = field(default_factory=list)
    encoder_per_second: list[float] = field(default_factory=list)
    loads: dict[int, list[dict[str, Any]]] = field(default_factory=lambda: {size: [] for size in BATCHES})
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
    """Medians of the rounds; failures of all of them."""
    failed: Counter[str] = sum((Counter(row["failed"]) for row in rounds), Counter())
    middle = {key: median(row[key] for row in rounds) for key in ("per_second", "mean_batch", "p50_ms", "p99_ms")}
    return middle | {"failed": dict(failed), "rounds": [row["per_second"] for row in rounds]}


def turn(bundle: Bundle, precision: str, texts: Sequence[str], seconds: float, place: Path, found: Measured) -> None:
    """One round of one precision: its graph, its encoder, its server with merged requests and with single ones."""
    cell, first = bundle.grid.full, not found.graphs
    found.graphs.append(specialised(bundle, cell, precision))
    with Encoder(bundle, cell.layer, cell.dim, precision=precision) as encoder:
        expected = encoder.encode(texts)
        started = time.perf_counter()
        encoder.encode(texts)
        found.encoder_per_second.append(len(texts) / (time.perf_counter() - started))
    model = model_name(cell, precision)
    for size, loads in found.loads.items():
        repository = place / f"{precision}-{size}"
        if first:
            write_repository(bundle, [cell], repository, precision=precision, service=Service(max_batch_size=size))
        with served(repository, place / "server.log") as server:
            if first:
                vectors = vectors_of(server, model, texts, min(size, CLIENTS))
                found.least_cosine = min(found.least_cosine, float(cosine(vectors, expected).min()))
            load(server, model, texts, WARM)
            loads.append(load(server, model, texts, seconds))
        print(len(loads), precision, size, json.dumps(loads[-1]), flush=True)


def main() -> None:
    """Take turns, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each load: fewer to try it out")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="fewer to try it out")
    arguments = parser.parse_args()
    folder = os.environ.get("M2D_STSB")
    if not folder:
        parser.error("set M2D_STSB to a folder with STS-B's test.csv")
    bundle = Bundle.open(arguments.bundle)
    texts = list(load_pairs(str(Path(folder) / "test.csv")).texts)
    precisions = sorted({entry.precision for entry in bundle.manifest.variants} & {"fp32", "int8"})
    measured = {precision: Measured() for precision in precisions}
    with tempfile.TemporaryDirectory() as place:
        for _ in range(arguments.rounds):
            for precision, found in measured.items():
                turn(bundle, precision, texts, arguments.seconds, Path(place), found)
    rows = {precision: found.result() for precision, found in measured.items()}
    result = {
        "cell": str(bundle.grid.full),
        "clients": CLIENTS,
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "texts": len(texts),
        "bundle": bundle.id,
        "precisions": rows,
        "machine": machine(),
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for precision, row in rows.items():
        written, compared = row["graph_written_seconds"], row["graph_compared_seconds"]
        print(
            f"{precision}: {row['merged_over_single']:.2f} x single, {row['share_of_encoder']:.0%} of the encoder, "
            f"mean batch {row['merged']['mean_batch']:.1f}, failed {row['merged']['failed'] or 'none'}; "
            f"graph written in {written:.2f} s, compared in {compared:.2f} s"
        )


if __name__ == "__main__":
    main()
